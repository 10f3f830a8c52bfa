"""Channel widths: coupling groups by torch-pruning's dependency graph, checked by really cutting a copy."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostsearch.choices import Width
from ghostsearch.errors import GhostsearchError
from ghostsearch.sitecost import kept_width
from ghostsearch.space import Group, nearest_names

Side = Literal["out", "in", "parameter"]
OUTPUT = "it is an output of the model"


@dataclass(frozen=True)
class Edit:
    """Where a group's channels are in one layer: row r of `pairs` says that channel pairs[r, 0] is at pairs[r, 1]."""

    path: str
    side: Side
    pairs: np.ndarray
    dim: int = 0
    """Dimension of a bare parameter; layers know their own."""

    def positions(self, channels: Sequence[int]) -> list[int]:
        """Positions in this layer of some of the group's channels, ascending."""
        return sorted(self.pairs[np.isin(self.pairs[:, 0], np.asarray(channels, dtype=np.int64)), 1].tolist())


@dataclass(frozen=True)
class WidthPlan:
    """A model's coupling groups and, per group, every layer that changes with it."""

    groups: tuple[Group, ...] = ()
    edits: Mapping[str, tuple[Edit, ...]] = field(default_factory=dict)
    note: str = ""

    def group(self, name: str) -> Group:
        """The group of a name, if its width can change; raises GhostsearchError."""
        for group in self.groups:
            if group.name == name:
                if group.fixed:
                    raise GhostsearchError(
                        f"the width of group {name!r} cannot change: {group.fixed}; leave it at 'width(1)'"
                    )
                return group
        if not self.groups:
            raise GhostsearchError(
                f"group {name!r}: no width of this model can change ({self.note or 'it has no groups'})"
            )
        near = nearest_names(name, [g.name for g in self.groups])
        raise GhostsearchError(f"no group of channels is called {name!r}; there are {near}, …")


_PLANS: weakref.WeakKeyDictionary[nn.Module, tuple[object, WidthPlan]] = weakref.WeakKeyDictionary()


def find_groups(model: nn.Module, example: Any) -> tuple[tuple[Group, ...], str]:
    """The coupling groups of a model and a note on what could not be traced; groups that cannot change say why.

    example: (N, C, H, W) or any forward input; the model is left untouched.
    """
    plan = width_plan(model, example)
    return plan.groups, plan.note


def width_plan(model: nn.Module, example: Any) -> WidthPlan:
    """The traced and checked groups of a model; kept with the model until its layers change shape."""
    key = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    known = _PLANS.get(model)
    if known is None or known[0] != key:
        from ghostsearch.convert.coupling import trace_plan
        from ghostsearch.convert.width_check import checked_plan

        known = (key, checked_plan(model, trace_plan(model, example), example))
        _PLANS[model] = known
    return known[1]


def kept_channels(
    model: nn.Module, widths: Mapping[str, Width], example: Any, width_multiple: int = 8
) -> dict[str, list[int]]:
    """Per group the channels that stay: as many as the width says, those with the largest weights.

    Importance is the group's summed squared weights, layer by layer relative to the layer's mean (group norm, Fang et
    al., CVPR 2023, section 3.3). Raises GhostsearchError for an unknown or fixed group.
    """
    plan = width_plan(model, example)
    keep = {}
    for name, width in widths.items():
        group = plan.group(name)
        count = kept_width(group.channels, width.share, width_multiple, group.divisions)
        keep[name] = best_channels(_importance(model, plan.edits[name], group.channels), count, group.divisions)
    return keep


def best_channels(importance: Tensor, count: int, divisions: int = 1) -> list[int]:
    """The `count` most important channels, ascending; the same positions in each of the `divisions` runs.

    importance: (channels,).
    """
    run = len(importance) // divisions
    per_run = importance.reshape(divisions, run).sum(0)
    best = torch.sort(per_run, descending=True, stable=True).indices[: count // divisions].sort().values
    return [int(d * run + i) for d in range(divisions) for i in best.tolist()]


def _importance(model: nn.Module, edits: Sequence[Edit], channels: int) -> Tensor:
    total = torch.zeros(channels, dtype=torch.float64)
    for edit in edits:
        if edit.side == "parameter":
            continue
        layer = model.get_submodule(edit.path)
        if not isinstance(layer, _ConvNd | nn.Linear):
            continue
        weight = layer.weight.detach().double().cpu()
        if getattr(layer, "transposed", False):
            weight = weight.transpose(0, 1)
        if edit.side == "out":
            energy = weight.flatten(1).square().sum(1)
        else:
            energy = weight.transpose(0, 1).flatten(1).square().sum(1)
            # A grouped convolution's columns are positions within each of its runs.
            energy = energy.repeat(getattr(layer, "groups", 1))
        share = torch.zeros(channels, dtype=torch.float64)
        share.index_add_(0, torch.from_numpy(edit.pairs[:, 0]), energy[torch.from_numpy(edit.pairs[:, 1])])
        total += share / share.mean().clamp_min(1e-30)
    return total


def set_widths(
    model: nn.Module, keep: Mapping[str, Sequence[int]], example: Any, *, plan: WidthPlan | None = None
) -> None:
    """Cut a model in place: of each named group only the channels in `keep` stay, in every layer coupled to it.

    `plan` is the width_plan of the uncut model; without it the model is traced. Frozen parameters stay frozen.
    Raises GhostsearchError for an unknown or fixed group.
    """
    plan = plan or width_plan(model, example)
    removals: dict[tuple[str, Side, int], set[int]] = {}
    for name, kept in keep.items():
        gone = sorted(set(range(plan.group(name).channels)) - set(kept))
        for edit in plan.edits[name] if gone else ():
            removals.setdefault((edit.path, edit.side, edit.dim), set()).update(edit.positions(gone))
    cut(model, removals)


def cut(model: nn.Module, removals: Mapping[tuple[str, Side, int], set[int]]) -> None:
    """Remove positions from layers, each side of each layer once, with torch-pruning's own layer functions."""
    from torch_pruning import ops
    from torch_pruning.pruner.function import PrunerBox

    for (path, side, dim), gone in removals.items():
        if not gone:
            continue
        if side == "parameter":
            _cut_parameter(model, path, dim, gone)
            continue
        layer = model.get_submodule(path)
        before = {name: (p.requires_grad, _format(p)) for name, p in layer.named_parameters(recurse=False)}
        pruner = PrunerBox[ops.module2type(layer)]
        with torch.no_grad():
            (pruner.prune_out_channels if side == "out" else pruner.prune_in_channels)(layer, sorted(gone))
        for name, p in layer.named_parameters(recurse=False):
            requires_grad, memory_format = before[name]
            p.data = p.data.contiguous(memory_format=memory_format)
            p.requires_grad_(requires_grad)


def _format(weight: Tensor) -> torch.memory_format:
    last = weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _cut_parameter(model: nn.Module, path: str, dim: int, gone: set[int]) -> None:
    parent, _, leaf = path.rpartition(".")
    owner = model.get_submodule(parent)
    old = getattr(owner, leaf)
    kept = torch.tensor([i for i in range(old.shape[dim]) if i not in gone], device=old.device)
    setattr(owner, leaf, nn.Parameter(old.detach().index_select(dim, kept), old.requires_grad))
