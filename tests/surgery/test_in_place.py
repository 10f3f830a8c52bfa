"""A forward that works in place is fitted as the same one that does not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostsearch.graph.flow import trace_graph
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.sites import droppable_branches


class Net(nn.Module):
    """x: (N, 3, H, W) -> (N, 8, H, W)"""

    def __init__(self, join):
        super().__init__()
        self.join = join
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = F.relu(self.a(x))
        return self.d(F.relu(self.c(self.join(y, self.b(y)))))


def added(y, z):
    y.add_(z)
    return y


def scaled(y, z):
    y.mul_(3 * torch.sigmoid(3 * z))
    return y


def rectified(y, z):
    F.relu(z, inplace=True)
    return y + z


def rectified_too(y, z):
    torch.relu_(z)
    return y + z


SPELLINGS = {
    "added": (lambda y, z: y + z, added, lambda y, z: y.add_(z)),
    "scaled": (lambda y, z: y * (3 * torch.sigmoid(3 * z)), scaled, lambda y, z: y.mul_(3 * torch.sigmoid(3 * z))),
    "rectified": (lambda y, z: y + F.relu(z), rectified, rectified_too),
}


def error(join, x, *, statistics=None):
    torch.manual_seed(0)
    model = Net(join).eval()
    images = None if statistics else [x]
    made = convert(
        model, Architecture.of({"b": "ghost(ratio=2, kernel=3)"}), example=x[:1], calibration=images,
        statistics=statistics,
    )  # fmt: skip
    with torch.no_grad():
        return float((made(x) - model(x)).square().mean() / model(x).var())


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_fit_is_that_of_the_other_spelling(name):
    x = torch.randn(32, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    plain, *others = SPELLINGS[name]
    wanted = error(plain, x)
    for join in others:
        assert error(join, x) == pytest.approx(wanted, rel=1e-3)
        torch.manual_seed(0)
        statistics = BaselineStatistics(Net(join).eval(), [x])
        assert statistics.traced
        # What a search does before it converts for each candidate.
        statistics.advance(["b"])
        assert [error(join, x, statistics=statistics) for _ in range(2)] == pytest.approx([wanted] * 2, rel=1e-3)


def overwritten(y, z):
    y.copy_(z)
    return y


def through_a_view(y, z):
    y[:, :8].add_(z[:, :8])
    return y


@pytest.mark.parametrize("join", [overwritten, through_a_view])
def test_what_has_no_other_spelling_is_not_traced(join):
    assert trace_graph(Net(join), torch.randn(2, 3, 8, 8)) is None


def masked(y, z):
    return y * ((y > 0) & (z > 0) | (z > 1))


def test_names_that_end_alike_are_no_such_calls():
    assert trace_graph(Net(masked), torch.randn(2, 3, 8, 8)) is not None


def test_a_shortcut_that_an_activation_in_place_changes_keeps_its_branch():
    class Preactivated(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.stem, self.relu = nn.Conv2d(3, 8, 1), nn.ReLU(inplace=inplace)
            self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

        def forward(self, x):
            x = self.stem(x)
            return x + self.norm(self.conv(self.relu(x)))

    x = torch.randn(2, 3, 8, 8)
    assert [b.end for b in droppable_branches(Preactivated(False).eval(), x)] == ["conv"]
    assert not droppable_branches(Preactivated(True).eval(), x)


class Normalising(nn.Module):
    """A forward that normalises the caller's own images. x: (N, 3, H, W) -> (N, 4)"""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x.sub_(0.5).div_(0.25)
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


def test_a_forward_that_overwrites_its_images_overwrites_copies():
    torch.manual_seed(0)
    model = Normalising().eval()
    images, example = torch.rand(32, 3, 16, 16), torch.rand(1, 3, 16, 16)
    given = images.clone(), example.clone()
    made = convert(model, Architecture.of({"b": "ghost(ratio=2, kernel=3)"}), example=example, calibration=[images])
    assert torch.equal(images, given[0])
    assert torch.equal(example, given[1])
    with torch.no_grad():
        wanted, found = model(images.clone()), made(images.clone())
    assert (wanted - found).square().mean() < 0.01 * wanted.var()
