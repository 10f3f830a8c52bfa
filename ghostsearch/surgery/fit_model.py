"""Walks a converted net in its own order of computation and fits layer after layer to the baseline's values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.blocks.base import Block
from ghostsearch.busy import breathe
from ghostsearch.graph.flow import (
    LAYERS,
    Place,
    find_places,
    fit_order,
    input_weight,
    readers_of,
    trace_graph,
    without_inplace,
)
from ghostsearch.graph.replay import Replay, Rerun, Values, watched_places
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.baseline_pass import BaselinePass
from ghostsearch.surgery.fit_block import Fitted, Problem, fit_block
from ghostsearch.surgery.fit_ghost import channel_means
from ghostsearch.surgery.fit_layer import FitSettings, FreeFit, Target, fit_filters
from ghostsearch.surgery.shelf import kept

Progress = Callable[[int, int, str], None]


class ModelFit:
    """One pass of closed-form fits.

    teacher: the baseline; narrow: the same with its widths cut; student: the narrow net with blocks, fitted in place;
    channels: per layer whose outputs were cut, the teacher's positions that stay; baseline_pass: the baseline's values
    on the batches, stopped before the first change.
    """

    def __init__(
        self, teacher: nn.Module, narrow: nn.Module, student: nn.Module, batches: Sequence[Any],
        channels: Mapping[str, Tensor], settings: FitSettings, baseline_pass: BaselinePass | None = None,
    ) -> None:  # fmt: skip
        self.teacher, self.student = without_inplace(teacher.eval()), without_inplace(student.eval())
        self.narrow, self.settings, self.channels = narrow, settings, dict(channels)
        self.baseline_values: Values
        self.own_values: Values
        self.baseline_pass = baseline_pass if baseline_pass is not None and baseline_pass.traced else None
        self.first: str | None = None
        if self.baseline_pass:
            self.places = self.baseline_pass.places
            self.baseline_values = self.baseline_pass.replay.fork(self.teacher)
            self.own_values = self.baseline_pass.replay.fork(self.student)
            return
        graph = trace_graph(self.teacher, batches[0][:2]) if isinstance(batches[0], Tensor) else None
        if graph is not None:
            self.places = find_places(self.teacher, graph)
            self.baseline_values = Replay(self.teacher, graph, batches)
            self.own_values = Replay(self.student, graph, batches)
        else:
            self.places = watched_places(self.teacher, batches[0])
            self.baseline_values, self.own_values = Rerun(self.teacher, batches), Rerun(self.student, batches)

    def run(self, architecture: Architecture, progress: Progress | None = None) -> None:
        """Fit every layer behind the first change."""
        # Layers of dropped branches have given way to the identity; what read them reads something else now.
        gone = {path for path in self.places if not isinstance(self.student.get_submodule(path), LAYERS)}
        changed = [*architecture.sites, *self.channels, *gone]
        order = fit_order(self.places, changed)
        self.first = order[0] if order else None
        if self.settings.reach is not None:
            last = max((i for i, path in enumerate(order) if path in changed), default=-1)
            order = order[: last + 1 + self.settings.reach]
        with torch.no_grad():
            for done, path in enumerate(order, 1):
                breathe()
                if path not in gone:
                    self._fit(self.places[path])
                if progress:
                    progress(done, len(order), f"fitting {path}")

    def _fit(self, place: Place) -> None:
        new: Any = self.student.get_submodule(place.path)
        old: Any = self.narrow.get_submodule(place.path)
        norm: Any = self.student.get_submodule(place.norm) if place.norm else None
        unit = torch.ones(len(old.weight))
        if norm is not None:
            unit = norm.weight / (norm.running_var + norm.eps).sqrt()
        prior = old.weight * unit.reshape(-1, *[1] * (old.weight.dim() - 1))
        inputs = self.own_values.get(place.source)
        target = self._target(place, len(old.weight))
        intercept = norm is not None or old.bias is not None
        free = self._free(place, lambda: fit_filters(old, prior, inputs, target, self.settings, intercept=intercept))
        weight, offset = free.weight, free.offset
        if isinstance(new, Block):
            found = readers_of(place, self.student)
            reorder = found is not None or self.settings.gather
            problem = Problem(free, inputs, target, self.settings, intercept, reorder, biased=norm is None)
            fitted = fit_block(new, problem)
            if fitted is None:
                return
            offset = self._ordered(place, new, fitted, found)
        else:
            new.weight.copy_(weight)
            if new.bias is not None:
                new.bias.zero_()
                if norm is None:
                    new.bias.copy_(offset)
        if norm is None:
            return
        scale = self._scale([kept(new(x)) for x in inputs], norm)
        if isinstance(new, Block):
            # The block's own order of channels, where an index buffer stands behind it.
            new.scale_outputs(scale if new.order is None else scale[torch.argsort(new.order)])
        else:
            new.weight.mul_(scale.reshape(-1, *[1] * (new.weight.dim() - 1)))
        set_norm(norm, [kept(new(x)) for x in inputs], scale, offset)

    def _ordered(self, place: Place, new: Block, fitted: Fitted, found: tuple[list[str], list[str]] | None) -> Tensor:
        """The block's constants as its outputs stand, after its order is folded into the readers or put back."""
        if fitted.order is None:
            return fitted.offset
        if found is not None:
            self._fold(place, fitted.order, *found)
            return fitted.offset
        new.order = torch.argsort(fitted.order)
        return fitted.offset[new.order]

    def _free(self, place: Place, fit: Callable[[], FreeFit]) -> FreeFit:
        """The unconstrained fit; all choices of a site share it where nothing before the site has changed."""
        shared = isinstance(self.student.get_submodule(place.path), Block)
        if self.baseline_pass is None or self.channels or place.path != self.first or not shared:
            return fit()
        known = self.baseline_pass.free
        if known is None or known[0] != place.path:
            self.baseline_pass.free = known = (place.path, fit())
        return known[1]

    def _target(self, place: Place, outputs: int) -> Target:
        totals = self.baseline_values.get(place.out)
        shortcuts = None if place.shortcut is None else self.own_values.get(place.shortcut)
        chosen = self.channels.get(place.path)
        if chosen is not None:
            totals = [kept(t[:, chosen]) for t in totals]
        return Target(totals, shortcuts, place.relu, self._importance(place, outputs))

    def _importance(self, place: Place, outputs: int) -> Tensor:
        found = readers_of(place, self.student)
        weight = torch.zeros(outputs)
        for path in found[1] if found else ():
            reader: Any = self.narrow.get_submodule(path)
            norm = self.places[path].norm if path in self.places else None
            filters: Any = reader.weight.detach()
            if norm:
                bn: Any = self.student.get_submodule(norm)
                filters = filters * (bn.weight / (bn.running_var + bn.eps).sqrt()).reshape(
                    -1, *[1] * (filters.dim() - 1)
                )
            energy = (
                (filters if getattr(reader, "transposed", False) else filters.transpose(0, 1))
                .flatten(1)
                .square()
                .sum(1)
            )
            if len(energy) != outputs:
                return torch.ones(outputs)
            weight += energy
        return weight / weight.mean() if found and weight.mean() > 0 else torch.ones(outputs)

    def _fold(self, place: Place, order: Tensor, through: list[str], ends: list[str]) -> None:
        """Reorder what stands behind a layer, so that its block may make the channels in an order of its own."""
        for path in [place.path, *through]:
            known = self.channels.get(path)
            self.channels[path] = order if known is None else known[order]
        for path in through:
            module = self.student.get_submodule(path)
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                if tensor.dim():
                    tensor.copy_(tensor[order])
            if not isinstance(module, _BatchNorm):
                narrow = self.narrow.get_submodule(path)
                for parameter in narrow.parameters(recurse=False):
                    parameter.copy_(parameter[order])
        for path in ends:
            both: list[Any] = [self.student.get_submodule(path), self.narrow.get_submodule(path)]
            for module in both:
                input_weight(module).copy_(input_weight(module)[order])

    @staticmethod
    def _scale(raw: list[Tensor], norm: Any) -> Tensor:
        """Factors that give a layer's outputs the spread the norm has known, so that later training meets usual
        weights.
        """
        _, variance = moments(raw)
        spread = variance.sqrt()
        return torch.where(
            spread > 1e-6, (norm.running_var + norm.eps).sqrt() / spread.clamp_min(1e-6), torch.ones_like(spread)
        )


def set_norm(norm: Any, raw: list[Tensor], scale: Tensor, offset: Tensor) -> None:
    """Statistics of the outputs themselves, and an affine part that gives raw / scale + offset."""
    mean, variance = moments(raw)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt() / scale)
    norm.bias.copy_(mean / scale + offset)


def moments(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel over all batches: (n,), (n,)."""
    count = sum(v.numel() // v.shape[1] for v in values)
    shaped = channel_means(values)
    dims = [0, *range(2, values[0].dim())]
    spread: Any = sum((v - shaped).square_().sum(dims).double() for v in values)
    return shaped.flatten(), (spread / max(1, count - 1)).float()
