"""Low-rank convolutions: a k×k convolution to few maps, then 1×1 to all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ghostsearch.blocks.base import CONVS, Block, Conv, copy_bias, place, scale_filters
from ghostsearch.blocks.own_conv import effective_weight, resized
from ghostsearch.fits.least_squares import by_channel, floored, gram
from ghostsearch.fits.problem import Fitted, FreeFit, Problem, channel_means, spread
from ghostsearch.space.choice import Filters, LowRank


class LowRankConv(Block):
    """Drop-in for a convolution: the filters' matrix (n, C·k·k) as a product of rank r (Zhang et al., TPAMI 2016).

    Channel groups stay: each has its own product.

    x: (N, C, *spatial) -> (N, n, *spatial'), as the convolution it replaces.
    """

    reads_metric = True

    def __init__(self, conv: Conv, choice: LowRank) -> None:
        super().__init__(conv, choice)
        rank = choice.maps(Filters(conv.in_channels, conv.out_channels, conv.kernel_size, conv.groups))
        self.reduce = resized(conv, rank, bias=False)
        self.expand = CONVS[conv.weight.dim() - 2](
            rank, conv.out_channels, 1, groups=conv.groups, bias=conv.bias is not None, **place(conv)
        )

    @property
    def first(self) -> Conv:
        return self.reduce

    def copy_weights(self, conv: Conv) -> None:
        """The truncated SVD of the filters, group by group."""
        groups, rank = conv.groups, self.reduce.out_channels // conv.groups
        down: list[Tensor] = []
        up: list[Tensor] = []
        for filters in effective_weight(conv).float().flatten(1).chunk(groups):
            u, s, v = torch.linalg.svd(filters, full_matrices=False)
            root = s[:rank].sqrt()
            up.append(u[:, :rank] * root)
            down.append(root[:, None] * v[:rank])
        with torch.no_grad():
            wanted = torch.cat(down)
            self.reduce.weight.copy_(wanted.reshape(self.reduce.weight.shape))
            # A class that standardises its filters gives these rows another length.
            got = effective_weight(self.reduce).float().flatten(1)
            longer = (got * wanted).sum(1) / wanted.square().sum(1).clamp_min(1e-30)
            columns = torch.cat(up) / torch.where(longer.abs() > 1e-6, longer, 1.0).reshape(groups, 1, rank).expand(
                groups, len(up[0]), rank
            ).reshape(-1, rank)
            self.expand.weight.copy_(columns.reshape(self.expand.weight.shape))
        copy_bias(conv, self.expand)

    def fit(self, problem: Problem) -> Fitted:
        """Reduced-rank regression: the directions of the outputs in which the unconstrained prediction varies most, by
        the output metric G: W' = G^-½ U Uᵀ G^½ W, U the top eigenvectors of G^½ Cov(W x) G^½.
        """
        free, groups = problem.free, self.reduce.groups
        rank = self.reduce.out_channels // groups
        covariance = _output_covariance(problem, free)
        root, back = metric_roots(problem.metric, covariance)
        directions = torch.linalg.eigh(root @ covariance @ root).eigenvectors[..., -rank:]
        filters = free.weight.double().reshape(groups, -1, free.weight[0].numel())
        reduce, expand = _balanced(directions.mT @ root @ filters, back @ directions)
        self.reduce.weight.copy_(reduce.reshape(self.reduce.weight.shape))
        self.expand.weight.copy_(expand.reshape(self.expand.weight.shape))
        whole = expand @ reduce
        outputs = problem.outputs(whole.reshape(free.weight.shape).to(free.weight.dtype))
        return Fitted.of(self.expand, outputs, free.wanted)

    def scale_outputs(self, factors: Tensor) -> None:
        scale_filters(self.expand, factors)

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self.expand(self.reduce(input))
        return y


def _balanced(reduce: Tensor, expand: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (g, r, k) and (g, n, r) of the same product, each row of the first as long as its column of the second.

    Only then do both learn at one rate: a metric of small gradients makes one hundred thousand times the other.
    """
    lengths = (reduce.norm(dim=-1) / expand.norm(dim=-2).clamp_min(1e-30)).clamp_min(1e-30).sqrt()
    return reduce / lengths[..., :, None], expand * lengths[..., None, :]


def _output_covariance(problem: Problem, free: FreeFit) -> Tensor:
    """Covariance of the unconstrained fit's outputs times their number: (groups, n/groups, n/groups).

    Without a constant that takes up the means they stay in.
    """
    outputs = problem.outputs(free.weight)
    mean, groups = channel_means(outputs) * problem.intercept, free.equations.groups
    n = len(mean) // groups
    total = torch.zeros(groups, n, n, dtype=torch.float64, device=mean.device)
    for values in outputs:
        total += gram(by_channel(values - spread(mean, values)).reshape(groups, n, -1))
    return total


def metric_roots(metric: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """G^½ and G^-½, `floored`, per group of channels; identities where there is no
    metric. metric: (n, n); like: (groups, n/groups, n/groups).
    """
    groups, n = like.shape[:2]
    eye = torch.eye(n, dtype=like.dtype, device=like.device).expand(groups, n, n)
    if metric is None:
        return eye, eye
    blocks = torch.stack([metric[g * n : (g + 1) * n, g * n : (g + 1) * n] for g in range(groups)]).to(like)
    values, vectors = torch.linalg.eigh(floored(blocks))
    values = values.clamp_min(1e-30).sqrt().unsqueeze(-2)
    return (vectors * values) @ vectors.mT, (vectors / values) @ vectors.mT
