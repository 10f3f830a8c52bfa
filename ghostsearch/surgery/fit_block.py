"""The closed-form fit of each kind of layer: its weights for a problem, but for constants and scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from ghostsearch.blocks.base import Block
from ghostsearch.blocks.ghost import GhostConv
from ghostsearch.blocks.lowrank import LowRankConv
from ghostsearch.surgery.fit_ghost import GhostFit, JointFit, channel_means, spread
from ghostsearch.surgery.fit_problem import FreeFit, Problem
from ghostsearch.surgery.ghost_order import choose_order, explained_variance
from ghostsearch.surgery.least_squares import by_channel, gram


@dataclass(frozen=True)
class Fitted:
    """A layer's weights are in place, its biases at zero; this is what they give."""

    outputs: list[Tensor]
    """Per part (K, n, *size), channels as the layer makes them, without constants."""
    wanted: list[Tensor]
    """The targets that they were fitted to."""
    shift: Callable[[Tensor], None]
    """Sets biases to constants (n,), where the layer has any."""
    order: Tensor | None = None
    """The original channel at each place; None when nothing is moved."""


@singledispatch
def fit_block(layer: Any, problem: Problem) -> Fitted | None:
    """Fit a layer of the converted net; None where it has no fit and keeps the weights that it has."""
    if isinstance(layer, Block):
        return layer.fit(problem)
    free = problem.free
    layer.weight.copy_(free.weight)
    return Fitted(problem.outputs(free.weight), free.wanted, _bias_of(layer))


def _bias_of(layer: Any) -> Callable[[Tensor], None]:
    def shift(offset: Tensor) -> None:
        if layer.bias is not None:
            layer.bias.copy_(offset)

    if layer.bias is not None:
        layer.bias.zero_()
    return shift


@fit_block.register
def _(block: GhostConv, problem: Problem) -> Fitted:
    free, target, settings = problem.free, problem.target, problem.settings
    n = block.out_channels
    order = torch.arange(n)
    if problem.reorder:
        key = type(block.cheap), tuple(block.cheap.weight.shape[2:])
        if key not in free.explained:
            free.explained[key] = explained_variance(block, free.weight, problem.samples, free.wanted)
        if "own" not in free.explained:
            free.explained["own"] = free.equations.explained(free.weight)
        order = choose_order(block, free.explained["own"], free.explained[key], target.weight)
    moved = order.to(free.weight.device)
    target, wanted = target.permuted(moved), [w[:, moved] for w in free.wanted]
    fit = GhostFit.of(block, problem.samples)
    fit.start(free.weight[moved[: fit.intrinsic]])
    fit.fit_kernels(wanted, intercept=problem.intercept)
    outputs = fit.outputs(fit.maps)
    joint = JointFit(fit, free.equations, target.weight, intercept=problem.intercept, ridge=settings.ridge)
    for _ in range(settings.joint_rounds):
        wanted = target.relaxed(_shifted(problem, outputs, wanted))
        outputs = joint.run(outputs, wanted, settings.joint_steps)
        wanted = target.relaxed(_shifted(problem, outputs, wanted))
        fit.fit_kernels(wanted, intercept=problem.intercept)
        outputs = fit.outputs(fit.maps)
    fit.write()
    natural = bool((order == torch.arange(n)).all())
    return Fitted(outputs, wanted, fit.shift, None if natural else moved)


def _shifted(problem: Problem, outputs: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
    offset = spread(problem.offset(outputs, wanted), outputs[0])
    return [o + offset for o in outputs]


@fit_block.register
def _(block: LowRankConv, problem: Problem) -> Fitted:
    """Reduced-rank regression: the directions of the outputs in which the unconstrained prediction varies most, by the
    output metric G: W' = G^-½ U Uᵀ G^½ W, U the top eigenvectors of G^½ Cov(W x) G^½.
    """
    free, groups = problem.free, block.reduce.groups
    rank = block.reduce.out_channels // groups
    covariance = _output_covariance(problem, free)
    root, back = metric_roots(problem.metric, covariance)
    directions = torch.linalg.eigh(root @ covariance @ root).eigenvectors[..., -rank:]
    filters = free.weight.double().reshape(groups, -1, free.weight[0].numel())
    reduce, expand = _balanced(directions.mT @ root @ filters, back @ directions)
    block.reduce.weight.copy_(reduce.reshape(block.reduce.weight.shape))
    block.expand.weight.copy_(expand.reshape(block.expand.weight.shape))
    whole = expand @ reduce
    outputs = problem.outputs(whole.reshape(free.weight.shape).to(free.weight.dtype))
    return Fitted(outputs, free.wanted, _bias_of(block.expand))


def _balanced(reduce: Tensor, expand: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (g, r, k) and (g, n, r) of the same product, each row of the first as long as its column of the second.

    Only then do both learn at one rate: a metric of small gradients makes one hundred thousand times the other.
    """
    lengths = (reduce.norm(dim=-1) / expand.norm(dim=-2).clamp_min(1e-30)).clamp_min(1e-30).sqrt()
    return reduce / lengths[..., :, None], expand * lengths[..., None, :]


def _output_covariance(problem: Problem, free: FreeFit) -> Tensor:
    """Covariance of the unconstrained fit's outputs times their number: (groups, n/groups, n/groups)."""
    outputs = problem.outputs(free.weight)
    mean, groups = channel_means(outputs), free.equations.groups
    n = len(mean) // groups
    total = torch.zeros(groups, n, n, dtype=torch.float64, device=mean.device)
    for values in outputs:
        total += gram(by_channel(values - spread(mean, values)).reshape(groups, n, -1))
    return total


def metric_roots(metric: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """G^½ and G^-½, a hundredth of the mean diagonal added, per group of channels; identities where there is no
    metric. metric: (n, n); like: (groups, n/groups, n/groups).
    """
    groups, n = like.shape[:2]
    eye = torch.eye(n, dtype=like.dtype, device=like.device).expand(groups, n, n)
    if metric is None:
        return eye, eye
    blocks = torch.stack([metric[g * n : (g + 1) * n, g * n : (g + 1) * n] for g in range(groups)]).to(like)
    level = blocks.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    values, vectors = torch.linalg.eigh(blocks + (1e-2 * level + 1e-30) * eye)
    values = values.clamp_min(1e-30).sqrt().unsqueeze(-2)
    return (vectors * values) @ vectors.mT, (vectors / values) @ vectors.mT


def scale_outputs(layer: Any, factors: Tensor) -> None:
    """Multiply a layer's outputs, biases aside: (n,), channels as the layer makes them."""
    if isinstance(layer, Block):
        layer.scale_outputs(factors)
    else:
        layer.weight.mul_(factors.reshape(-1, *[1] * (layer.weight.dim() - 1)))
