"""Proves in seconds that a device works: right outputs, threads kept, a latency."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.base import Device, refusals
from ghostsearch.measure.devices.table import get_device
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting

EQUAL = 1e-3
"""Difference, relative to the largest output, that the order of float32 sums explains."""
TIMING_S = 1.5


@dataclass(frozen=True)
class SelfTest:
    """What a device's self-test found."""

    device: str
    passed: bool
    detail: str
    difference: float | None
    """Largest difference from the module's outputs, relative to the largest."""
    latency_s: float | None
    """Of the test model (3×3 convolutions on 32×32 maps)."""
    seconds: float


def self_test(name: str) -> SelfTest:
    """Run a small ghost-like network on a device: outputs equal to the module's, latency measured, threads checked.

    Never raises for a device that does not work: the result says why.
    """
    start = time.perf_counter()
    try:
        device = get_device(name)
        model, example = probe_model()
        with refusals(name):
            difference = output_difference(device, model, example)
            setting = Setting(time_limit=TIMING_S)
            found = measure_latency({"probe": model}, example, device=device, setting=setting)["probe"]
    except GhostsearchError as error:
        return SelfTest(name, False, str(error), None, None, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    if difference > device.tolerance:
        detail = f"its outputs differ from the module's by {difference:.1e} of the largest one"
        return SelfTest(name, False, detail, difference, found.median_s, seconds)
    return SelfTest(name, True, _detail(device, difference), difference, found.median_s, seconds)


def _detail(device: Device, difference: float) -> str:
    same = "outputs equal the module's" if difference < EQUAL else f"outputs within {difference:.0%} of the module's"
    return f"{same}; {remark}" if (remark := device.remark()) else same


def probe_model() -> tuple[nn.Module, Tensor]:
    """A network with the operators that the choices bring (grouped convolutions, concatenation, norms), and an
    input.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), Doubled(16), nn.BatchNorm2d(32), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(32, 10),
        )  # fmt: skip
        randomise_statistics(model)
        return model.eval(), torch.randn(1, 3, 32, 32)


class Doubled(nn.Module):
    """The input's maps and a depthwise convolution of them: (N, C, H, W) -> (N, 2C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cheap = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.cheap(x)], dim=1)


def randomise_statistics(model: nn.Module) -> None:
    """Random BatchNorm statistics, in place: an untrained network puts out about 0, and equal zeros prove nothing."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.2)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 1.5)


def output_difference(device: Device, model: nn.Module, example: Tensor) -> float:
    """Largest difference of a device's outputs from the module's, relative to the module's largest; inf for other
    shapes.
    """
    with torch.inference_mode():
        wanted = model(example).numpy()
    with device.session(1):
        prepared = device.prepare(model, example, Setting())
        outputs = prepared.outputs()
        prepared.close()
    if len(outputs) != 1 or outputs[0].shape != wanted.shape:
        return float("inf")
    return float(np.abs(outputs[0] - wanted).max() / np.abs(wanted).max())
