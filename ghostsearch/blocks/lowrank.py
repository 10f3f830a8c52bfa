"""Low-rank convolutions: a k×k convolution to few maps, then 1×1 to all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ghostsearch.blocks.base import CONVS, Block, Conv, place
from ghostsearch.blocks.own_conv import effective_weight, resized
from ghostsearch.space.choice import Filters, LowRank


class LowRankConv(Block):
    """Drop-in for a convolution: the filters' matrix (n, C·k·k) as a product of rank r (Zhang et al., TPAMI 2016).

    Channel groups stay: each has its own product.

    x: (N, C, *spatial) -> (N, n, *spatial'), as the convolution it replaces.
    """

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
            if self.expand.bias is not None and conv.bias is not None:
                self.expand.bias.copy_(conv.bias)

    def scale_outputs(self, factors: Tensor) -> None:
        with torch.no_grad():
            self.expand.weight.mul_(factors.reshape(-1, *[1] * (self.expand.weight.dim() - 1)))
            if self.expand.bias is not None:
                self.expand.bias.mul_(factors)

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self.expand(self.reduce(input))
        return y
