"""Residual branches are found by shape, and only those that may really go."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ghostsearch.graph.branches import find_branches
from ghostsearch.graph.flow import trace_graph
from ghostsearch.models.load import example_input, load_model
from ghostsearch.surgery.drop import drop_branches


class Residual(nn.Module):
    """Stem, a branch, a head; `add` says how the sum is made."""

    def __init__(self, add, channels=8, gate=False):
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.b = nn.BatchNorm2d(8), nn.Conv2d(8, channels, 1)
        self.pool, self.squeeze, self.open = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid()
        self.head, self.add, self.gate = nn.Conv2d(8, 4, 1), add, gate

    def branch(self, x):
        y = F.relu(self.norm(self.a(x)))
        return self.b(y * self.open(self.squeeze(self.pool(y))) if self.gate else y)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head(self.add(x, self.branch(x)))


def found(net):
    x = torch.randn(2, 3, 8, 8)
    graph = trace_graph(net.eval(), x)
    assert graph is not None
    return find_branches(net, graph)


@pytest.mark.parametrize("add", [lambda x, y: x + y, lambda x, y: y + x, lambda x, y: torch.add(y, other=x)])
def test_a_branch_is_found_however_the_sum_is_written(add):
    (branch,) = found(Residual(add))
    assert branch.end == "b"
    assert branch.inside == ("a", "norm")
    assert branch.gates == ()
    assert branch.norm == ""


def test_padding_goes_with_the_layer_that_needs_it():
    net = Residual(lambda x, y: x + y)
    net.a = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(8, 8, 3))
    (branch,) = found(net)
    assert branch.inside == ("a.0", "a.1", "norm")


def test_a_scaled_branch_with_a_norm_over_channels_may_go():
    class ConvNeXt(Residual):
        def __init__(self):
            super().__init__(lambda x, y: x + y)
            self.over, self.gamma, self.way = nn.LayerNorm(8), nn.Parameter(torch.rand(8)), nn.Identity()

        def branch(self, x):
            y = self.over(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.b(F.gelu(y)) * self.gamma.reshape(1, -1, 1, 1)

        def forward(self, x):
            x = self.way(F.relu(self.stem(x)))
            return self.head(self.way(x) + self.branch(x))

    (branch,) = found(ConvNeXt())
    assert branch.end == "b"
    assert branch.inside == ("a", "over")


@pytest.mark.parametrize(("function", "gate"), [(nn.Sigmoid(), "open"), (torch.sigmoid, "squeeze")])
def test_a_gate_is_opened(function, gate):
    net = Residual(lambda x, y: x + y, gate=True)
    del net.open
    net.open = function
    (branch,) = found(net)
    assert branch.inside == ("a", "norm", "pool", "squeeze", "open")[: 5 if gate == "open" else 4]
    assert branch.gates == (gate,)
    drop_branches(net, [branch])
    with torch.no_grad():
        net.b.weight.fill_(0.5)
    x = torch.randn(2, 3, 8, 8)
    stem = F.relu(net.stem(x))
    torch.testing.assert_close(net(x), net.head(stem + net.b(stem)))


def test_a_value_that_opens_itself_is_no_branch():
    class Swish(Residual):
        def branch(self, x):
            y = self.a(x)
            return self.b(y * torch.sigmoid(y))

    assert found(Swish(lambda x, y: x + y)) == ()


@pytest.mark.parametrize(("name", "count"), [
    ("torchvision:regnet_y_400mf", 12), ("torchvision:mobilenet_v3_small", 6), ("torchvision:efficientnet_b0", 9),
    ("timm:resnet18", 5), ("timm:regnety_002", 9), ("timm:mobilenetv2_050", 10), ("timm:convnext_atto", 12),
])  # fmt: skip
def test_families_of_networks_have_branches(name, count):
    loaded = load_model(name, size=64)
    graph = trace_graph(loaded.module, example_input(loaded.input))
    assert len(find_branches(loaded.module.eval(), graph)) == count


@pytest.mark.parametrize(
    "add",
    [
        lambda x, y: x * y,  # no sum
        lambda x, y: x + y + y.mean(),  # the branch's end is read twice
        lambda x, y: x + torch.tanh(y),  # what follows the last convolution is not linear
        lambda x, y: F.relu(x) + y,  # another value than the branch reads
    ],
)
def test_what_cannot_go_is_no_branch(add):
    assert found(Residual(add)) == ()


def test_another_shape_is_no_branch():
    assert found(Residual(lambda x, y: x + y, channels=1)) == ()


def test_a_layer_that_others_share_stays():
    class Shared(Residual):
        def forward(self, x):
            x = F.relu(self.a(F.relu(self.stem(x))))
            return self.head(x + self.branch(x))

    assert found(Shared(None)) == ()


def double_norm():
    return nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8))


def instance_norm():
    return nn.Sequential(nn.Conv2d(8, 8, 1), nn.InstanceNorm2d(8, affine=True))


class Active(nn.BatchNorm2d):
    """A norm with its activation inside, as timm's."""

    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize("end", [double_norm, instance_norm, lambda: nn.Sequential(nn.Conv2d(8, 8, 1), Active(8))])
def test_a_branch_whose_end_would_leave_something_behind_stays(end):
    net = Residual(lambda x, y: x + y)
    net.b = end()
    assert not found(net)


def test_a_branch_that_pools_and_grows_again_stays():
    class Pooled(Residual):
        def branch(self, x):
            return F.interpolate(self.b(F.max_pool2d(self.a(x), 2)), scale_factor=2)

    class Transposed(Residual):
        def __init__(self):
            super().__init__(lambda x, y: x + y)
            self.grow = nn.ConvTranspose2d(8, 8, 2, stride=2)

        def branch(self, x):
            return self.b(self.grow(F.max_pool2d(self.a(x), 2)))

    assert not found(Pooled(lambda x, y: x + y))
    assert not found(Transposed())
