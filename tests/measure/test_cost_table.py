"""Cost by formula equals the count of the built model, to the unit."""

import random

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.cost_table import CostTable, encode
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.space.preset import parse_preset
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.sites import find_sites

CHOICES = [
    "ghost(ratio=2, kernel=3)", "ghost(ratio=3, kernel=5)", "ghost(ratio=4, kernel=1, cheap=affine)",
    "ghost(ratio=2, kernel=3, cheap=wavelet)", "lowrank(rank=0.5)",
]  # fmt: skip
UNION = parse_preset(
    {"sites": [{"choices": CHOICES}], "groups": [{"widths": ["width(0.75)", "width(0.5)", "width(0.25)"]}]}, "test"
)


class Small(nn.Module):
    """A residual block, a depthwise and a grouped convolution, a concatenation and a flattened head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.back = nn.Conv2d(32, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=2)
        self.head = nn.Linear((32 + 16) * 16, 10)

    def forward(self, x):
        x = self.stem(x)
        x = self.depthwise(x + self.back(self.inner(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(torch.cat([self.grouped(x), x], 1), 4).flatten(1))


def drawn(space, rng):
    return Architecture.of(
        {path: rng.choice(texts) for path, texts in space.sites.items()},
        {name: rng.choice(texts) for name, texts in space.groups.items()},
    )


def bench(model, size):
    example = torch.zeros(1, 3, size, size)
    anatomy = find_sites(model.eval(), example)
    return model, example, anatomy, UNION.resolve(anatomy), CostTable(model, example, anatomy)


@pytest.fixture(scope="module")
def small():
    return bench(Small(), 8)


def same(predicted, counted):
    return (predicted.params, predicted.macs, predicted.size_bytes) == (
        counted.params,
        counted.macs,
        counted.size_bytes,
    )


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_architecture_of_a_small_net(small, rng):
    model, example, anatomy, space, table = small
    architecture = drawn(space, rng)
    built = convert(model, architecture, example=example, anatomy=anatomy)
    assert same(table.predict(architecture), measure_cost(built, example))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf"])
def test_torchvision_nets(name):
    model, example, anatomy, space, table = bench(torchvision.models.get_model(name), 32)
    architecture = drawn(space, random.Random(0))
    built = convert(model, architecture, example=example, anatomy=anatomy)
    assert same(table.predict(architecture), measure_cost(built, example))


def test_baseline_is_the_measured_cost(small):
    model, example, _, _, table = small
    assert same(table.predict(Architecture()), measure_cost(model, example))


def test_many_at_once_equal_one_by_one(small):
    *_, space, table = small
    architectures = [drawn(space, random.Random(i)) for i in range(40)]
    many = table.predict_codes(space, encode(space, architectures))
    one_by_one = [table.predict(a) for a in architectures]
    assert many.tolist() == [
        [c.params for c in one_by_one],
        [c.macs for c in one_by_one],
        [c.size_bytes for c in one_by_one],
    ]


def test_codes_are_numbers_of_choices(small):
    *_, space, _ = small
    path = next(iter(space.sites))
    codes = encode(space, [Architecture(), Architecture.of({path: space.sites[path][2]})])
    assert codes[0].tolist() == [0] * codes.shape[1]
    assert np.flatnonzero(codes[1]).tolist() == [0]
    assert codes[1, 0] == 2


def test_unknown_names_and_choices(small):
    *_, space, table = small
    with pytest.raises(GhostsearchError, match="'nowhere' is no site"):
        table.predict(Architecture.of({"nowhere": "ghost(ratio=2, kernel=3)"}))
    with pytest.raises(GhostsearchError, match="'nowhere' is no group"):
        table.predict(Architecture.of({}, {"nowhere": "width(0.5)"}))
    path = next(iter(space.sites))
    with pytest.raises(GhostsearchError, match="is not offered there"):
        encode(SearchSpace({path: ("keep",)}), [Architecture.of({path: "ghost(ratio=7, kernel=3)"})])


class Joined(nn.Module):
    """A bare parameter over the channels of two groups. x: (N, 3, H, W) -> (N, 4)"""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.scale, self.c, self.head = nn.Parameter(torch.rand(1, 16, 1, 1)), nn.Conv2d(16, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        joined = torch.cat([self.a(x), self.b(x)], 1) * self.scale
        return self.head(self.c(joined).relu().mean((2, 3)))


@pytest.mark.parametrize("narrow", [("a",), ("b",), ("a", "b")])
def test_a_parameter_of_several_groups_loses_what_each_loses(narrow):
    net, x = Joined(), torch.randn(1, 3, 8, 8)
    architecture = Architecture.of({}, dict.fromkeys(narrow, "width(0.5)"))
    predicted = CostTable(net, x, find_sites(net, x), width_multiple=1).predict(architecture)
    counted = measure_cost(convert(net, architecture, example=x, width_multiple=1), x)
    assert (predicted.params, predicted.macs) == (counted.params, counted.macs)
