"""Equalizing ranges changes no float output; it brings channels to one range."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.equalize import channel_ranges, equalize_ranges
from ghostsearch.measure.onnx_graph.int8_module import feeds
from ghostsearch.measure.onnx_graph.module import cpu_session


class Ghostly(nn.Module):
    """A primary and a cheap convolution, concatenated, ReLU, pooled, read by two convolutions."""

    def __init__(self):
        super().__init__()
        self.primary = nn.Conv2d(3, 8, 3, padding=1)
        self.cheap = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.a, self.b = nn.Conv2d(16, 6, 1), nn.Conv2d(16, 6, 3, padding=1, bias=False)

    def forward(self, x):
        p = self.primary(x)
        y = torch.max_pool2d(torch.relu(torch.cat([p, self.cheap(p)], 1)), 2)
        return self.a(y) * self.b(torch.relu(self.depthwise(y)))


class Residual(nn.Module):
    """A sum sees the channels of `b`: only those of `a` may be scaled."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.b(torch.relu(self.a(x))) + x
        return self.head(y.mean((2, 3)))


class Shared(nn.Module):
    """One convolution read from two places: its weight belongs to neither chain."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.head(torch.relu(self.a(x))) - self.head(torch.relu(self.b(x)))


class Stacked(nn.Module):
    """Maps joined by their rows: every channel has values of both."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.head(torch.relu(torch.cat([self.a(x), self.b(x)], 2)))


@pytest.mark.parametrize(("build", "changed"), [(Ghostly, 3), (Residual, 1), (Shared, 0), (Stacked, 0)])
def test_outputs_stay_and_ranges_meet(build, changed):
    torch.manual_seed(0)
    net, x = build(), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        for parameter in net.parameters():
            # Channels of very different ranges, as fitted ghosts have them.
            parameter.mul_(10.0 ** torch.randint(-2, 2, (len(parameter), *[1] * (parameter.dim() - 1))))
    graph, names = onnx_bytes(net, x)
    before = cpu_session(graph, 1).run(None, {names[0]: x.numpy()})[0]
    model = onnx.load_from_string(graph)
    assert equalize_ranges(model, feeds(names, [x])) == changed
    after = cpu_session(model.SerializeToString(), 1).run(None, {names[0]: x.numpy()})[0]
    np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max())
    if build is Residual:
        inner = next(n.output[0] for n in model.graph.node if n.op_type == "Conv" and "/a/" in n.name)
        top = channel_ranges(model, [inner], feeds(names, [x]))[inner]
        assert top.max() / top[top > 0].min() < 1.01
