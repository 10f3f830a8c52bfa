"""PyTorch's eager mode on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghostsearch.graph.capture import copied, memory_order, moved, to_order
from ghostsearch.measure.devices.base import Device, Prepared, refusals
from ghostsearch.measure.inputs import Flat, flat_inputs
from ghostsearch.measure.setting import Setting


class TorchPrepared(Prepared):
    """A callable that takes flat tensors and returns a tuple of tensors."""

    def __init__(self, function: Any, inputs: tuple[Tensor, ...]) -> None:
        self.function = function
        self.inputs = inputs

    def run(self) -> Any:
        with torch.inference_mode():
            return self.function(*self.inputs)

    def outputs(self) -> tuple[np.ndarray, ...]:
        return tuple(as_array(y) for y in self.run())


class TorchCpu(Device):
    """Eager PyTorch, the weights and the input in channels_last order, as PyTorch advises for convolutions, unless told
    otherwise or where a model does not run in it.
    """

    name = "torch:cpu"
    packages = ("torch",)
    precisions = ("float32", "bfloat16")

    def check(self) -> None:
        """PyTorch is always there."""

    @contextmanager
    def session(self, threads: int) -> Iterator[None]:
        """PyTorch's intra-op threads, which are global to the process."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def prepare(self, model: nn.Module, example: Any, setting: Setting) -> Prepared:
        """A copy in eval mode, in the precision asked for."""
        with refusals(self.name):
            flat, inputs = flat_copy(model, example, setting)
            prepared = TorchPrepared(flat, inputs)
            prepared.run()
        return prepared


def flat_copy(
    model: nn.Module, example: Any, setting: Setting, *, device: str = "cpu"
) -> tuple[Flat, tuple[Tensor, ...]]:
    """A frozen copy in eval mode that takes flat tensors, and the example's tensors, on a device, in the setting's
    precision and memory order.
    """
    dtype = getattr(torch, setting.precision)
    example = moved(example, device)
    flat = Flat(copied(model), example).to(device, dtype).eval().requires_grad_(False)
    inputs = tuple(t.to(dtype) if t.is_floating_point() else t for t in flat_inputs(example))
    order = torch.channels_last if setting.channels_last else torch.contiguous_format
    to_order(flat, order)
    if setting.channels_last:
        order = memory_order(inputs, flat)
        to_order(flat, order)
    return flat, tuple(t.to(memory_format=order) if t.dim() == 4 else t for t in inputs)


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor as a NumPy array; half precisions become float32, which NumPy has."""
    tensor = tensor.detach().cpu()
    array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array
