"""Networks with the habits of real ones: each is converted, fitted no worse than copied, or refused with the reason."""

import warnings
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.random_graphs import outcome
from benchmarks.random_nets import Standardised
from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import tensors
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice_text import parse_layer_choice
from ghostsearch.space.costs import choice_fits
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.sites import find_sites
from ghostsearch.surgery.verify import BaselineRuns, ConversionWarning, checked, no_worse, output_error, outputs_of

GHOST, LOW = "ghost(ratio=2, kernel=3)", "lowrank(rank=0.75)"


def conv(c=3, n=16, **options):
    return nn.Conv2d(c, n, 3, padding=1, **options)


class Net(nn.Module):
    """Two convolutions and what a case adds; `b` is the site."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv(16, 16)

    def forward(self, x):
        return self.end(self.b(F.relu(self.a(x))))

    def end(self, y):
        return F.relu(y).mean((2, 3))


class Volume(nn.Module):
    """A generator in three dimensions, its transposed convolution in groups."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv3d(3, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1)
        self.up, self.c = nn.ConvTranspose3d(8, 8, 2, 2, groups=2), nn.Conv3d(8, 2, 1)

    def forward(self, x):
        return self.c(F.relu(self.up(F.relu(self.b(F.relu(self.a(x)))))))


class Signal(nn.Module):
    """A decoder in one dimension."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 16, 3, padding=1), nn.Conv1d(16, 16, 3, padding=1)
        self.up, self.c = nn.ConvTranspose1d(16, 8, 4, 2, 1), nn.Conv1d(8, 3, 1)

    def forward(self, x):
        return self.c(F.relu(self.up(F.relu(self.b(F.relu(self.a(x)))))))


class SharedNorm(Net):
    """One BatchNorm and one depthwise convolution behind two branches."""

    def __init__(self):
        super().__init__()
        self.c, self.norm = conv(16, 16), nn.BatchNorm2d(16)
        self.deep, self.d = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        y = F.relu(self.a(x))
        first, second = (self.d(F.relu(self.deep(self.norm(branch(y))))) for branch in (self.b, self.c))
        return {"changed": first, "kept": second}


class Sums(Net):
    """A sum with alpha, by keyword, with a parameter, and of a value with itself."""

    def __init__(self):
        super().__init__()
        self.shift, self.c = nn.Parameter(torch.randn(1, 16, 1, 1)), conv(16, 4)

    def forward(self, x):
        y = F.relu(self.a(x))
        z = torch.add(self.b(y), y, alpha=0.5)
        z = torch.add(input=z, other=y) + self.shift
        return self.c(F.relu(z + z))


class Contained(Net):
    """Run from a dict of tuples."""

    def __init__(self):
        super().__init__()
        self.steps = {"all": (self.a, self.b)}

    def forward(self, x):
        for layer in self.steps["all"]:
            x = F.relu(layer(x))
        return x.mean((2, 3))


class Circular(nn.Conv2d):
    """Pads in a circle by itself, more in front than behind."""

    def forward(self, x):
        x = F.pad(x, (2, 0, 2, 0), mode="circular")
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class OwnClass(Net):
    def __init__(self, kind=Circular, **options):
        super().__init__()
        self.b = kind(16, 16, 3, **options)
        self.c = conv(16, 4)

    def end(self, y):
        return self.c(F.relu(y))


class Heads(Net):
    """A tuple of a list and a dict."""

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(16, 4, 1)

    def end(self, y):
        return [self.c(y.relu()), y.mean((2, 3))], {"y": y}


class Named(Net):
    """The site has two names and stands in a tuple in a private attribute; a tensor is made on the way."""

    def __init__(self):
        super().__init__()
        steps = nn.ModuleDict({"b": self.b})
        self.__dict__["_modules"] = {"steps": steps, "a": self.a, "b": self.b}
        self._order = [("first", self.a), ("second", self.b)]

    def forward(self, x):
        for _, layer in self._order:
            x = F.prelu(layer(x), torch.tensor([0.2]))
        return x


@dataclass
class Result:
    maps: torch.Tensor
    mean: torch.Tensor


class Structured(Net):
    """Gives a dataclass."""

    def end(self, y):
        return Result(F.relu(y), y.mean((2, 3)))


class Masked(nn.Conv2d):
    """Sees only what is above, and every other channel (PixelCNN)."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, ::2], self.mask[:, :, 2:] = 0, 0

    def forward(self, x):
        self.weight.data *= self.mask
        return super().forward(x)


class BehindAMask(Net):
    def __init__(self):
        super().__init__()
        self.c = Masked(16, 4, 3, padding=1)

    def end(self, y):
        return self.c(F.relu(y))


class MaskItself(OwnClass):
    def __init__(self):
        super().__init__(Masked, padding=1)


class Coordinates(nn.Conv2d):
    """Convolves a channel more than it reads."""

    def forward(self, x):
        return super().forward(torch.cat([x, torch.ones_like(x[:, :1])], 1))


class Closed(Net):
    """Keeps the layer where nobody finds it."""

    def __init__(self):
        super().__init__()
        layer = self.b
        self.end = lambda y: layer(F.relu(y)).mean((2, 3))

    def forward(self, x):
        return self.end(self.a(x))


def made(net, dims=2):
    torch.manual_seed(0)
    x = torch.randn(32, 3, *[8] * dims)
    net = net() if callable(net) and not isinstance(net, nn.Module) else net
    with torch.no_grad():
        net.train()(x)
    return net.eval(), x


@pytest.mark.parametrize("choice", [GHOST, LOW])
@pytest.mark.parametrize(
    ("net", "dims"),
    [
        (Signal, 1),
        (Volume, 3),
        (SharedNorm, 2),
        (Sums, 2),
        (Contained, 2),
        (OwnClass, 2),
        (Heads, 2),
        (Named, 2),
        (Structured, 2),
        (BehindAMask, 2),
        (MaskItself, 2),
    ],
)
def test_it_converts_with_a_fit_better_than_the_copy(net, dims, choice):
    net, x = made(net, dims)
    architecture = Architecture.of({"b": choice})
    with torch.no_grad():
        copied = convert(net, architecture, example=x[:1])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fitted = convert(net, architecture, example=x[:1], calibration=[x])
    # Eight channels of noise in three dimensions leave a ghost little to fit: then it says so.
    kept = (net.__class__, choice) == (Volume, GHOST) and any(w.category is ConversionWarning for w in said)
    wanted = outputs_of(net, x)
    assert kept or output_error(fitted, x, wanted) < output_error(copied, x, wanted)


def test_what_does_not_depend_on_the_change_stays():
    net, x = made(SharedNorm)
    fitted = convert(net, Architecture.of({"b": GHOST}), example=x[:1], calibration=[x])
    with torch.no_grad():
        torch.testing.assert_close(fitted(x)["kept"], net(x)["kept"])


@pytest.mark.parametrize("choice", [GHOST, LOW])
def test_standardised_filters_are_taken_over_as_the_class_uses_them(choice):
    net, x = made(OwnClass(Standardised, padding=1))
    converted = convert(net, Architecture.of({"b": choice.replace("0.75", "0.99")}), example=x[:1])
    first = converted.b.first
    assert isinstance(first, Standardised)
    assert output_error(converted, x, outputs_of(net, x)) < (0.05 if choice == LOW else 2)


def test_a_layer_in_a_closure_is_refused():
    net, x = made(Closed)
    with pytest.raises(GhostsearchError, match="'b' cannot be replaced: never called"):
        convert(net, Architecture.of({"b": GHOST}), example=x[:1])


class Asking(Net):
    """Asks a layer for what a block has not, or for its filters' number where images come in another memory order."""

    def end(self, y):
        return F.relu(y).mean((2, 3)) if not self.b.transposed else y


class Counting(Net):
    def end(self, y):
        return y.view(len(y), self.b.weight.shape[0], -1).mean(2)


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("kind", [Asking, Counting])
def test_a_forward_that_needs_the_layer_itself_is_told_in_a_line(kind, images):
    net, x = made(kind)
    with pytest.raises(GhostsearchError, match=r"'b' cannot be replaced|the converted model's outputs are"):
        convert(net, Architecture.of({"b": GHOST}), example=x[:1], calibration=[x] if images else None)


class Scaled(nn.Conv2d):
    """A learning rate of its own for filters and bias, which it must have."""

    def forward(self, x):
        return F.conv2d(x, self.weight * 0.5, self.bias * 2.0, self.stride, self.padding)


@pytest.mark.parametrize("images", [False, True])
def test_a_class_that_needs_its_bias_is_offered_no_block_without(images):
    net, x = made(OwnClass(Scaled, padding=1))
    (site,) = (s for s in find_sites(net, x[:1]).sites if s.path == "b")
    assert [choice_fits(site, parse_layer_choice(choice)) for choice in (GHOST, "lowrank(rank=0.5)")] == [True, False]
    convert(net, Architecture.of({"b": GHOST}), example=x[:1], calibration=[x] if images else None)
    with pytest.raises(GhostsearchError, match="'b' cannot be replaced"):
        convert(net, Architecture.of({"b": LOW}), example=x[:1], calibration=[x] if images else None)


def test_what_else_fails_in_a_fit_is_raised_as_it_is(monkeypatch):
    net, x = made(Net)
    monkeypatch.setattr("ghostsearch.surgery.fit_model.ModelFit.run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(net, Architecture.of({"b": GHOST}), example=x[:1], calibration=[x])


def test_a_class_that_convolves_more_than_it_reads_is_refused_and_read():
    net, x = made(Net)
    net.b = Coordinates(17, 16, 3, padding=1)
    with pytest.raises(GhostsearchError, match="Coordinates: a convolution class that reads 16 channels and conv"):
        convert(net, Architecture.of({"b": GHOST}), example=x[:1])
    convert(net, Architecture.of({"a": GHOST}), example=x[:1], calibration=[x])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_comes_back_in_its_own_precision(dtype):
    net, x = made(Net)
    fitted = convert(net.to(dtype), Architecture.of({"b": GHOST}), example=x[:1].to(dtype), calibration=[x])
    assert {p.dtype for p in fitted.parameters()} == {dtype}
    assert torch.isfinite(fitted(x.to(dtype))).all()


def test_mode_hooks_and_frozen_flags_stay():
    net, x = made(Net)
    net.register_forward_hook(lambda *_: None)
    net.a.requires_grad_(False)
    net.b.requires_grad_(False)
    fitted = convert(net.train(), Architecture.of({"b": GHOST}), example=x[:1], calibration=[x])
    assert fitted.training
    assert len(fitted._forward_hooks) == 1
    assert not any(p.requires_grad for p in fitted.parameters())


def test_compiled_modules_are_unwrapped_and_programs_refused():
    net, x = made(Net)
    assert isinstance(convert(torch.compile(net), Architecture.of({"b": GHOST}), example=x[:1]), Net)
    program = torch.export.export(net, (x[:1],))
    for made_of_it in (program, program.module(), torch.jit.trace(net, x[:1])):
        with pytest.raises(GhostsearchError, match="an exported or scripted program has none left"):
            convert(made_of_it, Architecture.of({"b": GHOST}), example=x[:1])
    with pytest.raises(GhostsearchError, match="Module, got str"):
        find_sites("net", x[:1])


def test_compiled_parts_are_unwrapped():
    inner, x = made(Net)
    net = nn.Sequential(torch.compile(inner), nn.Linear(16, 3)).eval()
    assert {site.path for site in find_sites(net, x[:1]).sites} == {"0.b"}
    fitted = convert(net, Architecture.of({"0.b": GHOST}), example=x[:1], calibration=[x])
    assert type(fitted[0]) is Net
    assert torch.equal(net[0]._orig_mod.b.weight, inner.b.weight)


def test_a_fit_that_is_worse_is_not_kept():
    net, x = made(Net)
    converted = convert(net, Architecture.of({"b": GHOST}), example=x[:1])
    before = {k: v.clone() for k, v in converted.state_dict().items()}

    def spoil():
        with torch.no_grad():
            converted.a.weight.add_(1)

    with pytest.warns(ConversionWarning, match="the copied weights are kept"):
        no_worse(net, converted, x, spoil)
    assert all(torch.equal(v, before[k]) for k, v in converted.state_dict().items())


def test_a_conversion_that_changes_something_else_is_refused():
    net, x = made(SharedNorm)
    architecture = Architecture.of({"b": GHOST})
    converted = convert(net, architecture, example=x[:1])
    with torch.no_grad():
        converted.c.weight.mul_(1.1)
    with pytest.raises(GhostsearchError, match="outputs that do not depend on b changed"):
        checked(BaselineRuns(net, x[:1]), converted, architecture)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_convert_rightly(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not outcome(10_000 + seed).startswith("WRONG")


def test_random_graphs_differ_in_what_they_return():
    from benchmarks.random_nets import made as random_net

    assert len({len(list(tensors(net(x)))) for net, x in map(random_net, range(8))}) > 1


class Finder(nn.Module):
    """A detector: per image, a list of what its map finds, longer or shorter with other weights."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.score = nn.Conv2d(16, 1, 1)

    def forward(self, images):
        maps = [self.score(self.b(torch.relu(self.a(x[None])))).flatten() for x in images]
        return [{"scores": m[m > 0], "at": (m > 0).nonzero()} for m in maps]


def test_a_detector_may_find_more_or_less():
    torch.manual_seed(0)
    net, images = Finder().eval(), [torch.randn(3, 12, 12), torch.randn(3, 8, 8)]
    made = convert(net, Architecture.of({"b": "ghost(ratio=2, kernel=3)"}), example=images)
    before, after = net(images), made(images)
    assert [len(x["scores"]) for x in before] != [len(x["scores"]) for x in after]


def test_one_number_alone_has_an_error_too():
    """A network of one output on one image: a saved model that computes otherwise must not pass for the same."""
    net, other = nn.Linear(3, 1), nn.Linear(3, 1)
    x = torch.randn(1, 3)
    assert output_error(net, x, outputs_of(net, x)) == 0
    assert output_error(other, x, outputs_of(net, x)) > 0
