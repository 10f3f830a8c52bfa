"""A convolution without bias or norm behind it has no constant: its blocks are fitted through the origin."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert


class PreActivated(nn.Module):
    """What the convolution reads has a mean. x: (N, 3, H, W) -> (N, 32, H, W)"""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(16, 32, 3, padding=1, bias=False)

    def read(self, x: Tensor) -> Tensor:
        return self.norm(self.stem(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.read(x))


def images(count: int) -> Tensor:
    """Smooth, as photographs are."""
    return F.avg_pool2d(torch.randn(count, 3, 14, 14), 3, 1)


def patches(model: PreActivated, x: Tensor) -> Tensor:
    return F.unfold(model.read(x), 3, padding=1).transpose(1, 2).reshape(-1, 16 * 9).double()


def cropped(read: Tensor, wanted: Tensor, unseen: Tensor) -> Tensor:
    middle = torch.arange(16 * 9).reshape(16, 3, 3)[:, 1, 1]
    return unseen[:, middle] @ torch.linalg.lstsq(read[:, middle], wanted).solution


def of_low_rank(read: Tensor, wanted: Tensor, unseen: Tensor) -> Tensor:
    directions = torch.linalg.eigh(wanted.T @ wanted).eigenvectors[:, -6:]
    return unseen @ torch.linalg.lstsq(read, wanted @ directions).solution @ directions.T


@pytest.mark.parametrize(("choice", "best"), [("crop(kernel=1)", cropped), ("lowrank(rank=0.2)", of_low_rank)])
@torch.no_grad()
def test_it_comes_near_to_least_squares_through_the_origin(choice, best):
    torch.manual_seed(1)
    model, x, unseen = PreActivated(), images(64), images(128)
    model.train()(x)
    model.eval().norm.bias.uniform_(0.5, 1.5)
    filters = model.conv.weight.double().flatten(1).T
    read, others = patches(model, x), patches(model, unseen)
    wanted = model(unseen)
    power = float(wanted.square().mean())
    least = float((best(read, read @ filters, others) - others @ filters).square().mean()) / power
    made = convert(model, Architecture.of({"conv": choice}), example=x[:1], calibration=[x])
    assert float((made(unseen) - wanted).square().mean()) / power < 1.1 * least
