"""Whether images fit what a network was trained on, seen at its first BatchNorm."""

import warnings

import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError, GhostsearchWarning
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


class Pooled(nn.Module):
    """One norm of maps, one of pooled maps. x: (N, 3, H, W) -> (N, 8)"""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pooled = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.pooled(self.norm(self.conv(x)).mean((2, 3), keepdim=True))


def test_each_image_counts_the_same_and_a_pooled_map_alone_does_not():
    torch.manual_seed(0)
    model, x = Pooled().eval(), torch.randn(33, 3, 8, 8)
    x[32] += 10
    recalibrate_batchnorm(model, [x[:32], x[32:]])
    with torch.no_grad():
        maps = model.conv(x)
    torch.testing.assert_close(model.norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert not torch.equal(model.pooled.running_mean, torch.zeros(8))
    assert (model.norm.momentum, model.pooled.momentum, model.pooled.training) == (0.1, 0.1, False)


def test_a_norm_that_reads_one_value_at_a_time_keeps_its_statistics():
    model = Pooled().eval()
    with torch.no_grad():
        model.pooled.running_mean.fill_(3.0)
    recalibrate_batchnorm(model, torch.randn(4, 1, 3, 8, 8).unbind())
    assert torch.equal(model.pooled.running_mean, torch.full((8,), 3.0))
    assert not torch.equal(model.norm.running_mean, torch.zeros(8))


def test_an_empty_loader_is_refused_and_the_statistics_stay():
    model = Pooled().eval()
    before = model.norm.running_mean.fill_(3.0).clone()
    with pytest.raises(GhostsearchError, match="no images"):
        recalibrate_batchnorm(model, [])
    assert torch.equal(model.norm.running_mean, before)
