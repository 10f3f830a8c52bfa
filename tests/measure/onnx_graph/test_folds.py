"""What is prepared for int8 computes what the network computes, however its maps are joined and ordered."""

import pytest
import torch
from torch import nn

from ghostsearch.measure.onnx_graph.int8_module import FloatFile
from ghostsearch.measure.onnx_graph.module import OnnxModule


class Joined(nn.Module):
    """Primary and cheap maps, concatenated along a dimension, perhaps reordered, then a BatchNorm."""

    def __init__(self, dim, order):
        super().__init__()
        self.a, self.cheap, self.dim = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), dim
        self.register_buffer("order", None if order is None else torch.tensor(order))
        channels = len(order) if order else 16 if dim == 1 else 8
        self.norm, self.end = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4, 1)
        nn.init.uniform_(self.norm.weight, 0.2, 3)
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        y = self.a(x)
        y = torch.cat([y, self.cheap(y)], self.dim)
        y = y if self.order is None else y.index_select(1, self.order)
        return self.end(self.norm(y).relu())


@pytest.mark.parametrize(
    ("dim", "order"), [(1, None), (1, [*range(15, -1, -1)]), (1, [0, 0, 1, 1, 8, 8, 9, 15]), (2, None)]
)
def test_maps_in_any_order_are_prepared_exactly(dim, order):
    torch.manual_seed(0)
    net, x = Joined(dim, order).eval(), torch.randn(4, 3, 8, 8)
    made = FloatFile.of(net, x).int8([x])
    with torch.no_grad():
        wanted = net(x)
    assert (OnnxModule(made.prepared)(x) - wanted).abs().max() < 1e-4 * wanted.abs().max()
