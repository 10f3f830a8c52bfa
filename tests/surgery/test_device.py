"""A fit stays on the device that it is given: nothing of one device meets anything of another."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ghostsearch.blocks.ghost import GhostConv
from ghostsearch.fits.problem import FitSettings
from ghostsearch.graph.widths import width_plan
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.fit_width import fitted_channels
from ghostsearch.surgery.sites import find_sites
from tests.labelled_device import ELSEWHERE, ElsewhereMode


def test_mixing_devices_is_noticed():
    with ElsewhereMode() as mode:
        there = torch.randn(3).to(ELSEWHERE)
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.randn(3)
        assert float((there * 2).cpu().sum()) == pytest.approx(2 * float(there.sum()))
    assert mode.left["_to_copy"] == 3


class Around(nn.Sequential):
    """A residual branch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + super().forward(x))


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def residual() -> nn.Module:
    branch = Around(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), branch,
        nn.Conv2d(16, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "architecture", "steps"),
    [
        (small, Architecture.of({"0": "ghost(ratio=2, kernel=3)", "3": "ghost(ratio=4)", "6": "ghost(ratio=2)"}), 0),
        (small, Architecture.of({"3": "lowrank(rank=0.5)", "6": "lowrank(rank=0.5)"}), 0),
        (small, Architecture.of({"3": "ghost(ratio=2, kernel=3)"}, {"0": "width(0.5)"}), 0),
        (residual, Architecture.of({"3.0": "drop"}), 0),
        (small, Architecture.of({"6": "lowrank(rank=0.5)"}), 2),
    ],
    ids=["ghost", "lowrank", "width", "drop", "distilled"],
)
def test_a_conversion_stays_on_its_device_and_gives_the_same(make, architecture, steps):
    torch.manual_seed(0)
    net, images = make().eval(), torch.randn(32, 3, 9, 9)
    anatomy = find_sites(net, images[:1], include_first=True)

    def fitted(device: str) -> nn.Module:
        settings = FitSettings(compute_device=device, rows=(300, 300), metric_images=8)
        statistics = BaselineStatistics(net, [images[:24]], settings, judging=[images[24:]])
        return convert(
            net, architecture, example=images[:1], anatomy=anatomy, statistics=statistics, width_multiple=4,
            distill_steps=steps,
        )  # fmt: skip

    with ElsewhereMode() as mode:
        there = fitted(str(ELSEWHERE)).state_dict()
    made = fitted("cpu")
    here = made.state_dict()
    assert mode.computed > 300
    # The weights leave once, and a ghost's gain of each channel by each other, of which the host chooses.
    ghosts = [b.out_channels for b in made.modules() if isinstance(b, GhostConv)]
    assert sum(mode.left.values()) <= sum(value.numel() for value in here.values()) + sum(n * n + n for n in ghosts)
    for name, value in here.items():
        torch.testing.assert_close(there[name], value, rtol=2e-3, atol=2e-3)


def test_the_channels_of_a_width_are_chosen_on_the_device():
    torch.manual_seed(0)
    net, images = small().eval(), torch.randn(24, 3, 9, 9)
    widths = Architecture.of({}, {"3": "width(0.5)"}).groups
    plan = width_plan(net, images[:1])

    def chosen(device: str) -> dict[str, list[int]]:
        return fitted_channels(BaselineStatistics(net, [images], FitSettings(compute_device=device)), widths, plan, 8)

    with ElsewhereMode():
        there = chosen(str(ELSEWHERE))
    assert there == chosen("cpu")


class Leaving(TorchDispatchMode):
    """Counts the numbers that copies take from a GPU to the CPU."""

    def __init__(self):
        super().__init__()
        self.numbers: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [x for x in args if isinstance(x, torch.Tensor)]
        into = args[0] if func._schema.name == "aten::copy_" else result
        if isinstance(into, torch.Tensor) and not into.is_cuda and any(x.is_cuda for x in given):
            self.numbers.append(into.numel())
        return result


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("distill_steps", [0, 4])
def test_on_a_gpu_no_map_leaves_it_and_the_model_is_the_same(distill_steps):
    torch.manual_seed(0)
    net, images = small().eval(), torch.randn(96, 3, 9, 9)
    architecture = Architecture.of(
        {"0": "ghost(ratio=2, kernel=3)", "3": "ghost(ratio=2, kernel=3)", "6": "lowrank(rank=0.5)"},
        {"0": "width(0.5)"},
    )

    def fitted(device: str, steps: int) -> nn.Module:
        statistics = BaselineStatistics(
            net, [images[:64]], FitSettings(compute_device=device, rows=(300, 300)), judging=[images[64:]]
        )
        return convert(
            net, architecture, example=images[:1], calibration=[images[:64]], statistics=statistics, width_multiple=4,
            distill_steps=steps,
        )  # fmt: skip

    with Leaving() as leaving:
        there = fitted("cuda", distill_steps)
    # The fitted weights leave, copies that judge them with them, and one gain of each channel by another a ghost.
    weights = sum(p.numel() for p in there.state_dict().values())
    assert max(leaving.numbers) <= max(24 * 24, *(p.numel() for p in there.parameters()))
    assert sum(leaving.numbers) <= 4 * weights + 3 * 24 * 24
    assert not any(p.is_cuda for p in there.parameters())
    if not distill_steps:
        # Low-rank factors are known but for their signs: what counts is what they compute together.
        with torch.no_grad():
            torch.testing.assert_close(there(images), fitted("cpu", 0)(images), rtol=2e-2, atol=2e-2)
