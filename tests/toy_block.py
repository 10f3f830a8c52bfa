"""A block as a user's package brings one: its choice, the block, and its row in the table."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ghostsearch.blocks.base import CONVS, Block, Conv
from ghostsearch.blocks.table import BLOCKS
from ghostsearch.fits.least_squares import NormalEquations
from ghostsearch.fits.problem import Fitted, Problem
from ghostsearch.space.choice import Filters, LayerChoice, Look


@dataclass(frozen=True)
class Blind(LayerChoice):
    """A convolution that sees only the first of its input channels."""

    name: ClassVar[str] = "blind"
    seen: float = 0.5

    def __str__(self) -> str:
        return f"blind(seen={self.seen:g})"

    def inputs(self, filters: Filters) -> int:
        return max(1, int(self.seen * filters.in_channels))

    def position_macs(self, filters: Filters) -> int:
        return filters.out_channels * self.inputs(filters) * filters.taps // filters.in_channels

    def params(self, filters: Filters) -> int:
        return self.position_macs(filters) + filters.out_channels * filters.bias

    def suits(self, filters: Filters) -> bool:
        return filters.groups == 1

    @property
    def look(self) -> Look:
        return Look("bl", (5, -self.seen), "#123456")


class BlindConv(Block):
    def __init__(self, conv: Conv, choice: Blind) -> None:
        super().__init__(conv, choice)
        self.seen = choice.inputs(Filters(conv.in_channels, conv.out_channels, conv.kernel_size))
        self.conv = CONVS[conv.weight.dim() - 2](
            self.seen, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
            bias=conv.bias is not None, device=conv.weight.device, dtype=conv.weight.dtype,
        )  # fmt: skip

    @property
    def first(self) -> Conv:
        return self.conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[:, : self.seen])

    @torch.no_grad()
    def copy_weights(self, conv: Conv) -> None:
        self.conv.weight.copy_(conv.weight[:, : self.seen])
        if conv.bias is not None:
            self.conv.bias.copy_(conv.bias)

    def fit(self, problem: Problem) -> Fitted:
        wanted, inputs = problem.target.first(), [x[:, : self.seen] for x in problem.samples.inner]
        equations = NormalEquations(self.conv, intercept=problem.intercept)
        for x, t in zip(inputs, wanted, strict=True):
            equations.add(x, t)
        self.conv.weight.copy_(equations.solve(problem.prior[:, : self.seen], problem.ridge)[0])
        outputs = [F.conv2d(x, self.conv.weight, None, self.conv.stride, 0, self.conv.dilation) for x in inputs]
        return Fitted.of(self.conv, outputs, wanted)

    @torch.no_grad()
    def scale_outputs(self, factors: Tensor) -> None:
        self.conv.weight.mul_(factors.reshape(-1, *[1] * (self.conv.weight.dim() - 1)))
        if self.conv.bias is not None:
            self.conv.bias.mul_(factors)


BLOCKS[Blind] = BlindConv
