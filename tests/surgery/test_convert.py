"""convert and swap_sites: a new model of the right structure, the old one untouched."""

import copy
import io
from collections import Counter
from importlib import import_module

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ghostsearch.blocks.ghost import GhostConv
from ghostsearch.blocks.lowrank import LowRankConv
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.cifar import resnet20
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import Ghost, LowRank
from ghostsearch.space.costs import site_macs, site_params
from ghostsearch.surgery import swap
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.sites import find_sites
from ghostsearch.surgery.swap import swap_sites

convert_module = import_module("ghostsearch.surgery.convert")
IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
GHOST = "ghost(ratio=2, kernel=3)"


@pytest.fixture(scope="module")
def baseline():
    torch.manual_seed(0)
    return resnet20().eval()


def macs(model, image=IMAGE):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops() // 2 // len(image)


def params(model):
    return sum(p.numel() for p in model.parameters())


def test_ghosts_cost_what_was_predicted(baseline):
    anatomy = find_sites(baseline, IMAGE, widths=False)
    architecture = Architecture({s.path: Ghost(2, 3) for s in anatomy.sites})
    converted = convert(baseline, architecture, example=IMAGE, anatomy=anatomy)
    assert macs(converted) == macs(baseline) + sum(site_macs(s, Ghost(2, 3)) - s.macs for s in anatomy.sites)
    assert params(converted) == params(baseline) + sum(site_params(s, Ghost(2, 3)) - s.params for s in anatomy.sites)


def test_one_architecture_holds_choices_and_widths(baseline):
    architecture = Architecture.of(
        {"layer1.0.conv1": GHOST, "layer1.0.conv2": "lowrank(rank=0.5)", "layer3.2.conv2": "ghost(ratio=4, kernel=1)"},
        {"layer1.0.conv1": "width(0.5)", "layer3.2.conv1": "width(0.25)"},
    )
    converted = convert(baseline, architecture, example=IMAGE)
    first, second = converted.layer1[0].conv1, converted.layer1[0].conv2
    assert isinstance(first, GhostConv)
    assert (first.in_channels, first.out_channels, first.primary.out_channels) == (16, 8, 4)
    assert isinstance(second, LowRankConv)
    assert (second.in_channels, second.out_channels, second.reduce.out_channels) == (8, 16, 8)
    assert converted.layer3[2].conv1.out_channels == 16
    assert converted.layer3[2].conv2.primary.weight.shape == (16, 16, 3, 3)
    assert converted(IMAGE).shape == (2, 10)


def test_the_argument_is_never_touched(baseline):
    model = copy.deepcopy(baseline).train()
    model.layer1.requires_grad_(False)
    modules, state, random = list(model.modules()), copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    convert(model, Architecture.of({"layer2.0.conv1": GHOST}, {"layer1.0.conv1": "width(0.5)"}), example=IMAGE)
    assert [id(m) for m in model.modules()] == [id(m) for m in modules]
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert model.training
    assert torch.equal(random, torch.random.get_rng_state())


def test_mode_and_frozen_state_are_taken_over(baseline):
    model = copy.deepcopy(baseline).train()
    model.layer1.requires_grad_(False)
    model.layer2[0].eval()
    architecture = Architecture.of(
        {"layer1.0.conv1": GHOST, "layer2.0.conv1": GHOST, "layer3.0.conv1": GHOST}, {"layer1.0.conv1": "width(0.5)"}
    )
    converted = convert(model, architecture, example=IMAGE)
    assert not any(p.requires_grad for p in converted.layer1.parameters())
    assert all(p.requires_grad for p in converted.layer3.parameters())
    assert not any(m.training for m in converted.layer2[0].modules())
    assert converted.layer3[0].conv1.primary.training


def test_the_baseline_architecture_is_a_copy(baseline):
    same = convert(baseline, Architecture(), example=IMAGE)
    assert same is not baseline
    assert torch.equal(same(IMAGE), baseline(IMAGE))


def test_saved_weights_load_into_a_conversion_made_again(baseline):
    architecture = Architecture.of(
        {f"layer{i}.0.conv{j}": c for i, j, c in [(1, 1, GHOST), (2, 2, "lowrank(rank=0.5)"), (3, 1, GHOST)]},
        {"layer3.0.conv1": "width(0.5)"},
    )
    first = convert(baseline, architecture, example=IMAGE)
    # What a fit may leave behind: an order in one block, none in the other.
    first.layer1[0].conv1.order = torch.randperm(16)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    torch.manual_seed(1)
    again = convert(resnet20(), architecture, example=IMAGE).eval()
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True), strict=True)
    assert torch.equal(again(IMAGE), first(IMAGE))


def test_converting_twice_gives_the_same_weights(baseline):
    architecture = Architecture.of({"layer1.0.conv1": GHOST}, {"layer2.0.conv1": "width(0.5)"})
    one, two = (convert(baseline, architecture, example=IMAGE, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("calibration", [None, [torch.randn(16, 3, 32, 32)]], ids=["copied", "fitted"])
def test_the_network_is_built_once(baseline, monkeypatch, calibration):
    """Its blocks and its cut, with images too: the fit works on a copy of what was built."""
    built = Counter()

    def counted(where, name):
        real = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *a, **k: (built.update([name]), real(*a, **k))[1])

    counted(convert_module, "set_widths")
    counted(convert_module, "drop_branches")
    counted(swap, "build_block")
    architecture = Architecture.of({"layer1.0.conv1": GHOST, "layer3.1.conv1": GHOST}, {"layer2.0.conv1": "width(0.5)"})
    convert(baseline, architecture, example=IMAGE, calibration=calibration)
    assert built == {"set_widths": 1, "drop_branches": 1, "build_block": 2}


class Tied(nn.Module):
    """The same convolution under three names, one of them inside an alias of a module."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.again = self.body
        self.direct = self.body[0]

    def forward(self, x):
        return self.direct(self.again(self.body(self.stem(x))))


def test_aliases_are_replaced_together():
    model = Tied()
    anatomy = find_sites(model, IMAGE, widths=False)
    assert [(s.path, s.aliases) for s in anatomy.sites] == [("body.0", ("again.0", "direct"))]
    converted = convert(model, Architecture.of({"body.0": GHOST}), example=IMAGE)
    assert isinstance(converted.direct, GhostConv)
    assert converted.direct is converted.body[0] is converted.again[0]
    assert macs(converted) == macs(model) + site_macs(anatomy.sites[0], Ghost(2, 3)) - anatomy.sites[0].macs


def test_swapping_returns_old_and_new(baseline):
    model = copy.deepcopy(baseline)
    old = model.layer1[0].conv1
    swapped = swap_sites(model, {"layer1.0.conv1": LowRank(0.5)})
    assert list(swapped) == ["layer1.0.conv1"]
    assert swapped["layer1.0.conv1"] == (old, model.layer1[0].conv1)


def test_low_rank_at_full_rank_is_exact(baseline):
    converted = convert(baseline, Architecture.of({"layer1.0.conv1": "lowrank(rank=0.999)"}), example=IMAGE)
    assert torch.allclose(converted(IMAGE), baseline(IMAGE), atol=1e-4)


@pytest.mark.parametrize(
    ("sites", "groups", "message"),
    [
        ({"layer9": GHOST}, {}, "no convolution is called 'layer9'; nearest: layer"),
        ({"linear": GHOST}, {}, "no convolution is called 'linear'"),
        ({}, {"conv1": "width(0.5)"}, "the width of group 'conv1' cannot change: of the"),
        ({}, {"layer1": "width(0.5)"}, "no group of channels is called 'layer1'"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_line(baseline, sites, groups, message):
    with pytest.raises(GhostsearchError, match=message) as caught:
        convert(baseline, Architecture.of(sites, groups), example=IMAGE)
    assert "\n" not in str(caught.value)


def test_distilling_without_images_is_refused(baseline):
    with pytest.raises(GhostsearchError, match="needs images"):
        convert(baseline, Architecture.of({"layer1.0.conv1": GHOST}), example=IMAGE, distill_steps=5)


def test_channels_last_and_half_precision_go_through():
    model = resnet20().to(torch.bfloat16).to(memory_format=torch.channels_last).eval()
    architecture = Architecture.of({"layer2.0.conv1": GHOST}, {"layer2.0.conv1": "width(0.5)"})
    converted = convert(model, architecture, example=IMAGE.to(torch.bfloat16))
    assert {p.dtype for p in converted.parameters()} == {torch.bfloat16}
    assert converted.layer2[0].conv1.primary.weight.is_contiguous(memory_format=torch.channels_last)
    assert converted(IMAGE.to(torch.bfloat16)).dtype == torch.bfloat16
