"""Chooses the channels that a width keeps: those whose loss the layers that read them can make up for least stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostsearch.graph.capture import call
from ghostsearch.graph.plan import Edit, WidthPlan
from ghostsearch.graph.widths import kept_channels
from ghostsearch.space.choice import Width
from ghostsearch.space.costs import kept_width
from ghostsearch.surgery.baseline_pass import BaselinePass
from ghostsearch.surgery.least_squares import NormalEquations, cholesky


def fitted_channels(
    model: nn.Module, widths: Mapping[str, Width], plan: WidthPlan, batches: Sequence[Any], width_multiple: int,
    baseline_pass: BaselinePass | None = None,
) -> dict[str, list[int]]:  # fmt: skip
    """Per group the channels that stay, by backward elimination on the least-squares loss of the layers that read them.

    Groups with divisions, or read by nothing that least squares can refit, are chosen by weight norm (`kept_channels`).
    baseline_pass: the model's values on the batches, stopped before the groups.
    """
    spared: dict[str, Elimination] = {}
    readers: dict[str, list[Edit]] = {}
    for name in widths:
        found = [e for e in plan.edits[name] if e.side == "in" and _refittable(model, e)]
        if plan.group(name).divisions == 1 and found:
            readers[name] = found
    if baseline_pass is not None and all(e.path in baseline_pass.places for es in readers.values() for e in es):
        for name, edits in readers.items():
            # The widths of a group differ in how far they go, no more.
            if baseline_pass.spared is None or baseline_pass.spared[0] != name:
                equations = _equations_behind(baseline_pass, [e.path for e in edits])
                baseline_pass.spared = (name, Elimination(model, edits, equations, plan.group(name).channels))
            spared[name] = baseline_pass.spared[1]
    else:
        equations = _input_equations(model, sorted({e.path for es in readers.values() for e in es}), batches)
        spared = {n: Elimination(model, es, equations, plan.group(n).channels) for n, es in readers.items()}
    keep = {}
    for name, width in widths.items():
        group = plan.group(name)
        if name in spared:
            keep[name] = spared[name].left(kept_width(group.channels, width.share, width_multiple, group.divisions))
        else:
            keep.update(kept_channels(model, {name: width}, batches[0], width_multiple))
    return keep


def _refittable(model: nn.Module, edit: Edit) -> bool:
    layer = model.get_submodule(edit.path)
    return isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and layer.groups == 1)


def _input_equations(model: nn.Module, paths: list[str], batches: Sequence[Any]) -> dict[str, NormalEquations]:
    """Covariance of the inputs of some layers and their products with the outputs, in one pass of the model."""
    found: dict[str, NormalEquations] = {}
    hooks = []
    for path in paths:
        layer: Any = model.get_submodule(path)
        found[path] = NormalEquations(layer)

        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor, path: str = path) -> None:
            found[path].add(args[0], output)

        hooks.append(layer.register_forward_hook(hook))
    try:
        with torch.no_grad():
            for batch in batches:
                call(model, batch)
    finally:
        for handle in hooks:
            handle.remove()
    return found


def _equations_behind(baseline_pass: BaselinePass, paths: list[str]) -> dict[str, NormalEquations]:
    """The same from the point where the pass stands, without computing again what lies before."""
    values, found = baseline_pass.replay.fork(baseline_pass.teacher), {}
    for path in sorted(paths, key=baseline_pass.order.__getitem__):
        place: Any = baseline_pass.places[path]
        found[path] = NormalEquations(baseline_pass.teacher.get_submodule(path))  # type: ignore[arg-type]
        for x, y in zip(values.get(place.source), values.get(place.node), strict=True):
            found[path].add(x, y)
    return found


class _Reader:
    """A layer's least-squares problem while input channels leave it one by one.

    With P the inverse of the inputs' second moments and W the weights, a channel's loss is tr(P_cc⁻¹ W_c W_cᵀ). A
    channel that leaves takes v vᵀ from P and v nᵀ + n vᵀ from W Wᵀ. The v and n are kept and only the blocks on the
    diagonals brought up to date, so that a removal reads its own columns and never writes a whole matrix.
    """

    def __init__(self, layer: Any, equations: NormalEquations, edit: Edit, channels: int) -> None:
        xx, xt = equations.centred()
        taps = equations.features // (layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)
        inverse = torch.cholesky_inverse(cholesky(xx[0], 1e-4))
        weight = inverse @ xt[0]
        variance = (weight * xt[0]).sum(0).clamp_min(1e-12)
        weight = weight / variance.mean().sqrt()
        # One more row and column of zeros: where a channel has fewer inputs than another, its list is filled with it.
        self.inverse, self.gram = (nn.functional.pad(m, (0, 1, 0, 1)) for m in (inverse, weight @ weight.T))
        self.at = _columns(edit, taps, channels, empty=len(inverse))
        self.inverse_blocks, self.gram_blocks = (
            m[self.at[:, :, None], self.at[:, None, :]] for m in (self.inverse, self.gram)
        )
        self.inverse_blocks += torch.diag_embed((self.at == len(inverse)).to(inverse))
        # Memory that is asked for and not written is not taken.
        self.v, self.n = torch.empty_like(self.inverse), torch.empty_like(self.inverse)
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
        column = self.inverse[:, at] - v @ v[at].T
        root = torch.linalg.cholesky(column[at])
        new_v = torch.linalg.solve_triangular(root, column.T, upper=False).T
        column = self.gram[:, at] - v @ n[at].T - n @ v[at].T
        new_n = torch.linalg.solve_triangular(root, column.T, upper=False).T
        new_n = new_n - new_v @ torch.linalg.solve_triangular(root, new_n[at], upper=False) / 2
        self.used += len(at)
        self.v[:, self.used - len(at) : self.used], self.n[:, self.used - len(at) : self.used] = new_v, new_n
        v, n = new_v[self.at], new_n[self.at]
        self.inverse_blocks -= v @ v.mT
        self.gram_blocks -= v @ n.mT + n @ v.mT
        self.inverse_blocks[channel] = torch.eye(self.at.shape[1]).to(v)
        self.gram_blocks[channel] = 0


def _columns(edit: Edit, taps: int, channels: int, empty: int) -> Tensor:
    """Which of a layer's inputs, taps of a kernel apart, each channel of a group is; filled with `empty`."""
    positions = [torch.from_numpy(edit.pairs[edit.pairs[:, 0] == c, 1]) for c in range(channels)]
    at = nn.utils.rnn.pad_sequence(positions, batch_first=True, padding_value=-1)
    columns = at[:, :, None] * taps + torch.arange(taps)
    return torch.where(at[:, :, None] < 0, empty, columns).flatten(1)


class Elimination:
    """The channels of a group leave one by one, always the one that its readers, refitted, miss least."""

    def __init__(
        self, model: nn.Module, edits: Sequence[Edit], equations: Mapping[str, NormalEquations], channels: int
    ) -> None:
        self.readers = [_Reader(model.get_submodule(e.path), equations[e.path], e, channels) for e in edits]
        self.channels, self.gone = channels, list[int]()

    def left(self, count: int) -> list[int]:
        """The channels that stay when so many do."""
        while self.channels - len(self.gone) > count:
            self._remove_one()
        return sorted(set(range(self.channels)) - set(self.gone[: self.channels - count]))

    def _remove_one(self) -> None:
        loss = sum((r.rises() for r in self.readers), torch.zeros(self.channels, dtype=torch.float64))
        loss[self.gone] = torch.inf
        self.gone.append(int(loss.argmin()))
        for reader in self.readers:
            reader.remove(self.gone[-1])
