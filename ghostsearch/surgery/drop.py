"""Drops residual branches: what computes f in x + f(x) gives way to a per-channel affine of x."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostsearch.blocks.base import CONVS, place
from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.exchange import exchange
from ghostsearch.space.architecture import Anatomy, Architecture, Branch
from ghostsearch.space.choice import Drop, Skip


class Nothing(nn.Module):
    """A branch that adds nothing: x -> zeros of its shape."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Open(nn.Module):
    """A gate that lets everything pass: x -> ones of its shape; before a sigmoid a number of which that makes ones."""

    def __init__(self, *, before_sigmoid: bool) -> None:
        super().__init__()
        self.value = 100.0 if before_sigmoid else 1.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value)


def dropped_branches(architecture: Architecture, anatomy: Anatomy) -> list[Branch]:
    """The branches that an architecture drops.

    Raises GhostsearchError where no branch ends at a site to be dropped, or where a site inside one is changed too.
    """
    ends, dropped = {b.end: b for b in anatomy.branches}, []
    for path, choice in architecture.sites.items():
        if not isinstance(choice, Drop):
            continue
        if path not in ends:
            raise GhostsearchError(
                f"{path!r}: '{choice}' is not possible; no residual branch that may be dropped ends there"
            )
        within = [p for p in ends[path].inside if p in architecture.sites]
        if within:
            raise GhostsearchError(
                f"{within[0]!r} lies in the branch that '{choice}' takes away at {path!r}; leave one of the two out"
            )
        dropped.append(replace(ends[path], skipped=isinstance(choice, Skip)))
    return dropped


def drop_branches(model: nn.Module, branches: Iterable[Branch]) -> None:
    """Replace the layers of each branch, in place: its `end` by a 1×1 depthwise convolution (skipped: by nothing), the
    rest by nothing.

    The new convolution starts at zero and the BatchNorm behind it at mean zero, so that the branch gives its mean until
    it is fitted. Modules keep their paths, so a graph traced before still runs.
    """
    others: dict[int, nn.Module] = {}
    for branch in branches:
        for path in branch.inside:
            old = model.get_submodule(path)
            weighted = isinstance(old, _ConvNd | nn.Linear)
            gate = Open(before_sigmoid=weighted) if path in branch.gates else nn.Identity()
            others[id(old)] = gate.train(old.training)
        conv: Any = model.get_submodule(branch.end)
        norm: Any = model.get_submodule(branch.norm) if branch.norm else None
        if branch.skipped:
            others[id(conv)] = Nothing().train(conv.training)
            if norm is not None:
                others[id(norm)] = nn.Identity().train(norm.training)
        else:
            others[id(conv)] = _affine(conv, norm)
    exchange(model, others)


def _affine(conv: Any, norm: Any) -> nn.Module:
    """What a dropped branch ends with in the place of a convolution; a BatchNorm behind it forgets its mean."""
    affine = CONVS[conv.weight.dim() - 2](
        conv.out_channels, conv.out_channels, 1, groups=conv.out_channels, bias=conv.bias is not None, **place(conv)
    ).train(conv.training)
    with torch.no_grad():
        affine.weight.zero_()
        if conv.bias is not None:
            assert affine.bias is not None
            affine.bias.copy_(conv.bias)
        if norm is not None and norm.running_mean is not None:
            norm.running_mean.zero_()
            if affine.bias is not None:
                affine.bias.zero_()
    affine.weight.requires_grad_(conv.weight.requires_grad)
    if affine.bias is not None:
        affine.bias.requires_grad_(conv.bias.requires_grad)
    return affine
