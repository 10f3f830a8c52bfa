"""Fits one block to what its layer should give: ghosts and low rank here, every other block by its own `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from ghostsearch.blocks.base import Block
from ghostsearch.blocks.ghost import GhostConv
from ghostsearch.blocks.lowrank import LowRankConv
from ghostsearch.surgery.fit_layer import (
    FitSettings,
    FreeFit,
    Target,
    fit_ghost,
    write_biases,
    write_ghost,
    write_low_rank,
)


@dataclass(frozen=True)
class Problem:
    """What a block should give on some batches."""

    free: FreeFit
    """The best filters when nothing constrains them: `weight` (n, C, …) and `offset` (n,)."""
    inputs: Sequence[Tensor]
    """What the block reads, a batch each: (N, C, *spatial)."""
    target: Target
    settings: FitSettings
    intercept: bool
    """Whether something (a bias, a norm) adds a constant to each channel."""
    reorder: bool
    """Whether the block may make its channels in an order of its own."""
    biased: bool
    """Whether the constants belong into the block's own biases; otherwise these end at zero."""


@dataclass(frozen=True)
class Fitted:
    """What is known of a fitted block; its weights are written."""

    offset: Tensor
    """(n,) constants that its outputs lack, in its own order of channels."""
    order: Tensor | None = None
    """The convolution's channel at each place of the block; None where they stand as they did."""


@singledispatch
def fit_block(block: Block, problem: Problem) -> Fitted | None:
    """Write weights fitted in closed form into a block, in place; None where it keeps its copied ones."""
    found: Fitted | None = block.fit(problem)
    return found


@fit_block.register
def _(block: GhostConv, problem: Problem) -> Fitted:
    fit, offset, order = fit_ghost(
        block, problem.free, problem.inputs, problem.target, problem.settings,
        intercept=problem.intercept, reorder=problem.reorder,
    )  # fmt: skip
    write_ghost(block, fit, torch.ones(len(order)))
    if problem.biased:
        write_biases(block, problem.inputs, offset)
    natural = torch.equal(order, torch.arange(len(order)))
    return Fitted(offset, None if natural else order)


@fit_block.register
def _(block: LowRankConv, problem: Problem) -> Fitted:
    write_low_rank(block, problem.free.weight, problem.free.equations, problem.target.weight)
    if block.expand.bias is not None:
        block.expand.bias.zero_()
        if problem.biased:
            block.expand.bias.copy_(problem.free.offset)
    return Fitted(problem.free.offset)
