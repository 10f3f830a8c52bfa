"""Closed-form inheritance: exact where a ghost can be exact, and honest about what it touches."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.fits.least_squares import cholesky, damped
from ghostsearch.fits.problem import FitSettings
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice_text import parse_layer_choice
from ghostsearch.surgery import fit_model
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.norm_statistics import recalibrate_batchnorm
from ghostsearch.surgery.sites import find_sites

GHOST = "ghost(ratio=2, kernel=3)"


class Residual(nn.Module):
    """A stem, a residual block with a projection, a depthwise pair and a classifier. x: (N, 3, H, W) -> (N, 5)"""

    def __init__(self, conditional: bool = False) -> None:
        super().__init__()
        self.conditional = conditional
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.down, self.norm_down = nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise, self.linear = nn.Conv2d(16, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        if self.conditional and x.mean() < -1:
            x = -x
        y = self.conv2(self.norm1(self.conv1(x)).relu())
        y += self.norm_down(self.down(x))
        y = self.pointwise(self.depthwise(y.relu()).relu()).relu()
        return self.linear(y.mean((2, 3)))


@pytest.fixture
def images() -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(8, 3, 12, 12) for _ in range(4)]


def baseline_net(conditional: bool = False) -> Residual:
    torch.manual_seed(1)
    net = Residual(conditional)
    for _ in range(20):
        net(torch.randn(16, 3, 12, 12))
    return net.eval()


def everywhere(model: nn.Module, example: Tensor, choice: str = GHOST) -> Architecture:
    sites = find_sites(model, example, widths=False).sites
    kind = parse_layer_choice(choice)
    return Architecture.of({s.path: choice for s in sites if kind.suits(s.filters())}, {})


def error(model: nn.Module, baseline: nn.Module, images: list[Tensor]) -> float:
    x = torch.cat(images)
    with torch.no_grad():
        wanted, got = baseline(x), model(x)
    return float((got - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


class Twins(nn.Module):
    """A convolution whose maps are images of a few of them by small depthwise filters, exactly, in any order.

    kernel 1: multiples. kernel 3: the few are read from the centre tap, so that padding is no exception.
    """

    def __init__(self, ratio: int, kernel: int, groups: int) -> None:
        super().__init__()
        n, runs = 3 * ratio, []
        for _ in range(groups):
            few = torch.randn(3, 4, 3, 3)
            if kernel == 3:
                few = few * nn.functional.pad(torch.ones(1, 1), [1, 1, 1, 1])
            taps = torch.randn(3, ratio - 1, kernel, kernel)
            base = few if kernel == 1 else few[:, :, 1:2, 1:2]
            ghosts = (base[:, None] * taps[:, :, None]).flatten(0, 1)
            runs.append(torch.cat([few, ghosts])[torch.randperm(n)])
        self.conv = nn.Conv2d(4 * groups, n * groups, 3, padding=1, bias=False, groups=groups)
        self.conv.weight = nn.Parameter(torch.cat(runs))
        self.norm, self.last = nn.BatchNorm2d(n * groups), nn.Conv2d(n * groups, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).relu())


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([2, 3, 4]), st.sampled_from([1, 3]), st.sampled_from([1, 2]), st.integers(0, 10**6))
def test_exact_ghosts_convert_with_no_error(ratio: int, kernel: int, groups: int, seed: int) -> None:
    torch.manual_seed(seed)
    baseline = Twins(ratio, kernel, groups)
    x = [torch.randn(8, 4 * groups, 10, 10) for _ in range(3)]
    for _ in range(10):
        baseline(torch.cat(x))
    baseline.eval()
    architecture = Architecture.of({"conv": f"ghost(ratio={ratio}, kernel={kernel})"}, {})
    fitted = convert(baseline, architecture, example=x[0], calibration=x)
    assert error(fitted, baseline, x) < 1e-9
    assert fitted.conv.order is None, "the order folds into the layers behind, so no gather is needed"


@pytest.mark.parametrize("choice", [GHOST, "ghost(ratio=3, kernel=3)", "ghost(ratio=2, kernel=3, cheap=affine)",
                                    "ghost(ratio=2, kernel=3, cheap=wavelet)", "lowrank(rank=0.5)",
                                    "separable(multiplier=1)", "separable(multiplier=2)",
                                    "crop(kernel=1)"])  # fmt: skip
@pytest.mark.parametrize("conditional", [False, True], ids=["traced", "untraceable"])
def test_the_fit_beats_copies_and_leaves_the_baseline_net_alone(
    choice: str, conditional: bool, images: list[Tensor]
) -> None:
    baseline = baseline_net(conditional)
    before = copy.deepcopy(baseline.state_dict())
    architecture = everywhere(baseline, images[0], choice)
    fitted = convert(baseline, architecture, example=images[0], calibration=images)
    copied = convert(baseline, architecture, example=images[0])
    recalibrate_batchnorm(copied, images)
    assert error(fitted, baseline, images) < 0.7 * error(copied, baseline, images)
    assert all(torch.equal(value, before[name]) for name, value in baseline.state_dict().items())
    assert not baseline.training


def test_batch_size_and_repetition_do_not_matter(images: list[Tensor]) -> None:
    baseline = baseline_net()
    architecture = everywhere(baseline, images[0])
    made = [
        convert(baseline, architecture, example=images[0], calibration=batches)
        for batches in (images, images, list(torch.cat(images).split(5)), [(b, torch.zeros(8)) for b in images])
    ]
    x = images[0]
    with torch.no_grad():
        outputs = [m(x) for m in made]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[3])
    torch.testing.assert_close(outputs[0], outputs[2], rtol=1e-2, atol=1e-3)


def test_choices_of_a_layer_share_its_first_fit_however_their_rows_are_cut(
    images: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that a kernel's halo changes the number of parts; large maps do it by themselves.
    monkeypatch.setattr(fit_model, "PART_VALUES", 3000)
    baseline = baseline_net()
    settings = FitSettings(rows=(64, 256), rows_per_unknown=1)
    shared = BaselineStatistics(baseline, images, settings)
    for choice in (GHOST, "ghost(ratio=2, kernel=1)", "ghost(ratio=4, kernel=5)"):
        architecture = Architecture.of({"pointwise": choice})
        known, fresh = (
            convert(baseline, architecture, example=images[0], statistics=statistics)
            for statistics in (shared, BaselineStatistics(baseline, images, settings))
        )
        torch.testing.assert_close(known(images[0]), fresh(images[0]), rtol=1e-4, atol=1e-4)


def test_conversions_leave_the_statistics_that_they_share_as_they_were(images: list[Tensor]) -> None:
    baseline = baseline_net()
    shared = BaselineStatistics(baseline, images)
    before = {name: value.clone() for name, value in shared.teacher.state_dict().items()}
    width = {"conv1": "width(0.5)"}
    # The order of a ghost's channels is folded into the layers that read them.
    for sites, groups in (({"conv1": GHOST}, {}), ({}, width), ({"conv1": GHOST}, width)):
        convert(baseline, Architecture.of(sites, groups), example=images[0], statistics=shared)
        assert all(torch.equal(value, before[name]) for name, value in shared.teacher.state_dict().items())


def test_statistics_of_one_conversion_give_up_what_layers_were_fitted_to(images: list[Tensor]) -> None:
    baseline = baseline_net()
    architecture = everywhere(baseline, images[0])
    once, kept = (BaselineStatistics(baseline, images, once=once) for once in (True, False))
    made = [convert(baseline, architecture, example=images[0], statistics=statistics) for statistics in (once, kept)]
    assert torch.equal(made[0](images[0]), made[1](images[0]))
    assert not any(once.targets(path) for path in architecture.sites)
    assert all(kept.targets(path) for path in architecture.sites)


def test_conversions_are_compared_on_the_example_that_they_are_made_for(images: list[Tensor]) -> None:
    baseline = baseline_net()
    shared, wide = BaselineStatistics(baseline, images), torch.randn(1, 3, 20, 20)
    first = shared.runs(baseline, images[0])
    assert shared.runs(baseline, images[0]) is first
    assert shared.runs(baseline, wide).example is wide


def test_layers_with_many_outputs_are_fitted_to_fewer_positions() -> None:
    settings = FitSettings()
    rows = [settings.rows_for(nn.Conv2d(512, outputs, 1)) for outputs in (64, 1024, 2048, 2**16)]
    assert rows == [57 * 512, 2**24 // 1024, 2**24 // 2048, 8192]


def test_widths_are_fitted(images: list[Tensor]) -> None:
    baseline = baseline_net()
    architecture = Architecture.of({}, {"conv1": "width(0.5)"})
    fitted = convert(baseline, architecture, example=images[0], calibration=images)
    copied = convert(baseline, architecture, example=images[0])
    assert [p.shape for p in fitted.parameters()] == [p.shape for p in copied.parameters()]
    assert error(fitted, baseline, images) < error(copied, baseline, images)


class Overwriting(nn.Module):
    """A shortcut that an in-place ReLU changes before the sum reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.conv(self.relu(x)) + x


def test_activations_that_overwrite_what_others_read_are_refused(images: list[Tensor]) -> None:
    baseline = Overwriting().eval()
    architecture = Architecture.of({"conv": GHOST})
    with pytest.raises(GhostsearchError, match="inplace=False"):
        convert(baseline, architecture, example=images[0], calibration=images)
    baseline.relu.inplace = False
    convert(baseline, architecture, example=images[0], calibration=images)
    baseline.relu.inplace = True
    assert convert(baseline, architecture, example=images[0]).relu.inplace, "without images nothing is computed apart"


def test_no_images_are_refused(images: list[Tensor]) -> None:
    baseline = baseline_net()
    with pytest.raises(GhostsearchError, match="no calibration images"):
        convert(baseline, everywhere(baseline, images[0]), example=images[0], calibration=[])


def test_equations_that_rounding_left_indefinite_are_damped_until_they_factor():
    features = 40
    rows = torch.randn(3, features, generator=torch.Generator().manual_seed(0)).double()
    xx = (rows.T @ rows)[None]
    level = float(xx.diagonal(dim1=-2, dim2=-1).mean())
    broken = xx - 2e-5 * level * torch.eye(features)
    factor = cholesky(broken, 1e-5)
    assert torch.allclose(factor @ factor.mT, broken, atol=1e-2 * level)
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(damped(broken, 1e-5))


def test_a_width_that_rounding_takes_back_is_no_change(images: list[Tensor]) -> None:
    baseline = baseline_net()
    anatomy = find_sites(baseline, images[0])
    widths = {g.name: "width(0.9)" for g in anatomy.groups if not g.fixed}
    made = convert(baseline, Architecture.of({}, widths), example=images[0], calibration=images, width_multiple=8)
    assert [m.out_channels for m in made.modules() if isinstance(m, nn.Conv2d)] == [
        m.out_channels for m in baseline.modules() if isinstance(m, nn.Conv2d)
    ]
    with torch.no_grad():
        assert torch.allclose(made(images[0]), baseline(images[0]), atol=1e-3)


def test_the_factors_of_a_fitted_low_rank_layer_can_learn_at_one_rate():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(24, 5),
    ).eval()  # fmt: skip
    images = torch.randn(64, 3, 9, 9)
    fitted = convert(net, Architecture.of({"2": "lowrank(rank=0.5)"}), example=images[:1], calibration=[images])[2]
    rows, columns = fitted.reduce.weight.flatten(1).norm(dim=1), fitted.expand.weight.flatten(1).norm(dim=0)
    # The metric that they were found by has gradients behind a mean over the map, which are small.
    torch.testing.assert_close(rows, columns, rtol=0.01, atol=0)
