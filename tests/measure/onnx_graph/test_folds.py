"""What is prepared for int8 computes what the network computes, however its maps are joined and ordered."""

import pytest
import torch
from torch import nn

from ghostsearch.measure.onnx_graph.int8_module import FloatFile
from ghostsearch.measure.onnx_graph.module import OnnxModule


class Joined(nn.Module):
    """Primary and cheap maps, concatenated along a dimension, perhaps reordered, then a BatchNorm."""

    def __init__(self, dim=1, order=None, groups=8, affine=True):
        super().__init__()
        self.a, self.cheap, self.dim = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=groups), dim
        self.register_buffer("order", None if order is None else torch.tensor(order))
        channels = len(order) if order else 16 if dim == 1 else 8
        self.norm, self.end = nn.BatchNorm2d(channels, affine=affine), nn.Conv2d(channels, 4, 1)
        for parameter in self.norm.parameters():
            nn.init.uniform_(parameter, 0.2, 3)

    def forward(self, x):
        y = self.a(x)
        y = torch.cat([y, self.cheap(y)], self.dim)
        y = y if self.order is None else y.index_select(1, self.order)
        return self.end(self.norm(y).relu())


class Standardized(nn.Conv2d):
    """Its weights are computed at every call."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


def standardized():
    net = Joined()
    net.cheap = Standardized(8, 8, 3, padding=1)
    return net


@torch.jit.script
def larger_where_bright(image: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x * 2 if bool(image.mean() > 0) else x + image[:, :1]


class Branching(nn.Module):
    """An If of the graph reads what a convolution makes, one channel of which is far larger than the others."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        with torch.no_grad():
            self.a.weight[0] *= 20

    def forward(self, x):
        y = self.a(x).relu()
        return self.b(y) + larger_where_bright(x, y)


@pytest.mark.parametrize(
    "net",
    [
        Joined,
        lambda: Joined(1, [*range(15, -1, -1)]),
        lambda: Joined(1, [0, 0, 1, 1, 8, 8, 9, 15]),
        lambda: Joined(1, [7, 15, 0, 8, 3, 4], groups=1),
        lambda: Joined(2),
        lambda: Joined(affine=False),
        standardized,
        Branching,
    ],
)
def test_whatever_the_graph_it_is_prepared_exactly(net):
    torch.manual_seed(0)
    model, x = net().eval(), torch.randn(4, 3, 8, 8)
    made = FloatFile.of(model, x).int8([x])
    with torch.no_grad():
        wanted = model(x)
    assert (OnnxModule(made.prepared)(x) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert made.noise()
