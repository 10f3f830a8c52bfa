"""RepGhostNet (Chen et al. 2022): ghosts are added, not concatenated, and both branches fuse into one convolution."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostsearch.graph.capture import copied
from ghostsearch.models.ghost_module import GhostBottleneck, Row, convolution
from ghostsearch.models.ghostnet import ROWS, STEM, GhostNet

EXPANSIONS = (8, 24, 36, 36, 60, 120, 100, 120, 120, 240, 336, 336, 480, 480, 480, 480)
"""Of the sixteen bottlenecks; the rest of the table is GhostNet's (Chen et al. 2022, table 2)."""


class RepGhostModule(nn.Module):
    """A convolution, then the sum of a depthwise convolution and a BN of its maps (Chen et al. 2022, section 3.2).

    x: (N, C, H, W) -> (N, out_channels, H, W)
    """

    def __init__(self, in_channels: int, out_channels: int, relu: bool = True) -> None:
        super().__init__()
        n = out_channels
        self.primary_conv = nn.Sequential(*convolution(in_channels, n, 1, relu=relu))
        self.fusion_bn = nn.ModuleList([nn.BatchNorm2d(n)])
        self.cheap_operation: nn.Module = nn.Sequential(*convolution(n, n, 3, groups=n))
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.primary_conv(x)
        total = self.cheap_operation(y)
        for norm in self.fusion_bn:
            total = total + norm(y)
        return F.relu(total) if self.relu else total

    @torch.no_grad()
    def fuse(self) -> None:
        """Make both branches one depthwise convolution with a bias; in eval mode the output stays the same."""
        if not self.fusion_bn:
            return
        assert isinstance(self.cheap_operation, nn.Sequential)
        conv, norm = self.cheap_operation
        assert isinstance(conv, nn.Conv2d)
        scale, shift = _affine(norm)
        weight, bias = conv.weight * scale.view(-1, 1, 1, 1), shift
        scale, shift = _affine(self.fusion_bn[0])
        weight[:, 0, 1, 1] += scale  # BN of the maps themselves is the filter's centre
        branch = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, groups=conv.groups)
        branch.weight, branch.bias = nn.Parameter(weight), nn.Parameter(bias + shift)
        self.cheap_operation, self.fusion_bn = branch, nn.ModuleList()


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift of a BN in eval mode."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def repghostnet(num_classes: int = 1000) -> GhostNet:
    """RepGhostNet as it is trained, in the layout of its released checkpoints (Chen et al. 2022, section 3.3)."""
    rows = [replace(row, expansion=expansion) for row, expansion in zip(ROWS, EXPANSIONS, strict=True)]

    def bottleneck(_: int, channels: int, row: Row) -> GhostBottleneck:
        project = RepGhostModule(row.expansion, row.out, relu=False)
        return GhostBottleneck(channels, row, RepGhostModule(channels, row.expansion), project)

    return GhostNet(rows, bottleneck, num_classes=num_classes, stem=STEM, last=2 * EXPANSIONS[-1])


def fused(model: nn.Module) -> nn.Module:
    """A copy in eval mode with every RepGhost module fused: what is deployed, and measured."""
    network = copied(model).eval()
    for module in network.modules():
        if isinstance(module, RepGhostModule):
            module.fuse()
    return network
