"""Coupling groups: what the graph finds, what the check refuses, and what a cut net computes."""

import copy

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.plan import best_channels
from ghostsearch.graph.widths import find_groups, kept_channels, set_widths, width_plan
from ghostsearch.models.cifar import resnet20
from ghostsearch.space.choice import Width
from ghostsearch.space.costs import kept_width


class Joined(nn.Module):
    """Two branches concatenated, then a grouped convolution and a linear layer after flattening."""

    def __init__(self, groups=1):
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(3, 16, 1)
        self.mix = nn.Conv2d(24, 12, 3, padding=1, groups=groups)
        self.head = nn.Linear(12 * 4, 5)

    def forward(self, x):
        y = torch.cat([self.left(x), self.right(x)], 1)
        y = nn.functional.adaptive_avg_pool2d(self.mix(y).relu(), 2)
        return self.head(y.flatten(1))


class Residual(nn.Module):
    """A residual stream with a depthwise inner layer and squeeze-excite."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.up = nn.Conv2d(16, 32, 1)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.squeeze = nn.Conv2d(32, 8, 1)
        self.expand = nn.Conv2d(8, 32, 1)
        self.down = nn.Conv2d(32, 16, 1)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        y = self.deep(self.up(x)).relu()
        y = y * self.expand(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(x + self.down(y))


IMAGE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def groups_of(model, image=IMAGE):
    found, note = find_groups(model, image)
    return {g.name: g for g in found}, note


def test_groups_of_a_residual_net():
    groups, note = groups_of(Residual())
    assert note == ""
    assert {n: (g.channels, g.members) for n, g in groups.items() if not g.fixed} == {
        "stem": (16, ("stem", "down")),
        "up": (32, ("up", "expand")),
        "squeeze": (8, ("squeeze",)),
    }
    assert groups["head"].fixed == "it is an output of the model"


@pytest.mark.parametrize("name", ["stem", "up", "squeeze"])
def test_a_cut_net_equals_the_whole_one_with_those_channels_silenced(name):
    model = Residual().eval()
    group = groups_of(model)[0][name]
    kept = list(range(0, group.channels, 2))
    narrow, silenced = copy.deepcopy(model), copy.deepcopy(model)
    set_widths(narrow, {name: kept}, IMAGE)
    gone = [i for i in range(group.channels) if i not in kept]
    readers = {"stem": ["up", "head"], "up": ["squeeze", "down"], "squeeze": ["expand"]}[name]
    with torch.no_grad():
        for reader in readers:
            getattr(silenced, reader).weight[:, gone] = 0
        assert torch.allclose(narrow(IMAGE), silenced(IMAGE), atol=1e-6)


def test_concatenation_flattening_and_their_offsets():
    model = Joined().eval()
    groups, _ = groups_of(model)
    assert [n for n, g in groups.items() if not g.fixed] == ["left", "right", "mix"]
    set_widths(model, {"right": [1, 3], "left": [0], "mix": [2, 5, 7]}, IMAGE)
    assert model.mix.weight.shape == (3, 3, 3, 3)
    assert model.head.in_features == 3 * 4
    assert model(IMAGE).shape == (2, 5)


def test_a_grouped_reader_of_joined_channels_fixes_them():
    groups, note = groups_of(Joined(groups=4))
    assert "grouped convolution mix" in groups["left"].fixed
    assert "grouped convolution mix" in groups["right"].fixed
    assert "left, right" in note
    assert groups["mix"].divisions == 4


def test_parameter_free_shortcuts_leave_the_inner_channels():
    groups, note = groups_of(resnet20(), torch.randn(1, 3, 32, 32))
    inner = {f"layer{i}.{j}.conv1" for i in (1, 2, 3) for j in range(3)}
    assert {n for n, g in groups.items() if not g.fixed} == inner
    assert "are coupled to it" in groups["conv1"].fixed
    assert "conv1" in note


class Shuffled(nn.Module):
    """Halves are swapped by a roll, which the dependency graph takes for an elementwise operation."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 8, 3)
        self.c = nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.c(self.b(torch.roll(self.a(x), 3, 1)).relu())


def test_a_coupling_that_the_graph_gets_wrong_is_found_by_cutting():
    groups, note = groups_of(Shuffled())
    assert "gets wrong" in groups["a"].fixed
    assert not groups["b"].fixed
    assert note.startswith("1 of 3 groups of channels cannot change width (a)")


def test_an_untraceable_model_says_so_and_stays_usable():
    groups, note = find_groups(torchvision.models.shufflenet_v2_x0_5(), torch.zeros(1, 3, 64, 64))
    assert groups == ()
    assert "ZeroDivisionError" in note
    assert "convolutions can still be replaced" in note


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: nn.utils.parametrizations.weight_norm(m.up), "the weight of up is computed"),
        (lambda m: setattr(m.squeeze, "weight", m.other.weight), "shares its parameters"),
    ],
)
def test_layers_that_must_keep_their_shape_fix_their_group(change, reason):
    model = Residual()
    model.other = nn.Conv2d(32, 8, 1)
    change(model)
    groups, _ = groups_of(model)
    assert any(reason in g.fixed for g in groups.values())


def test_norms_over_channels_do_not_fool_the_check():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 4, 1))
    group = groups_of(model)[0]["0"]
    assert (group.fixed, group.divisions) == ("", 4)
    set_widths(model, kept_channels(model, {"0": Width(0.5)}, IMAGE, 4), IMAGE)
    assert model[1].num_channels == 8
    assert model(IMAGE).shape == (2, 4, 10, 10)


def test_grouped_convolutions_lose_the_same_positions_in_every_run():
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, groups=3), nn.Conv2d(12, 4, 1)).eval()
    assert groups_of(model)[0]["0"].divisions == 3
    keep = kept_channels(model, {"0": Width(0.5)}, IMAGE, 2)["0"]
    assert [[i % 4 for i in keep if i // 4 == run] for run in range(3)] == [[i % 4 for i in keep if i < 4]] * 3
    silenced = copy.deepcopy(model)
    with torch.no_grad():
        silenced[0].weight[[i for i in range(12) if i not in keep]] = 0
        silenced[0].bias[[i for i in range(12) if i not in keep]] = 0
    set_widths(model, {"0": keep}, IMAGE)
    assert model[1].weight.shape == (12, 2, 3, 3)
    assert torch.allclose(model(IMAGE), silenced(IMAGE), atol=1e-6)


def test_frozen_parameters_training_mode_and_memory_format_stay():
    model = Residual().to(memory_format=torch.channels_last)
    model.up.requires_grad_(False)
    model.deep.train()
    model.bn.eval()
    set_widths(model, kept_channels(model, {"up": Width(0.5), "stem": Width(0.5)}, IMAGE), IMAGE)
    assert not model.up.weight.requires_grad
    assert model.down.weight.requires_grad
    assert model.stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.training
    assert not model.bn.training


def test_the_largest_filters_stay():
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(8.0)[:, None, None, None].expand(8, 3, 1, 1))
        model[2].weight.fill_(1)
    assert kept_channels(model, {"0": Width(0.5)}, IMAGE, 1) == {"0": [4, 5, 6, 7]}


def test_a_plan_is_made_once_a_model_and_again_when_its_shape_changes():
    model = Residual()
    first = width_plan(model, IMAGE)
    assert width_plan(model, IMAGE) is first
    set_widths(model, {"up": [0, 1, 2, 3]}, IMAGE)
    assert width_plan(model, IMAGE).group("up").channels == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("head", "the width of group 'head' cannot change: it is an output"),
        ("upp", "no group of channels is called 'upp'; nearest: up"),
    ],
)
def test_bad_groups_are_refused_in_one_line(name, message):
    with pytest.raises(GhostsearchError, match=message):
        kept_channels(Residual(), {name: Width(0.5)}, IMAGE)


@pytest.mark.parametrize(
    ("channels", "share", "multiple", "divisions", "kept"),
    [
        (64, 0.5, 8, 1, 32),
        (16, 0.5, 8, 1, 8),
        (16, 0.25, 8, 1, 8),  # never 0
        (4, 0.5, 8, 1, 4),  # never above what there is
        (24, 0.5, 8, 1, 16),  # halves round up
        (100, 0.75, 8, 1, 72),
        (96, 0.5, 8, 12, 48),
        (440, 0.5, 8, 55, 220),  # 55 runs of 8: the multiple would leave all or nothing
        (10, 1.0, 8, 1, 10),
    ],
)
def test_kept_widths(channels, share, multiple, divisions, kept):
    assert kept_width(channels, share, multiple, divisions) == kept


@settings(max_examples=60, deadline=None)
@given(
    runs=st.integers(1, 6), run=st.integers(1, 20), share=st.floats(0.01, 1), multiple=st.sampled_from([1, 2, 4, 8, 16])
)
def test_kept_widths_obey_their_rules(runs, run, share, multiple):
    channels = runs * run
    kept = kept_width(channels, share, multiple, runs)
    assert 0 < kept <= channels
    assert kept % runs == 0
    chosen = best_channels(torch.rand(channels), kept, runs)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == kept


def test_transposed_convolutions_are_cut_too():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 16, 2, stride=2), nn.Conv2d(16, 4, 1))
    groups, _ = groups_of(model)
    assert {n: g.fixed for n, g in groups.items() if n != "3"} == {"0": "", "2": ""}
    set_widths(model, kept_channels(model, {"0": Width(0.5), "2": Width(0.5)}, IMAGE, 4), IMAGE)
    assert model[2].weight.shape == (4, 8, 2, 2)
    assert model(IMAGE).shape == (2, 4, 20, 20)


def test_a_grouped_convolution_cut_down_to_its_groups():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 3, groups=4), nn.Conv2d(8, 4, 1)).eval()
    set_widths(model, {"1": [0, 2, 4, 6], "0": [0, 1, 4, 5, 8, 9, 12, 13]}, IMAGE)
    assert (model[1].in_channels, model[1].out_channels, model[1].groups) == (8, 4, 4)
    assert model[1].weight.shape == (4, 2, 3, 3)
    assert model(IMAGE).shape == (2, 4, 10, 10)


class Optional(nn.Module):
    """A second input adds a second layer's channels to the first one's."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x, y=None):
        both = self.first(x) if y is None else self.first(x) + self.second(y)
        return self.head(both)


def test_inputs_of_another_form_have_groups_of_their_own():
    model = Optional().eval()

    def members(example):
        return next(g.members for g in find_groups(model, example)[0] if g.name == "first")

    assert members(IMAGE) == ("first",)
    assert set(members((IMAGE, IMAGE))) == {"first", "second"}
    assert members(IMAGE[:1]) == ("first",)


class Parts(nn.Module):
    """Two convolutions read a half each of what one makes."""

    def __init__(self, sizes=(8, 8)):
        super().__init__()
        self.a, self.sizes = nn.Conv2d(3, sum(sizes), 3, padding=1), list(sizes)
        self.left, self.right = (nn.Conv2d(n, 8, 3, padding=1) for n in sizes)
        self.end = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        left, right = torch.relu(self.a(x)).split(self.sizes, 1)
        return self.end(torch.cat([self.left(left), self.right(right)], 1))


class Chunks(Parts):
    """The same by chunk, which a narrower net follows."""

    def forward(self, x):
        left, right = torch.relu(self.a(x)).chunk(2, 1)
        return self.end(torch.cat([self.left(left), self.right(right)], 1))


def test_parts_that_are_read_apart_lose_the_same_positions():
    x = torch.randn(1, 3, 8, 8)
    group = width_plan(Chunks(), x).group("a")
    assert group.divisions == 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kept = kept_channels(Chunks(), {"a": Width(0.5)}, x)["a"]
    assert [k - 8 for k in kept[len(kept) // 2 :]] == kept[: len(kept) // 2]
    uneven = {g.name: g.fixed for g in width_plan(Parts((4, 12)), x).groups}
    assert uneven["a"]


class Auxiliary(nn.Module):
    """In training a second head reads what lies between."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head, self.aux = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x):
        y = torch.relu(self.a(x))
        z = self.head(torch.relu(self.b(y)).mean((2, 3)))
        return (z, self.aux(y.mean((2, 3)))) if self.training else z


def test_what_only_training_reads_keeps_its_width():
    fixed = {g.name: g.fixed for g in width_plan(Auxiliary().eval(), torch.randn(2, 3, 8, 8)).groups}
    assert "training alone" in fixed["a"]
    assert not fixed["b"]


def test_a_plan_is_made_again_when_a_layer_without_parameters_is_exchanged():
    class Flip(nn.Module):
        def forward(self, x):
            return x.flip(1)

    net, x = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Identity(), nn.Conv2d(16, 4, 1)).eval(), torch.randn(1, 3, 8, 8)
    assert width_plan(net, x).group("0").channels == 16
    net[1] = Flip()
    assert any(g.fixed for g in width_plan(net, x).groups if g.name == "0")


def test_groups_of_one_channel_cannot_lose_any():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1))
    groups, _ = groups_of(model)
    assert "hold one channel each" in groups["0"].fixed
    assert not groups["2"].fixed


class Scaled(nn.Module):
    """Outputs that overflow, or of which some are infinite by design. x: (N, 3, H, W) -> (N, 4, H - 2, W - 2)"""

    def __init__(self, masked):
        super().__init__()
        self.a, self.b, self.masked = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), masked

    def forward(self, x):
        y = self.b(self.a(x))
        return y.masked_fill(torch.arange(4).view(4, 1, 1) > 2, -torch.inf) if self.masked else (y * 1e38).square()


@pytest.mark.parametrize("masked", [True, False])
def test_a_cut_is_checked_where_outputs_are_finite(masked):
    groups, _ = groups_of(Scaled(masked))
    assert ("overflow" in groups["a"].fixed) is not masked
    assert masked is not bool(groups["a"].fixed)
