"""GhostNet (Han et al. 2020) in the layout of its released checkpoints; GhostNetV2 (Tang et al. 2022) beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.models.ghost_module import (
    AttentiveGhostModule,
    GhostBottleneck,
    GhostModule,
    Row,
    convolution,
    make_divisible,
)

T = TypeVar("T")

ROWS = (
    Row(0, 3, 16, 16, False, 1),
    Row(1, 3, 48, 24, False, 2),
    Row(2, 3, 72, 24, False, 1),
    Row(3, 5, 72, 40, True, 2),
    Row(4, 5, 120, 40, True, 1),
    Row(5, 3, 240, 80, False, 2),
    Row(6, 3, 200, 80, False, 1),
    Row(6, 3, 184, 80, False, 1),
    Row(6, 3, 184, 80, False, 1),
    Row(6, 3, 480, 112, True, 1),
    Row(6, 3, 672, 112, True, 1),
    Row(7, 5, 672, 160, True, 2),
    Row(8, 5, 960, 160, False, 1),
    Row(8, 5, 960, 160, True, 1),
    Row(8, 5, 960, 160, False, 1),
    Row(8, 5, 960, 160, True, 1),
)
"""The sixteen bottlenecks of GhostNet 1.0×."""

STEM, HEAD = 16, 1280
ATTENTION_FROM = 2
"""GhostNetV2 has DFC attention in every bottleneck but the first two."""


class Pointwise(nn.Module):
    """The 1×1 convolution before the pool. x: (N, C, H, W) -> (N, out_channels, H, W)"""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv, self.bn1 = convolution(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv(x)))


class GhostNet(nn.Module):
    """Stem, sixteen ghost bottlenecks, 1×1 convolution, pool, head. x: (N, 3, H, W) -> (N, num_classes)"""

    def __init__(
        self,
        rows: Sequence[Row],
        bottleneck: Callable[[int, int, Row], GhostBottleneck],
        *,
        num_classes: int,
        stem: int,
        last: int,
        stem_stride: int = 2,
    ) -> None:
        """`bottleneck(i, channels, row)` makes the i-th block for so many input channels; `last` maps are pooled."""
        super().__init__()
        self.conv_stem, self.bn1 = convolution(3, stem, 3, stride=stem_stride)
        channels, blocks = stem, list[nn.Module]()
        for _, stage in groupby(enumerate(rows), key=lambda numbered: numbered[1].stage):
            bottlenecks = []
            for i, row in stage:
                bottlenecks.append(bottleneck(i, channels, row))
                channels = row.out
            blocks.append(nn.Sequential(*bottlenecks))
        self.blocks = nn.Sequential(*blocks, nn.Sequential(Pointwise(channels, last)))
        self.conv_head = nn.Conv2d(last, HEAD, 1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(HEAD, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(F.relu(self.bn1(self.conv_stem(x))))
        y = F.relu(self.conv_head(y.mean((2, 3), keepdim=True)))
        return self.classifier(self.dropout(torch.flatten(y, 1)))


def ghostnet(
    num_classes: int = 1000,
    width: float = 1.0,
    ratios: int | Sequence[int] = 2,
    kernels: int | Sequence[int] = 3,
    expansions: float | Sequence[float] = 1.0,
    squeezes: bool | Sequence[bool] | None = None,
    stem_stride: int = 2,
    attention: bool = False,
) -> GhostNet:
    """GhostNet at any width (Han et al. 2020, section 3.2), with ratio, cheap kernel, expansion and SE of every block.

    A list has sixteen entries, one per bottleneck; one value serves all. `expansions` multiply the table's, `squeezes`
    replace its column, `stem_stride=1` suits small images, `attention` makes it GhostNetV2 (Tang et al. 2022).
    Raises GhostsearchError for a list of another length, a width or expansion not above 0, a bad ratio or kernel.
    """
    scales = per_bottleneck("expansions", expansions)
    flags = per_bottleneck("squeezes", [row.squeeze for row in ROWS] if squeezes is None else squeezes)
    if not width > 0 or not all(scale > 0 for scale in scales):
        raise GhostsearchError(f"width and expansions must be above 0, got {width} and {min(scales)}")
    rows = [
        Row(
            row.stage, row.kernel, make_divisible(row.expansion * width * scales[i]), make_divisible(row.out * width),
            bool(flags[i]), row.stride,
        )
        for i, row in enumerate(ROWS)
    ]  # fmt: skip
    s, d = per_bottleneck("ratios", ratios), per_bottleneck("kernels", kernels)

    def bottleneck(i: int, channels: int, row: Row) -> GhostBottleneck:
        attentive = attention and i >= ATTENTION_FROM
        expand: type[GhostModule] = AttentiveGhostModule if attentive else GhostModule
        project = GhostModule(row.expansion, row.out, 1, s[i], d[i], relu=False)
        return GhostBottleneck(channels, row, expand(channels, row.expansion, 1, s[i], d[i]), project)

    return GhostNet(
        rows, bottleneck, num_classes=num_classes, stem=make_divisible(STEM * width), last=rows[-1].expansion,
        stem_stride=stem_stride,
    )  # fmt: skip


def per_bottleneck(name: str, value: T | Sequence[T]) -> list[T]:
    """One value for each of the sixteen bottlenecks; raises GhostsearchError for a list of another length."""
    values = list(value) if isinstance(value, Sequence) else [value] * len(ROWS)
    if len(values) != len(ROWS):
        raise GhostsearchError(f"{name} takes one value or {len(ROWS)} (one per bottleneck), got {len(values)}")
    return values
