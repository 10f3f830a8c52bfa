"""Low-rank convolutions: a k×k convolution to few maps, then 1×1 to all of them."""

from __future__ import annotations

from math import prod

from torch import Tensor

from ghostsearch.blocks.conv import CONVS, Block, Conv, place, resized
from ghostsearch.blocks.formulas import low_rank
from ghostsearch.space.choice import LowRank


class LowRankConv(Block):
    """Drop-in for a convolution: the filters' matrix (n, C·k·k) as a product of rank r (Zhang et al., TPAMI 2016).

    Channel groups stay: each has its own product.

    x: (N, C, *spatial) -> (N, n, *spatial'), as the convolution it replaces.
    """

    # The channels come out in the convolution's order whatever `ordered` says.
    def __init__(self, conv: Conv, choice: LowRank, *, ordered: bool = False) -> None:  # noqa: ARG002
        super().__init__(conv, choice)
        rank = low_rank(conv.in_channels, conv.out_channels, prod(conv.kernel_size), choice.rank, conv.groups)
        self.reduce = resized(conv, rank, bias=False)
        self.expand = CONVS[conv.weight.dim() - 2](
            rank, conv.out_channels, 1, groups=conv.groups, bias=conv.bias is not None, **place(conv)
        )

    @property
    def first(self) -> Conv:
        return self.reduce

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand(self.reduce(x))
        return y
