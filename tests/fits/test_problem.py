"""The pull towards the trained filters: as strong as the rows are few."""

import pytest
import torch
from torch import nn

from ghostsearch.fits.problem import LEAST_RIDGE, FitSettings, Problem, Target
from ghostsearch.fits.sampled_rows import Samples, Window

CHANNELS, SIZE = 8, 5


def problem(images, seed=0, settings=None, noise=0.0, layers=50):
    """A 1×1 layer at whole maps whose targets are those of its trained filters, and noise."""
    draw = torch.Generator().manual_seed(seed)
    layer = nn.Conv2d(CHANNELS, 4, 1, bias=False)
    prior = torch.randn(layer.weight.shape, generator=draw)
    x = torch.randn(images, CHANNELS, SIZE, SIZE, generator=draw)
    target = nn.functional.conv2d(x, prior)
    target = target + noise * torch.randn(target.shape, generator=draw)
    samples = Samples(Window.of(layer), ((0, 0), (0, 0)), [x], [None], [(SIZE, SIZE)], True)
    return Problem(
        layer, prior, samples, Target([target], None, False, torch.ones(4)), settings or FitSettings(), intercept=True,
        layers=layers,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("images", "layers", "ridge"),
    [
        (1, 50, 0.04 * 50 * CHANNELS / (1 * SIZE * SIZE)),
        (4, 50, 0.04 * 50 * CHANNELS / (4 * SIZE * SIZE)),
        (4, 5, 0.04 * 5 * CHANNELS / (4 * SIZE * SIZE)),
        (1000, 50, LEAST_RIDGE),
    ],
)
def test_it_grows_with_the_unknowns_for_each_row_and_with_the_depth(images, layers, ridge):
    assert problem(images, layers=layers).ridge == pytest.approx(ridge)


@pytest.mark.parametrize("seed", range(5))
def test_few_noisy_rows_are_not_learnt_by_heart(seed):
    """A new set of rows is predicted better than by filters that follow the old one as far as they can."""
    fitted = problem(1, seed, noise=1.0)
    followed = problem(1, seed, FitSettings(ridge=0.0), noise=1.0)
    errors = [float((p.free.weight - p.prior).square().sum()) for p in (fitted, followed)]
    assert errors[0] < 0.8 * errors[1]
