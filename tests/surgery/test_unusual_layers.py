"""Layers that torch runs and that look unusual: a fit sees what they really compute."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import LoadedModel
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.saved import load, save
from ghostsearch.surgery.sites import find_sites

GHOST = "ghost(ratio=2, kernel=3)"


class Net(nn.Module):
    """Two convolutions with norms, the second one read by a sum. x: (N, 3, H, W) -> (N, 10)"""

    def __init__(self, norm=nn.BatchNorm2d, *, traced=True):
        super().__init__()
        self.a, self.first = nn.Conv2d(3, 16, 3, padding=1), norm(16)
        self.b, self.second = nn.Conv2d(16, 16, 3, padding=1), norm(16)
        self.head, self.traced = nn.Linear(16, 10), traced

    def forward(self, x):
        if not self.traced and x.sum() > 1e9:
            return x
        y = F.relu(self.first(self.a(x)))
        return self.head(F.relu(y + self.second(self.b(y))).mean((2, 3)))


class Active(nn.BatchNorm2d):
    """An activation inside the norm, as timm's layers have."""

    def forward(self, x):
        return F.silu(super().forward(x))


@pytest.fixture
def images():
    return torch.randn(32, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def trained(net, images):
    """With statistics of its own, in evaluation mode."""
    with torch.no_grad():
        for _ in range(5):
            net.train()(images)
    return net.eval()


def error(net, architecture, images, *, calibrated=True):
    """Relative squared error of a conversion's outputs."""
    made = convert(net, architecture, example=images[:1], calibration=[images] if calibrated else None)
    with torch.no_grad():
        wanted = net(images)
        return float((made(images) - wanted).square().mean() / wanted.var())


@pytest.mark.parametrize("traced", [True, False])
def test_an_activation_inside_a_norm_is_not_lost(traced, images):
    torch.manual_seed(0)
    net = trained(Net(Active, traced=traced), images)
    assert error(net, Architecture.of({"b": "crop(kernel=3)"}), images) < 1e-8, "nothing is taken away"
    ghost = Architecture.of({"b": GHOST})
    assert error(net, ghost, images) < 0.5 * error(net, ghost, images, calibrated=False)


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}])
def test_norms_without_weights_or_statistics_are_left_alone(options, images):
    torch.manual_seed(0)
    net = trained(Net(lambda n: nn.BatchNorm2d(n, **options), traced=False), images)
    assert error(net, Architecture.of({"b": GHOST}), images) < error(
        net, Architecture.of({"b": GHOST}), images, calibrated=False
    )


def test_padding_that_was_set_later_is_what_a_fit_reads(images):
    def built(**options):
        torch.manual_seed(0)
        net = Net()
        net.a = nn.Conv2d(3, 16, 3, dilation=2, **options)
        return net

    late = built()
    late.a.padding = (2, 2)
    nets = [trained(net, images) for net in (late, built(padding=2))]
    for site in ("a", "b"):
        found, wanted = (error(net, Architecture.of({site: GHOST}), images) for net in nets)
        assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["stride", "dilation", "padding"])
@pytest.mark.parametrize("choice", [GHOST, "crop(kernel=1)", "separable(multiplier=2)"])
def test_a_size_that_was_set_as_a_number_is_taken_for_every_dimension(name, choice, images):
    torch.manual_seed(0)
    net = trained(Net(), images)
    wanted = error(net, Architecture.of({"b": choice}), images)
    setattr(net.b, name, 1)
    assert all(site.stride == (1, 1) for site in find_sites(net, images[:1]).sites)
    assert error(net, Architecture.of({"b": choice}), images) == pytest.approx(wanted, rel=1e-4)


def test_widths_in_front_of_a_depthwise_convolution_that_reads_a_concatenation(images):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
            self.depthwise, self.norm = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.BatchNorm2d(32)
            self.end = nn.Conv2d(32, 8, 1)

        def forward(self, x):
            y = torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1)
            return self.end(F.relu(self.norm(self.depthwise(y)))).mean((2, 3))

    torch.manual_seed(0)
    net = trained(Joined(), images)
    for widths in ({"a": "width(0.5)"}, {"a": "width(0.5)", "b": "width(0.5)"}):
        half = Architecture.of({}, widths)
        assert error(net, half, images) < 0.5 * error(net, half, images, calibrated=False)


def test_what_a_fit_leaves_alone_keeps_its_double_precision(images):
    torch.manual_seed(0)
    net = trained(Net().double(), images.double())
    made = convert(net, Architecture.of({"b": GHOST}), example=images[:1].double(), calibration=[images.double()])
    for name in ("a.weight", "a.bias", "first.running_mean", "first.running_var"):
        assert torch.equal(made.state_dict()[name], net.state_dict()[name])


def test_a_buffer_that_is_not_saved_comes_back_in_the_precision_of_the_file(tmp_path, images):
    class Scaled(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(3, 1, 1), persistent=False)

        def forward(self, x):
            return super().forward(x * self.scale)

    torch.manual_seed(0)
    net = trained(Scaled(), images).to(torch.bfloat16)
    architecture = Architecture.of({"b": GHOST})
    made = convert(net, architecture, example=images[:1].bfloat16())
    source = LoadedModel(net, "", InputSpec(10, 3, (0.0,) * 3, (1.0,) * 3, 10))
    save(made, tmp_path / "half", source=source, architecture=architecture)
    again = load(tmp_path / "half", model=Scaled().eval())
    with torch.no_grad():
        assert torch.equal(again(images.bfloat16()), made(images.bfloat16()))


def test_a_width_that_the_forward_knows_as_a_number_is_told_in_a_line(images):
    class Numbered(Net):
        def forward(self, x):
            y = F.relu(self.second(self.b(F.relu(self.first(self.a(x))))))
            return self.head(y.reshape(y.size(0), self.b.out_channels, -1).mean(-1))

    torch.manual_seed(0)
    net, half = trained(Numbered(), images), Architecture.of({}, {"b": "width(0.5)"})
    assert error(net, half, images, calibrated=False) < 1, "its own forward follows"
    with pytest.raises(GhostsearchError, match="stands in its forward as a number"):
        error(net, half, images)
