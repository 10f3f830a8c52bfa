"""Fits one layer (convolution, block or linear) to what the baseline has behind it, and sets the norm that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.blocks.ghost import Wavelet
from ghostsearch.surgery.fit_ghost import (
    GhostFit,
    JointFit,
    channel_means,
    choose_order,
    explained_variance,
    fit_kernels,
)
from ghostsearch.surgery.least_squares import NormalEquations, padded
from ghostsearch.surgery.shelf import MEMORY_BYTES, kept

Batches = Sequence[Tensor]


@dataclass(frozen=True)
class FitSettings:
    """Hyper-parameters of the closed-form fit."""

    ridge: float = 1e-4
    """Pull towards the trained filters, relative to the inputs' mean variance."""
    linear_ridge: float = 1e-2
    """The same for linear layers, which have few rows."""
    relu_rounds: int = 2
    """Times the targets behind a ReLU are relaxed to what passes it, and the fit repeated."""
    joint_rounds: int = 2
    """Alternations between the primary's filters and the cheap kernels."""
    gather: bool = True
    """Whether channels whose order cannot be folded into their readers (a sum reads them) may be reordered by an
    index buffer; results/inheritance.md tells what that is worth."""
    joint_steps: int = 3
    """Conjugate-gradient steps on the primary in each."""
    reach: int | None = None
    """Layers refitted behind the last changed one; None for all. A few tell most of what a change costs, sooner."""
    memory_bytes: int = MEMORY_BYTES
    """Values of the images held in memory; more of them lie in files."""


@dataclass
class Target:
    """What a layer's output, plus the shortcut where there is one, should be; one tensor per batch."""

    totals: list[Tensor]
    shortcuts: list[Tensor] | None
    relu: bool
    weight: Tensor
    """(n,) importance of each output channel's squared error."""

    def permuted(self, order: Tensor) -> Target:
        """The same with channels in another order."""
        shortcuts = None if self.shortcuts is None else [kept(s[:, order]) for s in self.shortcuts]
        return Target([kept(t[:, order]) for t in self.totals], shortcuts, self.relu, self.weight[order])

    def first(self) -> list[Tensor]:
        """The layer's own share before anything is predicted."""
        if self.shortcuts is None:
            return self.totals
        return [kept(t - s) for t, s in zip(self.totals, self.shortcuts, strict=True)]

    def relaxed(self, outputs: Batches) -> list[Tensor]:
        """The layer's share, nothing asked of values that a ReLU hides in both nets.

        This is the majorising step for the squared error behind the ReLU: where the baseline's value is negative, any
        negative prediction is its own target (compare Zhang et al. 2016, section 3.2).
        """
        if not self.relu:
            return self.first()
        found = []
        for i, (total, output) in enumerate(zip(self.totals, outputs, strict=True)):
            shortcut = 0 if self.shortcuts is None else self.shortcuts[i]
            seen = torch.where(total > 0, total, (output + shortcut).clamp_max(0))
            found.append(kept(seen - shortcut))
        return found


@dataclass(frozen=True)
class FreeFit:
    """The best filters for a target when nothing constrains them."""

    weight: Tensor
    offset: Tensor
    equations: NormalEquations
    wanted: list[Tensor]
    """The target as it was last relaxed."""
    explained: dict[Any, Tensor] = field(default_factory=dict)
    """`explained_variance` by kind of cheap operation: blocks of several ratios share it."""

    def explained_by(self, block: Any, inputs: Batches) -> Tensor:
        """How much of each target a block's cheap operation explains from each other channel."""
        key = type(block.cheap), tuple(block.cheap.weight.shape[2:])
        if key not in self.explained:
            self.explained[key] = explained_variance(block, self.weight, inputs, self.wanted)
        return self.explained[key]


def fit_filters(
    layer: Any, prior: Tensor, inputs: Batches, target: Target, settings: FitSettings, *, intercept: bool
) -> FreeFit:
    """Unconstrained filters for the target, drawn to `prior`."""
    equations = NormalEquations(layer)
    wanted = target.first()
    weight, offset = prior, torch.zeros(len(prior))
    ridge = settings.linear_ridge if isinstance(layer, nn.Linear) else settings.ridge
    for turn in range(1 + settings.relu_rounds * target.relu):
        if turn:
            outputs = [kept(_apply(layer, x, weight) + _columns(offset, x)) for x in inputs]
            wanted = target.relaxed(outputs)
            equations.clear_targets()
        for x, t in zip(inputs, wanted, strict=True):
            equations.add(x, t, inputs=turn == 0)
        weight, offset = equations.solve(prior, ridge, intercept=intercept)
    return FreeFit(weight, offset, equations, wanted)


def _apply(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    return nn.functional.linear(x, weight) if isinstance(layer, nn.Linear) else layer._conv_forward(x, weight, None)


def _columns(offset: Tensor, x: Tensor) -> Tensor:
    return offset.reshape(-1, *[1] * (x.dim() - 2))


def fit_ghost(
    block: Any, free: FreeFit, inputs: Batches, target: Target, settings: FitSettings, *, intercept: bool, reorder: bool
) -> tuple[GhostFit, Tensor, Tensor]:
    """A ghost convolution's weights for the target: the fit, its intercepts, and the channel at each place of
    the block.

    `reorder=False` keeps the channels where they are. free: the unconstrained fit to the same target.
    """
    full, equations, wanted = free.weight, free.equations, free.wanted
    order = torch.arange(block.out_channels)
    if reorder:
        order = choose_order(block, equations, full, free.explained_by(block, inputs), target.weight)
        target = target.permuted(order)
        wanted = [kept(w[:, order]) for w in wanted]
    fit = GhostFit.of(block)
    m = fit.intrinsic
    fit.primary = full[order[:m]].clone()
    wide = [kept(padded(x, block.primary)) for x in inputs]
    fit_kernels(fit, wide, wanted, intercept=intercept)
    outputs = [kept(fit.outputs(x, fit.primary)) for x in wide]
    joint = JointFit(fit, equations, target.weight, intercept=intercept, ridge=settings.ridge)
    for _ in range(settings.joint_rounds):
        wanted = target.relaxed(_shifted(outputs, wanted, intercept))
        outputs = joint.run(wide, outputs, wanted, settings.joint_steps)
        wanted = target.relaxed(_shifted(outputs, wanted, intercept))
        fit_kernels(fit, wide, wanted, intercept=intercept)
        outputs = [kept(fit.outputs(x, fit.primary)) for x in wide]
    return fit, _offset(outputs, wanted, intercept), order


def _offset(outputs: list[Tensor], wanted: list[Tensor], intercept: bool) -> Tensor:
    mean = channel_means(wanted) - channel_means(outputs)
    return mean.flatten() if intercept else torch.zeros_like(mean).flatten()


def _shifted(outputs: list[Tensor], wanted: list[Tensor], intercept: bool) -> list[Tensor]:
    offset = _columns(_offset(outputs, wanted, intercept), outputs[0])
    return [kept(o + offset) for o in outputs]


def write_ghost(block: Any, fit: GhostFit, scale: Tensor) -> None:
    """Put a fit into a block, biases at zero; output j is multiplied by scale[j] (block order)."""
    m, n = fit.intrinsic, block.out_channels
    ghosts = len(fit.kernels)
    ghost_scale = torch.ones(ghosts)
    ghost_scale[: n - m] = scale[m:]
    relative = (ghost_scale.reshape(m, -1) / scale[:m, None]).reshape(-1, *[1] * (fit.kernels.dim() - 1))
    with torch.no_grad():
        block.primary.weight.copy_(fit.primary * scale[:m].reshape(-1, *[1] * (fit.primary.dim() - 1)))
        if isinstance(block.cheap, Wavelet):
            filters = block.cheap.filters.flatten(1)
            coefficient = (fit.kernels.flatten(1) * filters).sum(1) / filters.square().sum(1)
            block.cheap.scale.copy_(
                coefficient.reshape(block.cheap.scale.shape) * relative.reshape(block.cheap.scale.shape)
            )
        else:
            block.cheap.weight.copy_(fit.kernels * relative)
        for bias in (block.primary.bias, block.cheap.bias):
            if bias is not None:
                bias.zero_()


def write_biases(block: Any, inputs: Batches, offset: Tensor) -> None:
    """Biases that shift the mean of each output by its intercept (block order); the ghosts see their maps'
    biases too.
    """
    if block.primary.bias is None or block.cheap.bias is None:
        return
    m, n = block.primary.out_channels, block.out_channels
    order, block.order = block.order, None
    with torch.no_grad():
        before = channel_means([kept(block(x)) for x in inputs]).flatten()
        block.primary.bias.copy_(offset[:m])
        after = channel_means([kept(block(x)) for x in inputs]).flatten()
        block.cheap.bias[: n - m] = (before + offset - after)[m:]
    block.order = order


def write_low_rank(block: Any, full: Tensor, equations: NormalEquations, weight: Tensor) -> None:
    """Reduced-rank regression: keep the directions of the outputs in which the unconstrained prediction varies most."""
    groups, rank = equations.groups, block.reduce.out_channels // equations.groups
    covariance, _ = equations.centred()
    filters = full.double().reshape(groups, -1, equations.features)
    root = weight.double().reshape(groups, -1, 1).sqrt().clamp_min(1e-6)
    spread = (root * filters) @ covariance @ (root * filters).transpose(1, 2)
    directions = torch.linalg.eigh(spread).eigenvectors[..., -rank:]
    with torch.no_grad():
        block.reduce.weight.copy_((directions.transpose(1, 2) @ (root * filters)).reshape(block.reduce.weight.shape))
        block.expand.weight.copy_((directions / root).reshape(block.expand.weight.shape))
