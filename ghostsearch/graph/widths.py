"""Channel widths: coupling groups by torch-pruning's dependency graph, checked by really cutting a copy."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostsearch.graph.capture import tensors
from ghostsearch.graph.coupling import trace_plan
from ghostsearch.graph.cut import cut_channels
from ghostsearch.graph.plan import Edit, WidthPlan, best_channels
from ghostsearch.graph.width_check import checked_plan
from ghostsearch.space.architecture import Group
from ghostsearch.space.choice import WIDTH_MULTIPLE, Width
from ghostsearch.space.costs import kept_width

_PLANS: weakref.WeakKeyDictionary[nn.Module, tuple[object, WidthPlan]] = weakref.WeakKeyDictionary()


def find_groups(model: nn.Module, example: Any) -> tuple[tuple[Group, ...], str]:
    """The coupling groups of a model and a note on what could not be traced; groups that cannot change say why.

    example: (N, C, H, W) or any forward input; the model is left untouched.
    """
    plan = width_plan(model, example)
    return plan.groups, plan.note


def width_plan(model: nn.Module, example: Any) -> WidthPlan:
    """The traced and checked groups of a model on inputs of the example's form; kept with the model until a layer
    is exchanged or changes shape, or the inputs do but for the size of their batch.
    """
    layers = tuple((path, type(module), id(module)) for path, module in model.named_modules())
    shapes = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    key = (layers, shapes, tuple((tuple(t.shape[1:]), t.dtype) for t in tensors(example)))
    known = _PLANS.get(model)
    if known is None or known[0] != key:
        known = (key, checked_plan(model, trace_plan(model, example), example))
        _PLANS[model] = known
    return known[1]


def kept_channels(
    model: nn.Module, widths: Mapping[str, Width], example: Any, width_multiple: int = WIDTH_MULTIPLE
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
    cut_channels(model, keep, plan or width_plan(model, example))
