"""Walks a converted net in its own order of computation and fits layer after layer to the baseline's sampled values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.blocks.base import Block
from ghostsearch.errors import GhostsearchError
from ghostsearch.fits.problem import FitSettings, Fitted, Problem, Target, channel_means, spread
from ghostsearch.fits.sampled_rows import Samples, Window, as_maps, crops
from ghostsearch.graph.capture import copied
from ghostsearch.graph.flow import LAYERS, Place, descendants, fit_order, same_forward
from ghostsearch.graph.paused import PausedRuns
from ghostsearch.graph.reorder import holds_its_weights, input_weight, readers_of
from ghostsearch.shown import Progress, percent_done
from ghostsearch.space.architecture import Architecture, Branch
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.stopped_fit import StoppedFit, key_of

PLAIN = tuple(c.forward for c in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
PART_VALUES = 2**22
"""Numbers of a layer's inputs or outputs that are worked on together: larger memory comes anew from the system each
time."""


@dataclass(frozen=True)
class FitReport:
    """What a fit did."""

    fitted: tuple[str, ...] = ()
    """Paths of the layers whose weights come from the images, in the order of the fit."""
    not_fitted: Mapping[str, str] = field(default_factory=dict)
    """Layers behind a change that keep the weights that they had, and why."""
    peak_bytes: int = 0
    """The most that was held of the calibration images' values between two layers."""


class ModelFit:
    """One pass of closed-form fits, of a copy (`student`) of a converted net.

    narrow: the baseline with its widths cut and branches dropped, which may share data with others; channels: per layer
    whose outputs were cut, the baseline's positions that stay; branches: those dropped.
    """

    def __init__(
        self, statistics: BaselineStatistics, narrow: nn.Module, converted: nn.Module, channels: Mapping[str, Tensor],
        settings: FitSettings, branches: Sequence[Branch] = (),
    ) -> None:  # fmt: skip
        self.statistics, self.settings = statistics, settings
        self.narrow, self.student = statistics.prepared(narrow), statistics.prepared(copied(converted))
        self.channels = {path: kept.to(statistics.device) for path, kept in channels.items()}
        few = statistics.batches[0][:2] if channels and statistics.traced else None
        if few is not None and not same_forward(self.narrow, statistics.graph, few):
            raise GhostsearchError(
                "a width of this network stands in its forward as a number, so a narrower one cannot be fitted; read "
                "it from a tensor's shape there, or convert without calibration images"
            )
        # A layer may be called by another of its names than the branch's.
        self.aims = {id(self.student.get_submodule(b.end)): b.last for b in branches if b.last}
        self.places = statistics.places
        self.first: str | None = None
        self.fitted: list[str] = []
        self.not_fitted: dict[str, str] = {}
        self.peak = 0

    def run(
        self, architecture: Architecture, progress: Progress | None = None, stopped: StoppedFit | None = None
    ) -> FitReport:
        """Fit every layer behind the first change, or no further than `reach` layers behind the last one.

        With `stopped` it goes on where the same fit was stopped, and raises KeyboardInterrupt once it is asked to stop.
        """
        # Layers of dropped branches have given way to the identity; what read them reads something else now.
        gone = {path for path in self.places if not isinstance(self.student.get_submodule(path), LAYERS)}
        # A site may be called by another of its names than the graph's.
        names = {id(self.student.get_submodule(path)): path for path in self.places}
        sites = [names.get(id(self.student.get_submodule(path)), path) for path in architecture.sites]
        changed = [*sites, *self.channels, *gone]
        order = [path for path in fit_order(self.places, changed) if path not in gone]
        # What changes without being fitted (a skipped branch, a layer called twice) changes what it reads.
        without_place = self._without_place(changed)
        self.first = order[0] if order and not gone and not without_place else None
        if self.settings.reach is not None:
            last = max((i for i, path in enumerate(order) if path in changed), default=-1)
            order = order[: last + 1 + self.settings.reach]
        for path in without_place:
            self.not_fitted[path] = "it is called several times, or not with one positional argument"
        key = key_of(self, architecture) if stopped else ""
        with torch.no_grad(), self._source(order) as gather:
            kept = stopped.take(key, self) if stopped else 0
            percent = self._percent_done(order, progress) if progress else []
            for done, path in enumerate(order, 1):
                if done > kept:
                    self._fit(self.places[path], gather)
                elif not self.statistics.traced:
                    gather(self.places[path], lambda *_: None)
                if stopped:
                    stopped.after(key, self, done, last=done == len(order))
                if progress:
                    progress(percent[done - 1], 100, f"fitting {path}, {done} of {len(order)} layers")
        return FitReport(tuple(self.fitted), self.not_fitted, self.peak)

    def _percent_done(self, order: Sequence[str], progress: Progress) -> list[int]:
        """How much of a fit's work is done after each layer: the last ones of a network can take ten times as long."""
        progress(0, 100, "fitting: the baseline's values")
        blocks = [isinstance(self.student.get_submodule(path), Block) for path in order]
        works = (self.statistics.work(path, as_block=block) for path, block in zip(order, blocks, strict=True))
        return percent_done(works)

    def _without_place(self, changed: Sequence[str]) -> list[str]:
        """Changed layers, and layers behind them, that cannot be fitted."""
        if not self.statistics.traced:
            return [path for path in changed if path not in self.places]
        calls = [(str(node.target), node) for node in self.statistics.graph.nodes if node.op == "call_module"]
        behind = descendants(node for path, node in calls if path in changed)
        found = [path for path, node in calls if node in behind and path not in self.places]
        return list(dict.fromkeys(p for p in found if isinstance(self.student.get_submodule(p), LAYERS)))

    @contextmanager
    def _source(self, order: Sequence[str]) -> Iterator[Callable[[Place, Callable[..., None]], None]]:
        """Yields what calls visit(batch, input, shortcut) on each batch that a layer is fitted to."""
        if not self.statistics.traced:
            with PausedRuns(self.student, self.statistics.batches, order) as runs:

                def reach(place: Place, visit: Callable[..., None]) -> None:
                    runs.reach(place.path, lambda number, x: visit(number, x, None))
                    runs.pass_by(place.path)

                yield reach
            return
        replay = self.statistics.replay.fork(self.student)

        def get(place: Place, visit: Callable[..., None]) -> None:
            for number in range(len(self.statistics.targets(self._aim(place)))):
                x = replay.value(place.source, number)
                visit(number, x, None if place.shortcut is None else replay.value(place.shortcut, number))
            self.peak = max(self.peak, replay.held_bytes())

        yield get

    def _fit(self, place: Place, gather: Callable[[Place, Callable[..., None]], None]) -> None:
        new: Any = self.student.get_submodule(place.path)
        old: Any = self.narrow.get_submodule(place.path)
        if type(old).forward not in PLAIN:
            gather(place, lambda *_: None)
            self.not_fitted[place.path] = f"{type(old).__name__} computes in a way of its own"
            return
        if not isinstance(new, Block) and (place.tied or not holds_its_weights(new)):
            gather(place, lambda *_: None)
            why = "shared with another part" if place.tied else "computed from others (weight_norm, a mask)"
            self.not_fitted[place.path] = f"its weight is {why}"
            return
        norm: Any = self.student.get_submodule(place.norm) if place.norm else None
        found = readers_of(place, self.student)
        if self._aim(place) != place.path:
            old, new = _over_positions(old), _over_positions(new)
        problem = self._problem(place, old, new, norm, found, gather)
        if problem is None:
            self.not_fitted[place.path] = "the images do not reach it"
            return
        fitted = new.fit(problem) if isinstance(new, Block) else fit_layer(new, problem)
        if fitted is None:
            self.not_fitted[place.path] = f"{type(new).__name__} has no closed-form fit"
            return
        self.fitted.append(place.path)
        if place.path == self.first and not self.channels and isinstance(new, Block):
            self.statistics.keep_free(place.path, problem.relu_rounds, problem.free)
        if fitted.order is not None:
            if found is not None:
                self._fold(place, fitted.order, *found)
            else:
                new.order = torch.argsort(fitted.order)
        offset = problem.offset(fitted.outputs, fitted.wanted)
        if norm is None:
            fitted.shift(offset)
        else:
            self._set_norm(new, norm, fitted, offset)

    def _problem(
        self, place: Place, old: Any, new: Any, norm: Any, found: Any, gather: Callable[..., None]
    ) -> Problem | None:
        window = Window.of(old)
        halo = new.halo if isinstance(new, Block) else ((0, 0),) * len(window.kernel)
        aim = self._aim(place)
        targets = self.statistics.targets(aim)
        tiles_of = self.statistics.tiles[aim]
        whole = all(tiles.whole for tiles in tiles_of)
        halo = ((0, 0),) * len(halo) if whole else halo
        inputs: dict[int, Tensor] = {}
        shortcuts: dict[int, Tensor] = {}

        def visit(number: int, x: Tensor, shortcut: Tensor | None) -> None:
            tiles = tiles_of[number]
            maps = as_maps(x, old) if aim == place.path else x.flatten(2)
            inputs[number] = crops(maps, tiles, window, halo)
            if shortcut is not None:
                maps = as_maps(shortcut, old)
                shortcuts[number] = crops(maps, tiles, Window.point(maps.dim() - 2))

        gather(place, visit)
        # A detector's head may be given no boxes of a batch.
        seen = sorted(number for number, x in inputs.items() if len(x))
        if not seen:
            return None
        chosen = self.channels.get(aim)
        totals = [targets[i] if chosen is None else targets[i][:, chosen] for i in seen]
        masks = [tiles_of[i].inside(halo).to(self.statistics.device) for i in seen]
        columns = [[inputs[i] for i in seen], masks, totals, *([[shortcuts[i] for i in seen]] if shortcuts else [])]
        xs, masks, totals, *sums = _joined(columns)
        self.statistics.done_with(aim)
        inside = [None if bool(mask.all()) else mask for mask in masks]
        sizes = [tuple(t.shape[2:]) for t in totals]
        samples = Samples(window, halo, xs, inside, sizes, whole)
        importance = self._importance(len(old.weight), found)
        target = Target(totals, sums[0] if sums else None, place.relu, importance)
        unit = old.weight.new_ones(len(old.weight))
        if norm is not None:
            unit = norm.weight / (norm.running_var + norm.eps).sqrt()
        shared = place.path == self.first and not self.channels and isinstance(new, Block)
        rounds = max(0, self.settings.relu_rounds - (isinstance(new, Block) and new.relaxes_targets))
        known = self.statistics.known_free(place.path, rounds) if shared else None
        return Problem(
            old, old.weight * unit.reshape(-1, *[1] * (old.weight.dim() - 1)), samples, target, self.settings,
            intercept=norm is not None or old.bias is not None, reorder=found is not None or self.settings.gather,
            layers=len(self.places), metric=self._metric(place, new), relu_rounds=rounds, known=known,
        )  # fmt: skip

    def _aim(self, place: Place) -> str:
        """The layer whose value a layer is fitted to: itself, or the end of the dropped branch that it replaces."""
        return self.aims.get(id(self.student.get_submodule(place.path)), place.path)

    def _metric(self, place: Place, new: Any) -> Tensor | None:
        """The output metric, in the student's channels, where a block's fit asks for it."""
        if not (isinstance(new, Block) and new.reads_metric):
            return None
        metric, chosen = self.statistics.metric(place.path), self.channels.get(place.path)
        return metric if metric is None or chosen is None else metric[chosen][:, chosen]

    def _importance(self, outputs: int, found: tuple[list[str], list[str]] | None) -> Tensor:
        weight = torch.zeros(outputs, dtype=torch.float32, device=self.statistics.device)
        for path in found[1] if found else ():
            reader: Any = self.narrow.get_submodule(path)
            norm = self.places[path].norm if path in self.places else None
            filters: Any = reader.weight.detach()
            if norm:
                bn: Any = self.student.get_submodule(norm)
                gain = bn.weight / (bn.running_var + bn.eps).sqrt()
                filters = filters * gain.reshape(-1, *[1] * (filters.dim() - 1))
            by_input = filters if getattr(reader, "transposed", False) else filters.transpose(0, 1)
            energy = by_input.flatten(1).square().sum(1)
            if len(energy) != outputs:
                return torch.ones_like(weight)
            weight += energy
        return weight / weight.mean() if found and weight.mean() > 0 else torch.ones_like(weight)

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
                for name, parameter in list(narrow.named_parameters(recurse=False)):
                    setattr(narrow, name, nn.Parameter(parameter[order], parameter.requires_grad))
        for path in ends:
            both: list[Any] = [self.student.get_submodule(path), self.narrow.get_submodule(path)]
            # The baseline may share this memory.
            both[1].weight = nn.Parameter(both[1].weight.clone(), both[1].weight.requires_grad)
            for module in both:
                input_weight(module).copy_(input_weight(module)[order])

    def _set_norm(self, new: Any, norm: Any, fitted: Fitted, offset: Tensor) -> None:
        """Scale a layer to the spread that its norm has known, so that later training meets usual weights, and set the
        norm so that it adds the offset.
        """
        mean, variance = moments(fitted.outputs)
        back = None
        if isinstance(new, Block) and new.order is not None:
            back = new.order
            mean, variance, offset = mean[back], variance[back], offset[back]
        deviation = variance.sqrt()
        scale = (norm.running_var + norm.eps).sqrt() / deviation.clamp_min(1e-6)
        scale = torch.where(deviation > 1e-6, scale, torch.ones_like(scale))
        if isinstance(new, Block):
            new.scale_outputs(scale if back is None else scale[torch.argsort(back)])
        else:
            new.weight.mul_(scale.reshape(-1, *[1] * (new.weight.dim() - 1)))
        variance = variance * scale.square()
        norm.running_mean.copy_(mean * scale)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt() / scale)
        norm.bias.copy_(mean + offset)


def fit_layer(layer: Any, problem: Problem) -> Fitted:
    """Give a convolution or linear layer the best filters, but for constants and scale."""
    layer.weight.copy_(problem.free.weight)
    return Fitted.of(layer, problem.outputs(problem.free.weight), problem.free.wanted)


def _over_positions(affine: Any) -> nn.Conv1d:
    """A per-channel affine of maps as one of their positions in a row, with the same weights in memory."""
    flat = nn.Conv1d(affine.out_channels, affine.out_channels, 1, groups=affine.groups, bias=affine.bias is not None)
    flat.weight = nn.Parameter(affine.weight.detach().flatten(2), requires_grad=False)
    flat.bias = affine.bias
    return flat


def _joined(columns: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Tensors of the batches put together, then cut so that each part of a column holds PART_VALUES or fewer. Where
    the batches of one column differ in shape, all stay as they are.
    """
    if any(len({t.shape[1:] for t in column}) > 1 for column in columns):
        return [list(column) for column in columns]
    size = max(1, PART_VALUES // max(column[0][0].numel() for column in columns))
    return [list(torch.cat(list(column)).split(size)) for column in columns]


def moments(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel over all parts and positions: (n,), (n,)."""
    count = sum(v.numel() // v.shape[1] for v in values)
    mean = channel_means(values)
    dims = [0, *range(2, values[0].dim())]
    total: Any = sum((v - spread(mean, v)).square_().sum(dims).double() for v in values)
    return mean, (total / max(1, count - 1)).to(mean.dtype)
