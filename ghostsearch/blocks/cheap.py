"""Cheap operations of ghost convolutions: what makes the ghosts of the intrinsic maps."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostsearch.blocks.base import CONVS, Conv, place
from ghostsearch.space.choice import Ghost


def depthwise(conv: Conv, channels: int, choice: Ghost) -> nn.Module:
    """The paper's cheap operation: a depthwise d×d convolution, stride 1, padding d//2 (section 3.1)."""
    make = CONVS[conv.weight.dim() - 2]
    return make(
        channels, channels * (choice.ratio - 1), choice.kernel, padding=choice.kernel // 2, groups=channels,
        bias=conv.bias is not None, **place(conv),
    )  # fmt: skip


def affine(conv: Conv, channels: int, choice: Ghost) -> nn.Module:
    """A scale and a shift per ghost (the paper's affine transform, section 4.1): 1×1 depthwise with bias."""
    make = CONVS[conv.weight.dim() - 2]
    return make(channels, channels * (choice.ratio - 1), 1, groups=channels, bias=True, **place(conv))


class Wavelet(nn.Module):
    """Fixed Haar filters with a learned scale per ghost (the paper's wavelet transform, section 4.1).

    Ghost g of the (s-1)·m takes band g mod 2^dims of the undecimated one-level transform, so that all bands serve.

    x: (N, m, *spatial) -> (N, (s-1)·m, *spatial).
    """

    filters: Tensor

    def __init__(self, conv: Conv, channels: int, choice: Ghost) -> None:
        super().__init__()
        dims, ghosts = conv.weight.dim() - 2, channels * (choice.ratio - 1)
        bands = haar_bands(dims).to(**place(conv))
        self.channels = channels
        self.register_buffer("filters", bands[torch.arange(ghosts) % len(bands)].unsqueeze(1))
        self.scale = nn.Parameter(torch.ones(ghosts, *[1] * (dims + 1), **place(conv)))
        self.bias = nn.Parameter(torch.zeros(ghosts, **place(conv))) if conv.bias is not None else None
        self.convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dims]

    @property
    def weight(self) -> Tensor:
        """The scaled filters: ((s-1)·m, 1, 2, …)."""
        return self.filters * self.scale

    def forward(self, x: Tensor) -> Tensor:
        # Two taps have no centre: one zero behind each axis keeps the size.
        padded = F.pad(x, [0, 1] * (x.dim() - 2))
        return self.convolve(padded, self.weight, self.bias, groups=self.channels)


def haar_bands(dims: int) -> Tensor:
    """The 2^dims orthonormal Haar filters of one level: (2^dims, 2, …)."""
    low, high = torch.tensor([1.0, 1.0]) / 2**0.5, torch.tensor([1.0, -1.0]) / 2**0.5
    axes = "abc"[:dims]
    return torch.stack([torch.einsum(f"{','.join(axes)}->{axes}", *taps) for taps in product((low, high), repeat=dims)])


CHEAP = {"conv": depthwise, "affine": affine, "wavelet": Wavelet}
"""Cheap operation by its name in the choice: (conv, intrinsic maps, choice) -> module."""
