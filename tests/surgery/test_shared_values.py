"""What two parts of a network read is not changed for one of them: values before a norm, tied parameters."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostsearch.fits.problem import FitSettings
from ghostsearch.graph.flow import find_places, trace_graph
from ghostsearch.graph.paused import watched_places
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.sites import find_sites

GHOST = "ghost(ratio=2, kernel=3)"


class Net(nn.Module):
    """Three convolutions; x: (N, 3, H, W) -> (N, 8, H, W)"""

    def __init__(self, conditional=False):
        super().__init__()
        self.conditional = conditional
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.norm, self.other = nn.BatchNorm2d(16), nn.BatchNorm2d(16)

    def forward(self, x):
        if self.conditional and x.abs().max() > 1e9:
            x = -x
        return self.rest(self.a(x))


class PreActivation(Net):
    def rest(self, y):
        return self.d(F.relu(y + self.b(F.relu(self.norm(y)))))


class TwoNorms(Net):
    def rest(self, y):
        return self.d(F.relu(self.norm(y)) + F.relu(self.other(y)))


class Returned(Net):
    def rest(self, y):
        return self.norm(y), y


class OneNorm(Net):
    def rest(self, y):
        return self.d(F.relu(self.norm(y)))


@pytest.mark.parametrize(
    ("kind", "norm"), [(PreActivation, None), (TwoNorms, None), (Returned, None), (OneNorm, "norm")]
)
def test_a_norm_is_a_layers_own_where_nothing_else_reads_the_layer(kind, norm):
    model, x = kind(conditional=True).eval(), torch.randn(2, 3, 8, 8)
    assert watched_places(model, x)["a"].norm == norm
    model.conditional = False
    assert find_places(model, trace_graph(model, x))["a"].norm == norm


class Tied(Net):
    def __init__(self, conditional=False, tied=True):
        super().__init__(conditional)
        if tied:
            self.c.weight = self.b.weight

    def rest(self, y):
        return self.d(F.relu(self.c(F.relu(self.b(F.relu(y))))))


class Decoder(Net):
    def rest(self, y):
        return F.conv_transpose2d(F.relu(self.b(F.relu(y))), self.b.weight, padding=1)


@pytest.mark.parametrize("conditional", [False, True], ids=["traced", "untraceable"])
@pytest.mark.parametrize(("kind", "tied"), [(Tied, ["b", "c"]), (Decoder, ["b"])])
def test_tied_weights_are_not_fitted(kind, tied, conditional):
    torch.manual_seed(0)
    model, x, reports = kind(conditional).eval(), torch.randn(32, 3, 10, 10), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied, fitted = (
            convert(
                model, Architecture.of({"a": GHOST}), example=x[:1], calibration=images, on_fit=reports.append,
                settings=FitSettings(reach=reach),
            )
            for images, reach in ((None, None), ([x], 3))
        )  # fmt: skip
    assert list(reports[0].not_fitted) == tied
    assert torch.equal(fitted.b.weight, model.b.weight)
    with torch.no_grad():
        errors = [float((made(x) - model(x)).square().mean()) for made in (copied, fitted)]
    assert errors[1] < 0.8 * errors[0]


class Tokens(nn.Module):
    """A linear layer whose norm is over tokens. x: (N, 3, H, H) -> (N, 4)"""

    def __init__(self, tokens, conditional):
        super().__init__()
        self.conditional = conditional
        self.a, self.linear = nn.Conv2d(3, 16, 3, 4, padding=1), nn.Linear(16, 16)
        self.norm, self.head = nn.BatchNorm1d(tokens), nn.Linear(16, 4)

    def forward(self, x):
        if self.conditional and x.abs().max() > 1e9:
            x = -x
        return self.head(F.relu(self.norm(self.linear(self.a(x).flatten(2).transpose(1, 2)))).mean(1))


@pytest.mark.parametrize("conditional", [False, True], ids=["traced", "untraceable"])
@pytest.mark.parametrize("size", [8, 16])
def test_a_norm_over_tokens_is_not_that_of_a_linear_layers_channels(size, conditional):
    torch.manual_seed(0)
    model, x = Tokens((size // 4) ** 2, conditional), torch.randn(32, 3, size, size)
    for _ in range(30):
        model(x)
    model.eval()
    copied, fitted = (
        convert(model, Architecture.of({"a": GHOST}), example=x[:1], calibration=images) for images in (None, [x])
    )
    before, after = model.norm.state_dict(), fitted.norm.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        errors = [float((made(x) - model(x)).square().mean()) for made in (copied, fitted)]
    assert errors[1] < 0.5 * errors[0]


class Clamped(Net):
    def rest(self, y):
        return self.d(F.relu(self.c(self.norm(y).clamp(-0.3, 0.3))))


class ClampedByHook(Net):
    def __init__(self):
        super().__init__()
        self.norm.register_forward_hook(lambda module, args, y: y.clamp(-0.3, 0.3))

    def rest(self, y):
        return self.d(F.relu(self.c(self.norm(y))))


def test_hooks_of_a_norm_belong_to_what_is_fitted_to():
    errors = []
    for kind in (Clamped, ClampedByHook):
        torch.manual_seed(0)
        model, x = kind().eval(), torch.randn(32, 3, 10, 10)
        made = convert(model, Architecture.of({"a": GHOST}), example=x[:1], calibration=[x])
        with torch.no_grad():
            errors.append(float((made(x) - model(x)).square().mean() / model(x).var()))
    assert errors[1] == pytest.approx(errors[0], rel=0.5)


class Chunked(Net):
    def rest(self, y):
        y = F.relu(y)
        return self.b(y), F.conv2d(y, self.b.weight.chunk(2)[1], padding=1)


def test_weights_read_elsewhere_in_parts_are_no_site():
    skipped = {s.path: s.reason for s in find_sites(Chunked().eval(), torch.randn(2, 3, 8, 8)).skipped}
    assert "read elsewhere" in skipped["b"]
