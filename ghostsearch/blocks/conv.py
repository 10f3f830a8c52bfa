"""What all blocks share with the convolution they replace."""

from __future__ import annotations

from typing import Any

from torch import nn

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


def place(conv: Conv) -> dict[str, Any]:
    """Device and dtype of a convolution, as factory arguments."""
    return {"device": conv.weight.device, "dtype": conv.weight.dtype}


def resized(conv: Conv, out_channels: int, *, bias: bool | None = None) -> Conv:
    """A fresh convolution like `conv` (kernel, stride, padding and its mode, dilation, groups) with other output channels."""
    return CONVS[conv.weight.dim() - 2](
        conv.in_channels, out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups,
        conv.bias is not None if bias is None else bias, conv.padding_mode, **place(conv),
    )  # fmt: skip
