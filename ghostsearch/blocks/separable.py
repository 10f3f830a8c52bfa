"""Depthwise-separable convolutions: depthwise kernels for each input channel, then 1×1 to all outputs."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from ghostsearch.blocks.base import CONVS, Block, Conv, copy_bias, place, scale_filters
from ghostsearch.blocks.own_conv import is_plain
from ghostsearch.errors import GhostsearchError
from ghostsearch.fits.least_squares import cholesky, damped, floored
from ghostsearch.fits.problem import Fitted, Problem
from ghostsearch.space.choice import Separable

ROUNDS = 4
"""Alternations between the two convolutions; the error changes little after the second."""


class SeparableConv(Block):
    """Drop-in for a convolution: `multiplier` depthwise kernels for each input channel, then 1×1 (Guo et al. 2018).

    The filters (n, C, k) that read one input channel become a matrix (n, k) of rank `multiplier`. The input is repeated
    before an ordinary depthwise convolution: runtimes have no fast one that makes several maps of a channel.

    x: (N, C, *spatial) -> (N, n, *spatial'), as the convolution it replaces. Raises GhostsearchError for one with
    groups or a forward of its own, and for more kernels than the kernel has positions, which say nothing new.
    """

    reads_metric = True

    def __init__(self, conv: Conv, choice: Separable) -> None:
        if conv.groups > 1 or not is_plain(conv) or choice.multiplier > prod(conv.kernel_size):
            raise GhostsearchError(
                f"choice '{choice}': a convolution without groups, of a class of torch.nn, with a kernel of at least "
                f"{choice.multiplier} positions can become it, got {conv}"
            )
        super().__init__(conv, choice)
        self.copies = choice.multiplier
        maps, dims = choice.multiplier * conv.in_channels, CONVS[conv.weight.dim() - 2]
        self.depthwise = dims(
            maps, maps, conv.kernel_size, conv.stride, conv.padding, conv.dilation, maps, False, conv.padding_mode,
            **place(conv),
        )  # fmt: skip
        self.pointwise = dims(maps, conv.out_channels, 1, bias=conv.bias is not None, **place(conv))

    @property
    def first(self) -> Conv:
        return self.depthwise

    def copy_weights(self, conv: Conv) -> None:
        """The truncated SVD of what the filters do to each input channel."""
        with torch.no_grad():
            self._write(*_of_rank(conv.weight.float().flatten(2), self.copies))
        copy_bias(conv, self.pointwise)

    def fit(self, problem: Problem) -> Fitted:
        """Alternating least squares for both convolutions, towards the unconstrained filters and by what they read."""
        free = problem.free
        inputs = damped(free.equations.centred()[0], problem.ridge)
        filters = free.weight.to(inputs.dtype).flatten(2)
        fit = SeparableFit(filters, inputs, output_weights(problem.metric, filters))
        columns, kernels = _of_rank(filters, self.copies)
        for _ in range(ROUNDS):
            columns = fit.columns(kernels)
            kernels = fit.kernels(columns, kernels)
        columns = fit.columns(kernels)
        lengths = fit.lengths(kernels)
        columns, kernels = columns * lengths, kernels / lengths[..., None]
        self._write(columns, kernels)
        whole = torch.einsum("ncm,cmk->nck", columns, kernels)
        outputs = problem.outputs(whole.reshape(free.weight.shape).to(free.weight.dtype))
        return Fitted.of(self.pointwise, outputs, free.wanted)

    def _write(self, columns: Tensor, kernels: Tensor) -> None:
        """Columns (n, C, m) and kernels (C, m, k): the m-th maps of all channels stand together."""
        self.pointwise.weight.copy_(columns.transpose(1, 2).reshape(self.pointwise.weight.shape))
        self.depthwise.weight.copy_(kernels.transpose(0, 1).reshape(self.depthwise.weight.shape))

    def scale_outputs(self, factors: Tensor) -> None:
        scale_filters(self.pointwise, factors)

    def forward(self, input: Tensor) -> Tensor:
        x = input if self.copies == 1 else torch.cat([input] * self.copies, dim=1)
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


class SeparableFit:
    """The squared error of W'[n, c, k] = Σₘ P[n, c, m] D[c, m, k] from filters W, by the inputs' and outputs' metrics.

    filters: (n, C, k); inputs: (C·k, C·k), covariance of what a filter reads; outputs: (n, n).
    """

    def __init__(self, filters: Tensor, inputs: Tensor, outputs: Tensor) -> None:
        self.filters, self.inputs, self.outputs = filters, inputs, outputs
        n, c, k = filters.shape
        self.four = inputs.reshape(c, k, c, k)
        self.crossed = (inputs @ filters.flatten(1).T).reshape(c, k, n)

    def columns(self, kernels: Tensor) -> Tensor:
        """The best P for kernels D (C, m, k): (n, C, m), whatever the outputs' metric."""
        c, m, _ = kernels.shape
        seen = torch.einsum("cmk,ckdl->cmdl", kernels, self.four)
        matrix = torch.einsum("cmdl,dpl->cmdp", seen, kernels).reshape(c * m, c * m)
        wanted = torch.einsum("cmk,ckn->cmn", kernels, self.crossed).reshape(c * m, -1)
        return torch.cholesky_solve(wanted, cholesky(matrix, 1e-6)).T.reshape(-1, c, m)

    def kernels(self, columns: Tensor, kernels: Tensor) -> Tensor:
        """The best D for columns P (n, C, m), one kernel of every channel after the other: (C, m, k)."""
        c, m, k = kernels.shape
        kernels, weighed = kernels.clone(), torch.einsum("nj,jcm->ncm", self.outputs, columns)
        wanted = torch.einsum("ncm,ckn->cmk", weighed, self.crossed)
        products = torch.einsum("ncm,ndp->cmdp", weighed, columns)
        for i in range(m):
            missing = wanted[:, i].clone()
            for j in set(range(m)) - {i}:
                missing -= torch.einsum("cd,ckdl,dl->ck", products[:, i, :, j], self.four, kernels[:, j])
            matrix = (products[:, i, :, i][:, None, :, None] * self.four).reshape(c * k, c * k)
            solved = torch.cholesky_solve(missing.reshape(-1, 1), cholesky(matrix, 1e-6))
            kernels[:, i] = solved.reshape(c, k)
        return kernels

    def lengths(self, kernels: Tensor) -> Tensor:
        """Spread of each map that kernels (C, m, k) make, over their mean: (C, m); 1 for a map of nothing.

        With all maps of one spread, an int8 network's single scale serves them all.
        """
        c, k = len(kernels), kernels.shape[-1]
        own = self.four[torch.arange(c), :, torch.arange(c)].reshape(c, k, k)
        spread = torch.einsum("cmk,ckl,cml->cm", kernels, own, kernels).clamp_min(0).sqrt()
        relative = spread / spread.mean().clamp_min(1e-30)
        return torch.where(relative > 1e-3, relative, 1.0)


def output_weights(metric: Tensor | None, filters: Tensor) -> Tensor:
    """(n, n) what an error at the outputs of filters (n, C, k) counts: the metric over its mean, `floored`; one each
    where there is none, or nothing counts (a softmax over one class).
    """
    size = None if metric is None else metric.diagonal().mean()
    if metric is None or not size or not size.isfinite():
        return torch.eye(len(filters), dtype=filters.dtype, device=filters.device)
    # Of a confident network it is so small that what keeps a matrix solvable would swamp it.
    return floored((metric / size).to(filters))


def _of_rank(filters: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Columns (n, C, m) and kernels (C, m, k) whose products come nearest to filters (n, C, k)."""
    u, s, v = torch.linalg.svd(filters.transpose(0, 1), full_matrices=False)
    have = min(rank, s.shape[1])
    columns: Any = filters.new_zeros(*filters.shape[:2], rank)
    kernels = filters.new_zeros(filters.shape[1], rank, filters.shape[2])
    columns[..., :have] = (u[..., :have] * s[:, None, :have]).transpose(0, 1)
    kernels[:, :have] = v[:, :have]
    return columns, kernels
