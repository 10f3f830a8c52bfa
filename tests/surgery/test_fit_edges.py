"""Closed-form fits and distillation where a network, its images or its state are unusual."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ghostsearch import Architecture, convert, find_sites, measure_cost, save
from ghostsearch.graph.capture import copied
from ghostsearch.measure.cost_table import CostTable
from ghostsearch.surgery import convert as surgery
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.norm_statistics import settle_norms

GHOST = "ghost(ratio=2, kernel=3)"


class Res(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def small(outputs=4, norm=nn.BatchNorm2d, activation=nn.ReLU):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), norm(16), activation(), Res(16), Res(16),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, outputs),
    ).eval()  # fmt: skip


def images(count=32, side=8):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def error(net, made, x):
    with torch.no_grad():
        wanted, found = net(x), made(x)
    return float((found - wanted).square().mean() / wanted.var().clamp_min(1e-12))


def test_a_separable_fit_keeps_its_maps_where_no_output_counts():
    """The divergence of a softmax over one class is 0, whatever the logit."""
    net, x = small(outputs=1), images()
    made = surgery.convert(net, Architecture.of({"4.conv1": "separable(multiplier=2)"}), example=x[:1], calibration=[x])
    weights = [p.abs().mean() for p in made[4].conv1.parameters() if p.dim() > 1]
    assert min(weights) > 1e-3
    assert max(weights) < 1e3


def test_statistics_that_trials_share_give_each_the_weights_that_its_own_would():
    net, x = small(), images()
    shared = BaselineStatistics(net, [x])
    skipped = Architecture.of({"3.conv2": "skip", "4.conv1": GHOST})
    alone = Architecture.of({"4.conv1": GHOST})

    def fitted(architecture, statistics):
        return surgery.convert(net, architecture, example=x[:1], statistics=statistics).state_dict()

    fitted(skipped, shared)
    fresh = fitted(alone, BaselineStatistics(net, [x]))
    assert all(torch.equal(value, fresh[name]) for name, value in fitted(alone, shared).items())


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, lambda n: nn.GroupNorm(4, n, affine=False)])
def test_widths_pass_norms_without_parameters(norm):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), norm(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    ).eval()  # fmt: skip
    made = convert(net, "width(0.5)", images())
    assert measure_cost(made, images(1)).params < measure_cost(net, images(1)).params


@pytest.mark.parametrize("batches", [[(64, 4)] * 11 + [(1, 4)], [(16, 8), (16, 40)]])
def test_batches_whose_maps_are_read_whole_stand_beside_sampled_ones(batches):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
    ).eval()
    calibration = [images(*shape) for shape in batches]
    made = surgery.convert(net, Architecture.of({"3": GHOST}), example=calibration[0][:1], calibration=calibration)
    assert error(net, made, calibration[0]) < 0.5


def test_distillation_of_flat_images_where_gradients_are_off():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 16, (1, 5)), nn.ReLU(), nn.Conv2d(16, 16, (1, 5)), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    x = torch.randn(16, 4, 1, 64)
    with torch.no_grad():
        made = convert(net, Architecture.of({"2": GHOST}), x, distill_steps=3)
    assert made(x).shape == net(x).shape


class ByName(nn.Module):
    """Calls its norm by keyword."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3)

    def forward(self, x):
        return self.last(F.relu(self.bn(input=self.conv(x)))).mean((2, 3))


def test_a_norm_that_is_called_by_keyword_is_fitted_and_settled():
    net, x = ByName().eval(), images()
    made = surgery.convert(net, Architecture.of({"conv": GHOST}), example=x[:1], calibration=[x])
    assert error(net, made, x) < 1
    settled = copied(net)
    settle_norms(settled, [x])
    assert torch.allclose(settled(x), net(x), atol=1e-4)


def test_another_default_precision_does_not_stop_a_fit():
    net, x = small(), images()
    wanted = surgery.convert(net, Architecture.of({"4.conv1": GHOST}), example=x[:1], calibration=[x])
    torch.set_default_dtype(torch.float64)
    try:
        made = surgery.convert(net, Architecture.of({"4.conv1": GHOST}), example=x[:1], calibration=[x])
    finally:
        torch.set_default_dtype(torch.float32)
    assert error(wanted, made, x) < 1e-3


def test_a_prelus_single_slope_is_counted_at_every_width():
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.PReLU(), nn.Conv2d(32, 8, 3)).eval()
    x, half = images(1), Architecture.of({}, {"0": "width(0.5)"})
    anatomy = find_sites(net, x)
    made = surgery.convert(net, half, example=x)
    assert CostTable(net, x, anatomy).predict(half).params == measure_cost(made, x).params


@pytest.mark.parametrize(
    "loaded", [TensorDataset, lambda x: DataLoader(TensorDataset(x), 16), lambda x: DataLoader(TensorDataset(x, x), 16)]
)
def test_recordings_of_a_data_set_are_no_list_of_images(loaded, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv1d(16, 1, 5, padding=2)).eval()
    x = torch.randn(32, 1, 5000)
    architecture = Architecture.of({"0": "lowrank(rank=0.5)"})
    made = surgery.convert(net, architecture, example=x[:1], calibration=loaded(x))
    assert made(x[:2]).shape == net(x[:2]).shape
    assert save(convert(net, architecture, x[:4]), tmp_path / "kept").is_dir()


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3), nn.Conv2d(1, 16, 3)

    def forward(self, x, depth):
        return (self.one(x) + self.two(depth)).mean((2, 3))


def test_several_inputs_may_be_in_double_precision():
    torch.manual_seed(0)
    net, x, depth = Pair().eval().double(), images().double(), torch.randn(32, 1, 8, 8).double()
    made = surgery.convert(net, Architecture.of({"one": GHOST}), example=(x[:1], depth[:1]), calibration=[(x, depth)])
    assert made(x, depth).dtype == torch.float64
