"""Ghost convolutions: a few intrinsic maps by convolution, the rest by a cheap operation on them."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn

from ghostsearch.choices import Ghost

CONVS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class GhostConv(nn.Module):
    """Drop-in for a convolution: primary conv to m = ceil(n/s) maps, depthwise d×d to (s-1)·m ghosts, concatenated.

    The swap is linear (no BN or activation inside): the converted net's own follow it, and a least-squares fit of the
    weights is exact. Dilation, stride, padding and its mode belong to the primary alone (Han et al. 2020, section 3.1;
    the dilation by the authors' word on conversion). Channels are cut to n only when s·m > n.

    x: (N, C, *spatial) -> (N, n, *spatial'), as the convolution it replaces.
    """

    order: Tensor | None

    def __init__(self, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, choice: Ghost, *, ordered: bool = False) -> None:
        super().__init__()
        n, dims = conv.out_channels, conv.weight.dim() - 2
        m = ceil(n / choice.ratio)
        make = CONVS[dims]
        place = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        self.choice = choice
        self.out_channels = n
        self.primary = make(
            conv.in_channels, m, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups,
            conv.bias is not None, conv.padding_mode, **place,
        )  # fmt: skip
        self.cheap = make(
            m, m * (choice.ratio - 1), choice.kernel, padding=choice.kernel // 2, groups=m,
            bias=conv.bias is not None, **place,
        )  # fmt: skip
        # Output channel j of the original sits at position order[j]; None when the natural order serves, so that the
        # exported graph has no gather.
        self.register_buffer("order", torch.arange(n, device=conv.weight.device) if ordered else None)
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        intrinsic = self.primary(x)
        y = torch.cat([intrinsic, self.cheap(intrinsic)], dim=1)
        if y.shape[1] > self.out_channels:
            y = y[:, : self.out_channels]
        return y if self.order is None else y.index_select(1, self.order)
