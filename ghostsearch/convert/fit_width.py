"""Chooses the channels that a width keeps: those whose loss the layers that read them can make up for least stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostsearch.choices import Width
from ghostsearch.convert.fit_linear import NormalEquations, damped
from ghostsearch.convert.plain_pass import PlainPass
from ghostsearch.convert.plan import Edit, WidthPlan
from ghostsearch.convert.width import kept_channels
from ghostsearch.sitecost import kept_width
from ghostsearch.tracing import call


def fitted_channels(
    model: nn.Module, widths: Mapping[str, Width], plan: WidthPlan, batches: Sequence[Any], width_multiple: int,
    plain_pass: PlainPass | None = None,
) -> dict[str, list[int]]:  # fmt: skip
    """Per group the channels that stay, by backward elimination on the least-squares loss of the layers that read them.

    Groups with divisions, or read by nothing that least squares can refit, are chosen by weight norm (`kept_channels`).
    plain_pass: the model's values on the batches, stopped before the groups.
    """
    readers: dict[str, list[Edit]] = {}
    for name in widths:
        found = [e for e in plan.edits[name] if e.side == "in" and _refittable(model, e)]
        if found and plan.group(name).divisions == 1:
            readers[name] = found
    paths = sorted({e.path for es in readers.values() for e in es})
    if plain_pass is not None and all(path in plain_pass.places for path in paths):
        equations = _equations_behind(plain_pass, paths)
    else:
        equations = _input_equations(model, paths, batches)
    keep = {}
    for name, width in widths.items():
        group = plan.group(name)
        count = kept_width(group.channels, width.share, width_multiple, group.divisions)
        if name not in readers:
            keep.update(kept_channels(model, {name: width}, batches[0], width_multiple))
            continue
        keep[name] = _eliminate(model, readers[name], equations, group.channels, count)
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


def _equations_behind(plain_pass: PlainPass, paths: list[str]) -> dict[str, NormalEquations]:
    """The same from the point where the pass stands, without computing again what lies before."""
    values, found = plain_pass.replay.fork(plain_pass.teacher), {}
    for path in sorted(paths, key=plain_pass.order.__getitem__):
        place: Any = plain_pass.places[path]
        found[path] = NormalEquations(plain_pass.teacher.get_submodule(path))  # type: ignore[arg-type]
        for x, y in zip(values.get(place.source), values.get(place.node), strict=True):
            found[path].add(x, y)
    return found


class _Elimination:
    """A layer's least-squares problem while input channels leave it one by one."""

    def __init__(self, layer: Any, equations: NormalEquations, edit: Edit, channels: int) -> None:
        xx, xt = equations.centred()
        taps = equations.features // (layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)
        self.inverse = torch.linalg.inv(damped(xx[0], 1e-4))
        self.weight = self.inverse @ xt[0]
        variance = (self.weight * xt[0]).sum(0).clamp_min(1e-12)
        self.weight = self.weight / variance.mean().sqrt()
        self.columns = {
            c: torch.cat(
                [torch.arange(p * taps, (p + 1) * taps) for p in edit.pairs[edit.pairs[:, 0] == c, 1].tolist()]
            )
            for c in range(channels)
            if (edit.pairs[:, 0] == c).any()
        }

    def rise(self, channel: int) -> float:
        """How much the loss rises when a channel leaves and all others are refitted."""
        at = self.columns.get(channel)
        if at is None:
            return 0.0
        weight = self.weight[at]
        return float((weight * torch.linalg.solve(self.inverse[at][:, at], weight)).sum())

    def remove(self, channel: int) -> None:
        """Take a channel out and refit the others (block inverse)."""
        at = self.columns.pop(channel, None)
        if at is None:
            return
        gain = torch.linalg.solve(self.inverse[at][:, at], torch.cat([self.inverse[at], self.weight[at]], 1))
        cross = self.inverse[:, at]
        self.weight = self.weight - cross @ gain[:, self.inverse.shape[1] :]
        self.inverse = self.inverse - cross @ gain[:, : self.inverse.shape[1]]
        self.weight[at] = 0
        self.inverse[at] = 0
        self.inverse[:, at] = 0


def _eliminate(
    model: nn.Module, readers: Sequence[Edit], equations: Mapping[str, NormalEquations], channels: int, count: int
) -> list[int]:
    problems = [_Elimination(model.get_submodule(e.path), equations[e.path], e, channels) for e in readers]
    left = list(range(channels))
    while len(left) > count:
        loss = [sum(p.rise(c) for p in problems) for c in left]
        gone = left.pop(min(range(len(left)), key=loss.__getitem__))
        for problem in problems:
            problem.remove(gone)
    return left
