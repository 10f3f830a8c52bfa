"""Sites and the reasons why a convolution is none."""

import copy
import random

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from ghostsearch.errors import GhostsearchError
from ghostsearch.models.cifar import resnet20
from ghostsearch.surgery.sites import find_sites, require_sites

IMAGE = torch.zeros(1, 3, 16, 16)


class Called(nn.Module):
    """Calls its layers one after the other, `branch` never."""

    def __init__(self, *layers, branch=None):
        super().__init__()
        self.body = nn.Sequential(*layers)
        self.branch = branch

    def forward(self, x):
        return self.body(x)


def stem():
    return nn.Conv2d(3, 8, 3)


def reasons(model, example=IMAGE, **options):
    anatomy = find_sites(model, example, widths=False, **options)
    return {s.path: s.reason for s in anatomy.skipped}


def test_a_site_says_what_it_is():
    model = nn.Sequential(stem(), nn.ReLU(), nn.Conv2d(8, 12, (3, 1), stride=2, padding=(1, 0), groups=4, bias=True))
    (site,) = find_sites(model, torch.zeros(5, 3, 16, 16), widths=False).sites
    assert (site.path, site.kind, site.groups, site.kernel, site.stride) == ("2", "Conv2d 3x1", 4, (3, 1), (2, 2))
    assert (site.in_shape, site.out_shape) == ((8, 14, 14), (12, 7, 7))
    assert site.macs == 12 * 2 * 3 * 7 * 7
    assert site.params == 12 * 2 * 3 + 12


def test_macs_count_every_call_on_one_image():
    shared = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(stem(), shared, nn.MaxPool2d(2), shared)
    (site,) = find_sites(model, torch.zeros(4, 3, 16, 16), widths=False).sites
    assert site.path == "1"
    assert site.aliases == ("3",)
    assert site.macs == 8 * 8 * 9 * (14 * 14 + 7 * 7)


def hooked():
    conv = nn.Conv2d(8, 8, 3)
    conv.register_forward_hook(lambda *_: None)
    return conv


def patched():
    conv = nn.Conv2d(8, 8, 3)
    conv.forward = lambda x: x
    return conv


class SamePadding(nn.Conv2d):
    """A subclass that pads by itself, as timm's Conv2dSame."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


class Standardised(nn.Conv2d):
    """A subclass with filters of mean zero and a gain, as timm's ScaledStdConv2d."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = self.gain * weight / weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Mixing(nn.Conv2d):
    """A subclass whose filters lean on one another."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight - self.weight.mean(0), self.bias)


class Activated(nn.Conv2d):
    """A subclass with an activation inside."""

    def forward(self, x):
        return super().forward(x).relu()


class Renamed(nn.Conv2d):
    """A subclass that adds nothing to the forward, as torchvision's Conv3DSimple."""


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), "depthwise"),
        (nn.Conv2d(8, 16, 3, groups=8), "depthwise"),
        (nn.Conv2d(8, 4, 3, groups=4), "grouped"),
        (nn.Conv2d(8, 1, 3), "too few channels"),
        (nn.ConvTranspose2d(8, 8, 2), "ConvTranspose2d"),
        (Mixing(8, 8, 3), "Mixing: a convolution class whose output channels do not depend on their own filters alone"),
        (Activated(8, 8, 3), "Activated: a convolution class whose forward is not linear in what it reads"),
        (patched(), "a convolution whose forward was replaced on the instance"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3)), "parametrized"),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)), "parametrized"),
        (prune.identity(nn.Conv2d(8, 8, 3), "weight"), "parametrized"),
        (hooked(), "hooks"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1)), "1x1 maps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_other_convolution_says_why_not(layer, reason):
    found = reasons(nn.Sequential(stem(), layer))
    assert "0" in found
    assert reason in list(found.values())[1]


def test_a_subclass_with_the_inherited_forward_is_a_site():
    assert [s.path for s in find_sites(nn.Sequential(stem(), Renamed(8, 8, 3)), IMAGE, widths=False).sites] == ["1"]


def test_a_lazy_convolution_is_told_to_run_first():
    model = Called(stem(), branch=nn.LazyConv2d(4, 1))
    with pytest.raises(GhostsearchError, match=r"'branch\.weight' is lazy"):
        find_sites(model, IMAGE, widths=False)


def test_torchscript_is_refused_with_a_reason():
    model = nn.Sequential(stem(), torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())))
    assert "TorchScript" in reasons(model)["1.0"]


def test_shared_parameters_are_no_alias():
    one, two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    two.weight = one.weight
    found = reasons(nn.Sequential(stem(), one, two))
    assert found["1"] == "shared parameters: the same as those of 2"
    assert found["2"] == "shared parameters: the same as those of 1"


def test_a_layer_that_the_forward_does_not_reach():
    assert "never called" in reasons(Called(stem(), branch=nn.Conv2d(8, 8, 3)))["branch"]


class Excited(nn.Module):
    """A stem whose maps are weighted by what two 1x1 convolutions make of their means. x: (N, 3, H, W)"""

    def __init__(self):
        super().__init__()
        self.stem, self.squeeze, self.excite = stem(), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True))).sigmoid()


def test_few_channels_are_no_reason_to_call_a_layer_the_first():
    assert "squeeze-excite" in reasons(Excited())["excite"]
    few = nn.Sequential(stem(), nn.Conv2d(8, 2, 3), nn.Conv2d(2, 8, 3))
    assert reasons(few)["2"].startswith("few inputs: 2 channels")


def test_the_first_layer_only_on_request():
    assert "first layer" in reasons(nn.Sequential(stem()))["0"]
    assert [s.path for s in find_sites(nn.Sequential(stem()), IMAGE, include_first=True).sites] == ["0"]


@pytest.mark.parametrize(
    ("layers", "example"),
    [
        ((nn.Conv1d(1, 8, 3), nn.Conv1d(8, 8, 3)), torch.zeros(2, 1, 30)),
        ((nn.Conv3d(3, 8, 3), nn.Conv3d(8, 8, (1, 3, 3))), torch.zeros(1, 3, 5, 9, 9)),
    ],
    ids=["1d", "3d"],
)
def test_other_dimensions(layers, example):
    (site,) = find_sites(nn.Sequential(*layers), example).sites
    assert site.kind.startswith(type(layers[1]).__name__)


def test_every_convolution_is_a_site_or_explained():
    model = resnet20()
    anatomy = find_sites(model, torch.zeros(1, 3, 32, 32), widths=False)
    assert {s.path for s in (*anatomy.sites, *anatomy.skipped)} == {
        path for path, m in model.named_modules() if isinstance(m, nn.Conv2d)
    }


def test_looking_changes_nothing():
    model = resnet20().train()
    model.bn1.num_batches_tracked.fill_(7)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    seed = random.getstate()
    find_sites(model, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert random.getstate() == seed
    assert all(p.grad is None for p in model.parameters())


def test_a_forward_that_fails_is_one_line():
    with pytest.raises(GhostsearchError, match=r"fails on the example of shape \(1, 5, 8, 8\)") as caught:
        find_sites(nn.Sequential(stem()), torch.zeros(1, 5, 8, 8))
    assert "\n" not in str(caught.value)


def test_models_that_branch_on_values_run_on_the_cpu():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3)

        def forward(self, x):
            return self.conv(x) if x.sum() < 1 else x

    (site,) = find_sites(Branching(), torch.zeros(1, 8, 6, 6), widths=False).sites
    assert site.out_shape == (8, 4, 4)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["body.9"], "no convolution is called 'body.9'; nearest: body.1"),
        (["body.0"], "'body.0' cannot be replaced: first layer"),
    ],
)
def test_required_sites(paths, message):
    anatomy = find_sites(Called(stem(), nn.Conv2d(8, 8, 3)), IMAGE, widths=False)
    require_sites(anatomy, ["body.1"])
    with pytest.raises(GhostsearchError, match=message):
        require_sites(anatomy, paths)


def test_a_model_without_sites_says_so_in_one_line():
    anatomy = find_sites(nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 4)), IMAGE)
    with pytest.raises(GhostsearchError, match=r"no convolution of this model can be replaced \(it has no convolution"):
        require_sites(anatomy, ["anything"])


@pytest.mark.parametrize("kind", [SamePadding, Standardised])
def test_a_class_of_its_own_is_a_site_where_each_channel_depends_on_its_filter(kind):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), kind(8, 8, 3), nn.Conv2d(8, 4, 3))
    assert "1" in {site.path for site in find_sites(net, torch.randn(1, 3, 12, 12)).sites}
