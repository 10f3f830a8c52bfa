"""Ghost convolutions: a few intrinsic maps by convolution, the rest by a cheap operation on them."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostsearch.blocks.base import CONVS, Block, Conv, place
from ghostsearch.blocks.own_conv import copy_filters, effective_weight, resized
from ghostsearch.space.choice import Ghost, intrinsic_channels


class GhostConv(Block):
    """Drop-in for a convolution: primary conv to m = ceil(n/s) maps, a cheap operation to (s-1)·m ghosts, concatenated.

    The swap is linear (no BN or activation inside): the converted net's own follow it, and a least-squares fit of the
    weights is exact. Dilation, stride, padding and its mode belong to the primary alone (Han et al. 2020, section 3.1;
    the dilation by the authors' word on conversion). Channels are cut to n only when s·m > n.

    x: (N, C, *spatial) -> (N, n, *spatial'), as the convolution it replaces.
    """

    def __init__(self, conv: Conv, choice: Ghost) -> None:
        super().__init__(conv, choice)
        m = intrinsic_channels(conv.out_channels, choice.ratio, conv.groups)
        self.primary = resized(conv, m)
        self.cheap: Any = CHEAP[choice.cheap](conv, m, choice)

    @property
    def first(self) -> Conv:
        return self.primary

    def copy_weights(self, conv: Conv) -> None:
        """The first filters become the primary's, and each ghost is its intrinsic map scaled to fit its filter best."""
        m = self.primary.out_channels
        filters = effective_weight(conv).float().flatten(1)
        ghosts = len(self.cheap.weight)
        parents = torch.arange(ghosts, device=filters.device) // (ghosts // m)
        wanted = torch.zeros(ghosts, filters.shape[1], device=filters.device)
        wanted[: len(filters) - m] = filters[m:]
        have = filters[parents]
        scale = (wanted * have).sum(1) / have.square().sum(1).clamp_min(1e-12)
        with torch.no_grad():
            copy_filters(conv, self.primary)
            if isinstance(self.cheap, Wavelet):
                self.cheap.scale.copy_(scale.reshape(self.cheap.scale.shape))
            else:
                self.cheap.weight.zero_()
                centre = tuple(d // 2 for d in self.cheap.kernel_size)
                self.cheap.weight[(slice(None), 0, *centre)] = scale.to(self.cheap.weight.dtype)
            if self.cheap.bias is not None:
                self.cheap.bias.zero_()
            if self.primary.bias is not None and self.cheap.bias is not None and conv.bias is not None:
                own = scale * conv.bias[parents]
                self.cheap.bias[: len(filters) - m] = conv.bias[m:] - own[: len(filters) - m]

    def scale_outputs(self, factors: Tensor) -> None:
        m, n = self.primary.out_channels, self.out_channels
        ghosts = torch.ones(len(self.cheap.weight), dtype=factors.dtype, device=factors.device)
        ghosts[: n - m] = factors[m:]
        # A ghost reads the scaled map.
        relative = (ghosts.reshape(m, -1) / factors[:m, None]).flatten()
        scaled = self.cheap.scale if isinstance(self.cheap, Wavelet) else self.cheap.weight
        with torch.no_grad():
            self.primary.weight.mul_(factors[:m].reshape(-1, *[1] * (self.primary.weight.dim() - 1)))
            scaled.mul_(relative.reshape(-1, *[1] * (scaled.dim() - 1)))
            if self.primary.bias is not None:
                self.primary.bias.mul_(factors[:m])
            if self.cheap.bias is not None:
                self.cheap.bias.mul_(ghosts)

    def forward(self, input: Tensor) -> Tensor:
        intrinsic = self.primary(input)
        y = torch.cat([intrinsic, self.cheap(intrinsic)], dim=1)
        if self.order is not None:
            return y.index_select(1, self.order)
        return y if y.shape[1] == self.out_channels else y[:, : self.out_channels]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Whether a fit needed an order is known from the weights alone.
        saved = state_dict.get(f"{prefix}order")
        if saved is None:
            self.order = None
        elif self.order is None:
            self.order = torch.arange(self.out_channels, device=self.primary.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


class GhostConv2d(GhostConv):
    """`nn.Conv2d`'s arguments plus `ratio`, `cheap_kernel`, `cheap`: for networks written with ghosts from the start.

    x: (N, C, H, W) -> (N, n, H', W'). Raises GhostsearchError for a ratio below 2 or an even kernel.
    """

    def __init__(
        self, *arguments: Any, ratio: int = 2, cheap_kernel: int = 3, cheap: str = "conv", **keywords: Any
    ) -> None:
        super().__init__(nn.Conv2d(*arguments, **keywords), Ghost(ratio, cheap_kernel, cheap))


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
