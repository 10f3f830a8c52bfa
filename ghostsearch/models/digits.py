"""The quick start's network: small, residual, and wide enough that replacing its convolutions saves something."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNormReLU(nn.Sequential):
    """3×3 convolution, BN, ReLU. x: (N, C, H, W) -> (N, out_channels, H/stride, W/stride)"""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
        )


class Residual(nn.Module):
    """Two 3×3 convolutions around an identity shortcut. x: (N, C, H, W) -> (N, C, H, W)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = ConvNormReLU(channels, channels)
        self.project = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.project(self.expand(x))))


class DigitsCNN(nn.Module):
    """Seven 3×3 convolutions for scikit-learn's digits. x: (N, 1, 8, 8) -> (N, classes)"""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvNormReLU(1, 24)
        self.block1 = nn.Sequential(ConvNormReLU(24, 48), Residual(48))
        self.block2 = nn.Sequential(ConvNormReLU(48, 96, stride=2), Residual(96))
        self.classifier = nn.Linear(96, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block2(self.block1(self.stem(x)))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))


def digits_cnn(num_classes: int = 10) -> DigitsCNN:
    """The network of the quick start."""
    return DigitsCNN(num_classes)
