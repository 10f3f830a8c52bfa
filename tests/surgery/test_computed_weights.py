"""Layers whose weights are computed from others (weight_norm, pruning, parametrizations) keep them in a fit."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert

GHOST = "ghost(ratio=2, kernel=3)"


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.3)
    return layer


def old_style(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(layer)


KINDS = {"pruned": pruned, "old": old_style, "parametrized": parametrizations.weight_norm}


class Net(nn.Module):
    """x: (N, 3, H, W) -> (N, 8, H, W)"""

    def __init__(self, kind, groups=1, norm=False):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), kind(nn.Conv2d(16, 16, 3, padding=1, groups=groups))
        self.norm, self.c = nn.BatchNorm2d(16) if norm else nn.Identity(), nn.Conv2d(16, 8, 1)

    def forward(self, x):
        return self.c(F.relu(self.norm(self.b(F.relu(self.a(x))))))


def fitted(kind, **options):
    torch.manual_seed(0)
    model, x, reports = Net(kind, **options), torch.randn(32, 3, 10, 10), []
    for _ in range(30):
        model(x)
    model.eval()
    made = [
        convert(model, Architecture.of({"a": GHOST}), example=x[:1], calibration=images, on_fit=reports.append)
        for images in (None, [x])
    ]
    with torch.no_grad():
        wanted = model(x)
        errors = [float((m(x) - wanted).square().mean() / wanted.var()) for m in made]
    return model, made[1], errors, reports[0]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_they_stay_as_they_are_with_bias_and_norm(kind, norm):
    model, made, errors, report = fitted(kind, norm=norm)
    assert report.fitted == ("a", "c")
    assert "computed" in report.not_fitted["b"]
    before, after = model.state_dict(), made.state_dict()
    kept = [name for name in before if name.startswith(("b.", "norm."))]
    assert kept
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_order_of_channels_passes_them(kind):
    # As good as where the layer is an ordinary one that is not fitted either.
    _, made, errors, report = fitted(kind, groups=16)
    assert "b" in report.not_fitted
    assert made.a.order is not None
    assert errors[1] < 0.8 * errors[0]
