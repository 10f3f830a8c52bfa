"""Chooses the channels that a width keeps, by the least-squares loss of the layers that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.blocks.own_conv import PLAIN, is_plain
from ghostsearch.fits.least_squares import NormalEquations, cholesky
from ghostsearch.fits.sampled_rows import Sampling, Window, as_maps, crops
from ghostsearch.graph.capture import call, hooked, tensors
from ghostsearch.graph.plan import Edit, WidthPlan
from ghostsearch.graph.reorder import holds_its_weights
from ghostsearch.graph.widths import kept_channels
from ghostsearch.space.choice import Width
from ghostsearch.space.costs import kept_width
from ghostsearch.surgery.baseline_statistics import BaselineStatistics

UPDATE_COLUMNS = 256
"""Columns of removed channels that are gathered before whole matrices are brought up to date by them."""
WORTH_KEEPING = 0.8
"""Matrices of which this share or more is in use are not copied to smaller ones."""
USUAL_SHARE = 0.25
"""Channels leave in order down to this share, so that wider choices of a group need no elimination of their own."""


def fitted_channels(
    statistics: BaselineStatistics, widths: Mapping[str, Width], plan: WidthPlan, width_multiple: int
) -> dict[str, list[int]]:
    """Per group the channels that stay, by backward elimination on the least-squares loss of the layers that read them.

    Groups with divisions, or read by nothing or by what least squares cannot refit, are chosen by weight norm
    (`kept_channels`).
    All widths of a group come from one elimination, which the statistics keep.
    """
    model = statistics.teacher
    readers: dict[str, list[Edit]] = {}
    for name in widths:
        found = [e for e in plan.edits[name] if e.side == "in"]
        if plan.group(name).divisions == 1 and found and all(_refittable(statistics, e) for e in found):
            readers[name] = found
    counts = {name: plan.group(name).channels for name in readers}
    kept = {name: kept_width(counts[name], widths[name].share, width_multiple) for name in readers}
    missing = [n for n in readers if len(statistics.leaving(n)) < counts[n] - kept[n]]
    if missing:
        inputs = _sampled_inputs(statistics, sorted({e.path for name in missing for e in readers[name]}))
        for name in missing:
            elimination = Elimination(model, readers[name], inputs, counts[name])
            # Other trials will ask for other widths; the matrices are too large to be kept for them.
            elimination.left(min(kept[name], ceil(counts[name] * USUAL_SHARE)))
            statistics.keep_leaving(name, elimination.gone)
    keep = {}
    for name, width in widths.items():
        if name in readers:
            # Where rounding leaves every channel, nothing was eliminated.
            gone = set(statistics.leaving(name)[: counts[name] - kept[name]])
            keep[name] = [channel for channel in range(counts[name]) if channel not in gone]
        else:
            keep.update(kept_channels(model, {name: width}, statistics.batches[0], width_multiple))
    return keep


def _refittable(statistics: BaselineStatistics, edit: Edit) -> bool:
    """Whether a layer that reads channels will be fitted: it makes up for those that leave, else their size counts."""
    layer, place = statistics.teacher.get_submodule(edit.path), statistics.places.get(edit.path)
    if place is None or place.tied or not holds_its_weights(layer):
        return False
    # Least squares knows no transposed convolutions; a class of its own has no window that is known.
    return isinstance(layer, nn.Linear) or (isinstance(layer, PLAIN) and is_plain(layer) and layer.groups == 1)


@torch.no_grad()
def _sampled_inputs(statistics: BaselineStatistics, paths: Sequence[str]) -> dict[str, list[Tensor]]:
    """What some layers of the baseline read at sampled positions, padding included, in one pass over the images.

    Where the graph is known the pass begins at what the statistics hold and ends at the last of these layers.
    """
    model, found = statistics.teacher, {path: list[Tensor]() for path in paths}
    settings, layers = statistics.settings, {model.get_submodule(path): path for path in paths}
    at = 0

    def take(layer: Any, args: Any, kwargs: Any, y: Tensor) -> None:
        x, maps = next(tensors((args, kwargs))), as_maps(y, layer)
        sampling = Sampling(settings.rows_for(layer), settings.tile, settings.seed + 1, sum(statistics.images))
        tiles = sampling.tiles(at, statistics.images[at], len(maps), maps.shape[2:])
        found[layers[layer]].append(crops(as_maps(x, layer), tiles, Window.of(layer)))

    ends: list[Any] = []
    if statistics.traced and all(path in statistics.order for path in paths):
        ends = [n for n in statistics.graph.nodes if n.op == "call_module" and n.target in found]
    replay = statistics.replay.fork(model) if ends else None
    with hooked(((layer, take) for layer in layers), with_kwargs=True):
        for number in range(len(statistics.batches)):
            at = number
            if replay is None:
                call(model, statistics.batches[number])
                continue
            for node in ends:
                replay.value(node, number)
            replay.values[number].clear()
    return found


class _Reader:
    """A layer's least-squares problem while input channels leave it one by one.

    With P the inverse of the inputs' second moments and W the weights, a channel's loss is tr(P_cc⁻¹ W_c W_cᵀ). A
    channel that leaves takes v vᵀ from P and v nᵀ + n vᵀ from W Wᵀ. The blocks on the diagonals are brought up to date
    at once, the whole matrices by many v and n together, one product of matrices: reading them costs more than that.
    """

    def __init__(self, layer: Any, inputs: Sequence[Tensor], edit: Edit, channels: int) -> None:
        equations = NormalEquations(layer)
        for x in inputs:
            equations.add(x, None)
        taps = equations.features // (layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)
        xx = equations.centred()[0].double()
        # Its outputs are its weights' own, so that no targets are needed.
        xt = xx @ layer.weight.detach().double().flatten(1).T
        inverse = torch.cholesky_inverse(cholesky(xx, 1e-4))
        weight = inverse @ xt
        variance = (weight * xt).sum(0).clamp_min(1e-12)
        weight = weight / variance.mean().sqrt()
        # One more row and column of zeros: where a channel has fewer inputs than another, its list is filled with it.
        self.inverse, self.gram = (nn.functional.pad(m, (0, 1, 0, 1)) for m in (inverse, weight @ weight.T))
        self.at = _columns(edit, taps, channels, empty=len(inverse))
        self.inverse_blocks, self.gram_blocks = (
            m[self.at[:, :, None], self.at[:, None, :]] for m in (self.inverse, self.gram)
        )
        self.inverse_blocks += torch.diag_embed((self.at == len(inverse)).to(inverse))
        self.gone = torch.zeros(len(self.inverse), dtype=torch.bool, device=self.inverse.device)
        self._begin()

    def _begin(self) -> None:
        self.v, self.n = (self.inverse.new_empty(len(self.inverse), UPDATE_COLUMNS + self.at.shape[1]) for _ in "vn")
        self.used = 0

    def rises(self) -> Tensor:
        """How much the loss rises when each channel alone leaves and all others are refitted. Returns: (channels,)"""
        return torch.linalg.solve(self.inverse_blocks, self.gram_blocks).diagonal(dim1=1, dim2=2).sum(1)

    def remove(self, channel: int) -> None:
        """Take a channel out and refit the others (block inverse)."""
        at = self.at[channel]
        at = at[at < len(self.inverse) - 1]
        if not len(at):
            return
        v, n = self.v[:, : self.used], self.n[:, : self.used]
        column = self.inverse[at].T - v @ v[at].T
        root = torch.linalg.cholesky(column[at])
        new_v = torch.linalg.solve_triangular(root, column.T, upper=False).T
        column = self.gram[at].T - v @ n[at].T - n @ v[at].T
        new_n = torch.linalg.solve_triangular(root, column.T, upper=False).T
        new_n = new_n - new_v @ torch.linalg.solve_triangular(root, new_n[at], upper=False) / 2
        self.used += len(at)
        self.v[:, self.used - len(at) : self.used], self.n[:, self.used - len(at) : self.used] = new_v, new_n
        v, n = new_v[self.at], new_n[self.at]
        self.inverse_blocks -= v @ v.mT
        self.gram_blocks -= v @ n.mT + n @ v.mT
        self.inverse_blocks[channel] = torch.eye(self.at.shape[1]).to(v)
        self.gram_blocks[channel] = 0
        self.gone[at] = True
        if self.used >= UPDATE_COLUMNS:
            self._update()

    def _update(self) -> None:
        """Bring the matrices up to date; where many channels have left, without their rows and columns."""
        v, n = self.v[:, : self.used], self.n[:, : self.used]
        self.inverse.addmm_(v, v.T, alpha=-1)
        self.gram.addmm_(v, n.T, alpha=-1).addmm_(n, v.T, alpha=-1)
        kept = ~self.gone
        if kept.double().mean() < WORTH_KEEPING:
            self.inverse, self.gram = (m[kept][:, kept] for m in (self.inverse, self.gram))
            # The last row stands for nothing; a channel that has left reads only that.
            place = torch.where(kept, kept.cumsum(0) - 1, len(self.inverse) - 1)
            self.at, self.gone = place.to(self.at.device)[self.at], self.gone[kept]
        self._begin()


def _columns(edit: Edit, taps: int, channels: int, empty: int) -> Tensor:
    """Which of a layer's inputs, taps of a kernel apart, each channel of a group is; filled with `empty`."""
    positions = [torch.from_numpy(edit.pairs[edit.pairs[:, 0] == c, 1]) for c in range(channels)]
    at = nn.utils.rnn.pad_sequence(positions, batch_first=True, padding_value=-1)
    columns = at[:, :, None] * taps + torch.arange(taps)
    return torch.where(at[:, :, None] < 0, empty, columns).flatten(1)


class Elimination:
    """Removes a group's channels one by one, always the one whose removal raises its refitted readers' loss least."""

    def __init__(
        self, model: nn.Module, edits: Sequence[Edit], inputs: Mapping[str, Sequence[Tensor]], channels: int
    ) -> None:
        self.readers = [_Reader(model.get_submodule(e.path), inputs[e.path], e, channels) for e in edits]
        self.channels, self.gone = channels, list[int]()

    def left(self, count: int) -> list[int]:
        """The channels that stay when so many do."""
        while self.channels - len(self.gone) > count:
            self._remove_one()
        return sorted(set(range(self.channels)) - set(self.gone[: self.channels - count]))

    def _remove_one(self) -> None:
        loss: Any = sum(r.rises() for r in self.readers)
        loss.index_fill_(0, torch.tensor(self.gone, dtype=torch.long).to(loss.device), torch.inf)
        self.gone.append(int(loss.argmin()))
        for reader in self.readers:
            reader.remove(self.gone[-1])
