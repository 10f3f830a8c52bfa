"""A dropped branch gives way to a per-channel affine; cost, weights and files agree."""

import copy

import pytest
import torch
from torch import nn

from ghostsearch import Architecture, convert, find_sites, load_model, measure_cost
from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.cost_table import CostTable
from ghostsearch.models.load import example_input
from ghostsearch.space.preset import Preset, SiteRule
from ghostsearch.study.program import exclusions

MODELS = ("torchvision:resnet18", "torchvision:efficientnet_b0", "ghostsearch:resnet20")
SIZE = 32


@pytest.fixture(scope="module", params=MODELS)
def known(request):
    loaded = load_model(request.param, size=SIZE, classes=10)
    x = example_input(loaded.input)
    return loaded.module, x, find_sites(loaded.module, x)


@pytest.mark.parametrize("choice", ["drop", "skip"])
def test_cost_is_counted_as_predicted(known, choice):
    model, x, anatomy = known
    assert anatomy.branches
    ends = [b.end for b in anatomy.branches][::2]
    architecture = Architecture.of(dict.fromkeys(ends, choice))
    made = convert(model, architecture, example=x, anatomy=anatomy)
    predicted, counted = CostTable(model, x, anatomy).predict(architecture), measure_cost(made, x)
    assert (predicted.params, predicted.macs, predicted.size_bytes) == (
        counted.params, counted.macs, counted.size_bytes
    )  # fmt: skip
    assert counted.macs < measure_cost(model, x).macs


@pytest.mark.parametrize("choice", ["drop", "skip"])
def test_structure_depends_on_the_architecture_alone(known, choice):
    model, x, anatomy = known
    architecture = Architecture.of({anatomy.branches[-1].end: choice})
    images = torch.randn(8, *x.shape[1:])
    state = copy.deepcopy(model.state_dict())
    fitted = convert(model, architecture, example=x, anatomy=anatomy, calibration=[images])
    again = convert(model, architecture, example=x)
    again.load_state_dict(fitted.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(x), fitted.eval()(x))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_of_a_skipped_branch_only_the_shortcut_stays():
    net, x = Scaled(), torch.randn(2, 3, 8, 8)
    made = convert(net, Architecture.of({"b": "skip"}), example=x)
    with torch.no_grad():
        assert torch.equal(made(x), net.head(torch.relu(net.stem(x))))


@pytest.mark.parametrize("choice", ["drop", "skip"])
def test_cost_of_a_branch_that_begins_with_a_depthwise_convolution(choice):
    net, x = Turned(), torch.randn(1, 3, 8, 8)
    anatomy = find_sites(net, x)
    (group,) = [g.name for g in anatomy.groups if not g.fixed]
    architecture = Architecture.of({"a": choice}, {group: "width(0.5)"})
    predicted = CostTable(net, x, anatomy, width_multiple=1).predict(architecture)
    counted = measure_cost(convert(net, architecture, example=x, width_multiple=1), x)
    assert (predicted.params, predicted.macs) == (counted.params, counted.macs)


class Scaled(nn.Module):
    """A branch that is an affine of its input: dropping it costs nothing once it is fitted."""

    def __init__(self):
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1, groups=8)
        self.b, self.norm, self.head = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.b.weight.copy_(torch.diag(torch.randn(8))[:, :, None, None])

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(x + self.norm(self.b(self.a(x))))


class Turned(Scaled):
    """The same, its second layer a linear one over the channels, with a scale behind it, as ConvNeXt's blocks have."""

    def __init__(self):
        super().__init__()
        linear = nn.Linear(8, 8)
        with torch.no_grad():
            linear.weight.copy_(self.b.weight[:, :, 0, 0])
        self.b, self.gamma = linear, nn.Parameter(1 + torch.rand(8))

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = self.b(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(x + y * self.gamma.view(1, -1, 1, 1))


@pytest.mark.parametrize(("kind", "end"), [(Scaled, "b"), (Turned, "a")])
def test_an_affine_branch_is_recovered(kind, end):
    torch.manual_seed(0)
    net, x = kind(), torch.randn(32, 3, 8, 8)
    with torch.no_grad():
        net.train()(x)
        net.eval()
        wanted = net(x)
        architecture = Architecture.of({end: "drop"})
        copied = convert(net, architecture, example=x[:1])(x)
        fitted = convert(net, architecture, example=x[:1], calibration=[x])(x)
    # The ridge draws the factors a little towards zero.
    assert (fitted - wanted).square().mean() < 1e-4 * (copied - wanted).square().mean()


def test_changes_inside_a_dropped_branch_are_refused(known):
    model, x, anatomy = known
    branch = next(b for b in anatomy.branches if any(s.path in b.inside for s in anatomy.sites))
    inner = next(s.path for s in anatomy.sites if s.path in branch.inside)
    both = Architecture.of({branch.end: "drop", inner: "lowrank(rank=0.5)"})
    with pytest.raises(GhostsearchError, match="lies in the branch that 'drop' takes away"):
        convert(model, both, example=x, anatomy=anatomy)


def test_drop_is_refused_where_no_branch_ends(known):
    model, x, anatomy = known
    ends = {b.end for b in anatomy.branches}
    other = next(s.path for s in anatomy.sites if s.path not in ends)
    with pytest.raises(GhostsearchError, match="no residual branch that may be dropped ends there"):
        convert(model, Architecture.of({other: "drop"}), example=x, anatomy=anatomy)


def test_a_space_offers_drop_where_branches_end(known):
    _, _, anatomy = known
    space = Preset(sites=(SiteRule(choices=("drop", "skip", "ghost(ratio=2, kernel=1)")),)).resolve(anatomy)
    for choice in ("drop", "skip"):
        assert {p for p, options in space.sites.items() if choice in options} == {b.end for b in anatomy.branches}
    end, inside = next((e, names) for e, names in space.branches.items() if names)
    made = space.architecture({end: "drop", inside[0]: "ghost(ratio=2, kernel=1)"})
    assert made == Architecture.of({end: "drop"})
    rules = [rule for rule in exclusions(space) if list(space.sites)[rule.variable] == end]
    assert [space.sites[end][rule.option] for rule in rules] == ["drop", "skip"]


class Twice(nn.Module):
    """A branch whose layers are registered under two names. x: (N, 3, H, W) -> (N, 4, H, W)"""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.alias = self.body

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.alias(x)))


@pytest.mark.parametrize("choice", ["drop", "skip"])
def test_a_branch_goes_under_every_name_of_its_layers(choice):
    net, x = Twice(), torch.randn(8, 3, 8, 8)
    (branch,) = find_sites(net, x[:1]).branches
    made = convert(net, Architecture.of({branch.end: choice}), example=x[:1], calibration=[x])
    assert made.body[0] is made.alias[0]
    assert [type(m) for m in made.body] == [type(m) for m in made.alias]
    if choice == "skip":
        with torch.no_grad():
            assert torch.allclose(made(x), made.head(torch.relu(made.stem(x))))


def test_the_affine_of_a_dropped_branch_is_frozen_as_its_convolution_is():
    net, x = Scaled(), torch.randn(2, 3, 8, 8)
    net.b.bias.requires_grad_(False)
    made = convert(net, Architecture.of({"b": "drop"}), example=x)
    assert made.b.weight.requires_grad
    assert not made.b.bias.requires_grad
