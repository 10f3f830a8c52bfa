"""A network for searches that are only run to see what a search does: half the layers of the quick start's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostsearch.models.digits import ConvNormReLU, Residual
from ghostsearch.models.load import DIGITS_INPUT


class SmallNet(nn.Module):
    """Four 3×3 convolutions for scikit-learn's digits. x: (N, 1, 8, 8) -> (N, 10)"""

    input_spec = DIGITS_INPUT

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormReLU(1, 16, stride=2)
        self.block1 = nn.Sequential(ConvNormReLU(16, 32), Residual(32))
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block1(self.stem(x))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))


class Viewing(SmallNet):
    """The same with the `view` of most introductions to PyTorch, which maps in channels_last do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(4 * 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(self.block1(self.stem(x)), 2)
        return self.classifier(y.view(y.size(0), -1))
