"""The blocks of GhostNet (Han et al. 2020) and GhostNetV2 (Tang et al. 2022), named as in the released checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostsearch.space.choice import Ghost, intrinsic_channels


@dataclass(frozen=True)
class Row:
    """One bottleneck of the architecture table (Han et al. 2020, table 1)."""

    stage: int
    kernel: int
    """Of the stride-2 depthwise convolution and of the shortcut's; bottlenecks of stride 1 have neither."""
    expansion: int
    out: int
    squeeze: bool
    """Whether squeeze-and-excite stands between the two ghost modules."""
    stride: int


def make_divisible(channels: float) -> int:
    """Channels rounded to a multiple of 4, never more than a tenth below what was asked for."""
    rounded = max(4, int(channels + 2) // 4 * 4)
    return rounded + 4 if rounded < 0.9 * channels else rounded


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int],
    *,
    stride: int = 1,
    groups: int = 1,
    relu: bool = False,
) -> list[nn.Module]:
    """A bias-free convolution that keeps the size (but for its stride), BN and, where asked for, ReLU."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (sides[0] // 2, sides[1] // 2)
    conv = nn.Conv2d(in_channels, out_channels, sides, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), *([nn.ReLU(inplace=True)] if relu else [])]


class GhostModule(nn.Module):
    """The paper's module: intrinsic maps by convolution, ghosts by depthwise convolutions of them (section 3.1).

    Unlike the converter's GhostConv it has BN and ReLU inside, and its cheap operation reads activated maps.

    x: (N, C, H, W) -> (N, out_channels, H, W)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        ratio: int = 2,
        cheap_kernel: int = 3,
        relu: bool = True,
    ) -> None:
        super().__init__()
        Ghost(ratio=ratio, kernel=cheap_kernel)  # refuses a ratio below 2 and even kernels
        self.out_channels = out_channels
        m = intrinsic_channels(out_channels, ratio)
        self.primary_conv = nn.Sequential(*convolution(in_channels, m, kernel, relu=relu))
        self.cheap_operation = nn.Sequential(*convolution(m, m * (ratio - 1), cheap_kernel, groups=m, relu=relu))

    def forward(self, x: Tensor) -> Tensor:
        intrinsic = self.primary_conv(x)
        y = torch.cat([intrinsic, self.cheap_operation(intrinsic)], dim=1)
        return y if y.shape[1] == self.out_channels else y[:, : self.out_channels]


class AttentiveGhostModule(GhostModule):
    """A ghost module gated by DFC attention at half resolution (Tang et al. 2022, sections 3.2 and 3.3).

    x: (N, C, H, W) -> (N, out_channels, H, W)
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, ratio: int, cheap_kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel, ratio, cheap_kernel)
        n = out_channels
        self.short_conv = nn.Sequential(
            *convolution(in_channels, n, 1),
            *convolution(n, n, (1, 5), groups=n),
            *convolution(n, n, (5, 1), groups=n),
        )

    def forward(self, x: Tensor) -> Tensor:
        attention = torch.sigmoid(self.short_conv(F.avg_pool2d(x, 2)))
        y = super().forward(x)
        return y * F.interpolate(attention, size=y.shape[-2:], mode="nearest")


class SqueezeExcite(nn.Module):
    """Gates each channel by its mean, with a hard sigmoid (Hu et al. 2018). x: (N, C, H, W) -> (N, C, H, W)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = make_divisible(channels / 4)
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv_expand(F.relu(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(gate)


class GhostBottleneck(nn.Module):
    """Expanding ghost module, strided depthwise convolution, squeeze-and-excite, projecting ghost module (section 3.2).

    `expand` takes in_channels to row.expansion, `project` that to row.out without ReLU.

    x: (N, C, H, W) -> (N, row.out, H/stride, W/stride)
    """

    def __init__(self, in_channels: int, row: Row, expand: nn.Module, project: nn.Module) -> None:
        super().__init__()
        middle, out, k, stride = row.expansion, row.out, row.kernel, row.stride
        self.ghost1 = expand
        if stride > 1:
            self.conv_dw, self.bn_dw = convolution(middle, middle, k, stride=stride, groups=middle)
        else:
            self.conv_dw = self.bn_dw = nn.Identity()
        self.se = SqueezeExcite(middle) if row.squeeze else nn.Identity()
        self.ghost2 = project
        same = in_channels == out and stride == 1
        self.shortcut = nn.Sequential() if same else nn.Sequential(
            *convolution(in_channels, in_channels, k, stride=stride, groups=in_channels),
            *convolution(in_channels, out, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.se(self.bn_dw(self.conv_dw(self.ghost1(x))))
        return self.ghost2(y) + self.shortcut(x)
