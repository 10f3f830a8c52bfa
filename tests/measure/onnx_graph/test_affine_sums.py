"""A dropped branch's affine and the sum behind it become one convolution, with the same outputs."""

import onnx
import pytest
import torch
from torch import nn

from ghostsearch.measure.onnx_graph.affine_sums import fold_affine_sums
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.module import OnnxModule


class Dropped(nn.Module):
    """A stem, an affine of its value added to it by `add`, a head; `kernel` and `groups` make it something else."""

    def __init__(self, add, kernel=1, groups=8, act=nn.Identity):
        super().__init__()
        self.stem, self.head, self.add = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), add
        self.affine = nn.Conv2d(8, 8, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = act()
        nn.init.uniform_(self.norm.running_mean)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.add(x, self.norm(self.affine(self.act(x))))))


def folded(net):
    x = torch.randn(2, 3, 8, 8)
    model = onnx.load_from_string(onnx_bytes(net.eval(), x)[0])
    count = fold_affine_sums(model)
    got = OnnxModule(model.SerializeToString())(x)
    with torch.no_grad():
        assert torch.allclose(got, net(x), atol=1e-5)
    return count, [n.op_type for n in model.graph.node]


@pytest.mark.parametrize("act", [nn.Identity, nn.ReLU])
@pytest.mark.parametrize("add", [lambda x, y: x + y, lambda x, y: y + x])
def test_the_sum_goes(add, act):
    count, operators = folded(Dropped(add, act=act))
    assert count == 1
    assert "Add" not in operators


@pytest.mark.parametrize("free", [False, True])
def test_nothing_is_not_added(free):
    net, x = Dropped(lambda x, y: x + torch.zeros_like(y)), torch.randn(2, 3, 8, 8)
    model = onnx.load_from_string(onnx_bytes(net.eval(), x, free_batch=free)[0])
    assert fold_affine_sums(model) == 1
    # The ReLU of a ReLU goes too.
    assert [n.op_type for n in model.graph.node] == ["Conv", "Relu", "Conv"]
    with torch.no_grad():
        assert torch.allclose(OnnxModule(model.SerializeToString())(x), net(x), atol=1e-5)


@pytest.mark.parametrize("net", [
    Dropped(lambda x, y: x + y, kernel=3),
    Dropped(lambda x, y: x + y, groups=1),
    Dropped(lambda x, y: x + y + y.mean()),
    Dropped(lambda x, y: torch.sin(x) + y),
    Dropped(lambda x, y: x + y, act=nn.Hardtanh),
])  # fmt: skip
def test_other_sums_stay(net):
    assert folded(net)[0] == 0
