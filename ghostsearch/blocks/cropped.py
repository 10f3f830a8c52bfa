"""Convolutions whose kernels are cropped to their middle."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ghostsearch.blocks.base import CONVS, Block, Conv, copy_bias, place, scale_filters
from ghostsearch.blocks.own_conv import is_plain
from ghostsearch.errors import GhostsearchError
from ghostsearch.fits.least_squares import cholesky, damped
from ghostsearch.fits.problem import Fitted, Problem
from ghostsearch.fits.sampled_rows import per_dimension
from ghostsearch.space.choice import Crop


class CroppedConv(Block):
    """Drop-in for a convolution with odd kernels: the same convolution with the middle of each kernel alone.

    x: (N, C, *spatial) -> (N, n, *spatial'), as the convolution it replaces. Raises GhostsearchError for one with
    an even kernel or a forward of its own.
    """

    def __init__(self, conv: Conv, choice: Crop) -> None:
        if not is_plain(conv) or not all(k % 2 for k in conv.kernel_size):
            raise GhostsearchError(
                f"choice '{choice}': a convolution of a class of torch.nn with odd kernels can become it, got {conv}"
            )
        super().__init__(conv, choice)
        size = choice.cropped(conv.kernel_size)
        left = (0,) * len(size) if conv.padding == "valid" else per_dimension(conv, "padding")
        self.starts = tuple((k - s) // 2 for k, s in zip(conv.kernel_size, size, strict=True))
        self.outside = [0] * len(size)
        """Positions at each edge that the cropped kernels do not reach, per spatial dimension."""
        if not isinstance(left, str):
            less = [p - d * s for p, d, s in zip(left, per_dimension(conv, "dilation"), self.starts, strict=True)]
            left, self.outside = tuple(max(p, 0) for p in less), [max(-p, 0) for p in less]
        self.conv = CONVS[len(size)](
            conv.in_channels, conv.out_channels, size, conv.stride, left, conv.dilation, conv.groups,
            conv.bias is not None, conv.padding_mode, **place(conv),
        )  # fmt: skip

    @property
    def first(self) -> Conv:
        return self.conv

    def _middle(self, weight: Tensor) -> Tensor:
        """The middle of kernels (n, C/groups, *kernel)."""
        ends = (slice(a, a + s) for a, s in zip(self.starts, self.conv.kernel_size, strict=True))
        return weight[(slice(None), slice(None), *ends)]

    def copy_weights(self, conv: Conv) -> None:
        """The middle of the filters."""
        with torch.no_grad():
            self.conv.weight.copy_(self._middle(conv.weight))
        copy_bias(conv, self.conv)

    def fit(self, problem: Problem) -> Fitted:
        """Least squares for what is left of the kernels, towards the unconstrained filters and by what they read."""
        free = problem.free
        inputs = damped(free.equations.centred(), problem.ridge)
        numbers = torch.arange(free.weight[0].numel(), device=inputs.device).reshape(1, *free.weight.shape[1:])
        left = self._middle(numbers).flatten()
        filters = free.weight.to(inputs.dtype).reshape(len(inputs), -1, inputs.shape[-1])
        kept = inputs[:, left]
        solved = torch.cholesky_solve(kept @ filters.mT, cholesky(kept[:, :, left], 0.0)).mT
        self.conv.weight.copy_(solved.reshape(self.conv.weight.shape))
        whole: Any = torch.zeros_like(filters)
        whole[:, :, left] = solved
        return Fitted.of(
            self.conv, problem.outputs(whole.reshape(free.weight.shape).to(free.weight.dtype)), free.wanted
        )

    def scale_outputs(self, factors: Tensor) -> None:
        scale_filters(self.conv, factors)

    def forward(self, input: Tensor) -> Tensor:
        if any(self.outside):
            input = F.pad(input, [-side for outside in reversed(self.outside) for side in (outside, outside)])
        y: Tensor = self.conv(input)
        return y
