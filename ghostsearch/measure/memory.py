"""Peak activation memory of one forward, by a liveness analysis of the operators it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from ghostsearch.graph.capture import tensors


@dataclass(frozen=True)
class Step:
    """One operator: the buffers it reads, those it makes, and whether a result may take the place of what it
    reads.
    """

    operator: str
    reads: frozenset[int]
    makes: tuple[int, ...]
    in_place: bool


class LivenessMode(TorchDispatchMode):
    """Records which buffers each operator reads and makes while it is active.

    Views share their buffer. Parameters and buffers of the model are weights, not activations.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.bytes: list[int] = []
        self._numbers = WeakIdKeyDictionary()
        for weight in (*model.parameters(), *model.buffers()):
            self._numbers[weight.untyped_storage()] = -1
        self.inputs = frozenset(self._number(t) for t in tensors(example))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = frozenset(self._number(t) for t in tensors((args, kwargs or {}))) - {-1}
        known = len(self.bytes)
        result = func(*args, **(kwargs or {}))
        makes = tuple(sorted({n for t in tensors(result) if (n := self._number(t)) >= known}))
        self.steps.append(Step(str(func), reads, makes, may_overwrite(func)))
        return result

    def peak_bytes(self, outputs: Any) -> int:
        """Largest sum of live buffers over the recorded steps; `outputs` live to the end.

        A buffer lives from the step that makes it to the last that reads it. Elementwise operators (and
        BatchNorm, which folds into the convolution before it) write over an input of the same size that
        nothing reads afterwards, and results that nothing reads (a max pooling's indices) are not made, as
        inference runtimes plan it.
        """
        size = list(self.bytes)
        ends = {self._number(t) for t in tensors(outputs)}
        for n in set(range(len(size))) - ends - {n for step in self.steps for n in step.reads}:
            size[n] = 0
        last = {n: i for i, step in enumerate(self.steps) for n in (*step.makes, *step.reads)}
        last.update(dict.fromkeys(ends, len(self.steps)))
        live = sum(size[n] for n in self.inputs if n in last)
        peak = live
        for i, step in enumerate(self.steps):
            made = sum(size[n] for n in step.makes)
            dying = [n for n in {*step.reads, *step.makes} if last[n] == i]
            largest = max((size[n] for n in step.makes), default=0)
            reused = step.in_place and any(size[n] == largest for n in dying if n in step.reads)
            peak = max(peak, live + made - (largest if reused else 0))
            live += made - sum(size[n] for n in dying)
        return peak

    def _number(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        number = self._numbers.get(storage)
        if number is None:
            number = self._numbers[storage] = len(self.bytes)
            self.bytes.append(storage.nbytes())
        return int(number)


def may_overwrite(func: Any) -> bool:
    """Whether an operator's result may take the memory of its input: elementwise ones, and norms that
    fold.
    """
    return torch.Tag.pointwise in func.tags or "batch_norm" in str(func)


def weight_bytes(weights: Iterable[Tensor]) -> int:
    """Bytes of some tensors as stored, tied ones once."""
    seen = {id(w): w.numel() * w.element_size() for w in weights}
    return sum(seen.values())
