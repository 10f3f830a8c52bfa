"""Whether images fit what a network was trained on, seen at its first BatchNorm."""

import warnings

import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchWarning
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.norm_statistics import input_spread, recalibrate_batchnorm


def images():
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def trained():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.Flatten()
        )
    recalibrate_batchnorm(model, [images()])
    return model.eval()


@pytest.mark.parametrize(("scale", "shift"), [(0.1, 0.0), (1.0, 2.0), (7.0, -3.0)])
def test_spread_is_the_square_of_a_scale_whatever_the_shift(scale, shift):
    spread = input_spread(trained(), scale * images() + shift)
    assert spread == pytest.approx(scale**2, rel=1e-2)


@pytest.mark.parametrize("model", [nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))])
def test_without_a_trained_norm_there_is_nothing_to_tell(model):
    assert input_spread(model, images()) is None


def test_a_few_values_tell_nothing():
    assert input_spread(trained(), images()[:2]) is None


@pytest.mark.parametrize("scale", [0.4, 2.2])
def test_images_normalised_otherwise_than_in_training_are_told_of(scale):
    with pytest.warns(GhostsearchWarning, match="normalised by another mean"):
        BaselineStatistics(trained(), [scale * images()])


def test_images_as_in_training_are_not(recwarn):
    warnings.simplefilter("always")
    BaselineStatistics(trained(), [images()])
    assert not recwarn.list
