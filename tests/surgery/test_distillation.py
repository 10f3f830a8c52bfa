"""Distillation without labels: it helps, it never ends worse than it began, and it leaves honest statistics."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery import distillation
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.distill_images import Split
from ghostsearch.surgery.distillation import DistillSettings, distill_blocks
from ghostsearch.surgery.norm_statistics import settle_norms
from ghostsearch.surgery.stopped_fit import StoppedFit

AS_THEY_ARE = DistillSettings(flips=False, shift=0, batch=32, lengths=(0.02,))


class Net(nn.Module):
    """Two blocks of convolution and norm, one of them residual. x: (N, 3, H, W) -> (N, 5)"""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        return self.linear((x + self.norm2(self.conv2(x))).relu().mean((2, 3)))


@pytest.fixture
def images() -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(16, 3, 8, 8) for _ in range(3)]


@pytest.fixture
def pair(images: list[Tensor]) -> tuple[nn.Module, nn.Module]:
    """A net with statistics of its images, and a copy that was disturbed."""
    torch.manual_seed(1)
    baseline = Net()
    for x in images:
        baseline.train()(x)
    disturbed = copy.deepcopy(baseline)
    with torch.no_grad():
        disturbed.conv2.weight += 0.1 * torch.randn(disturbed.conv2.weight.shape)
    return baseline.eval(), disturbed.eval()


def error(model: nn.Module, baseline: nn.Module, images: list[Tensor]) -> float:
    with torch.no_grad():
        return sum(float((model(x) - baseline(x)).square().mean()) for x in images)


def test_it_lowers_the_error_and_leaves_modes_and_the_baseline_alone(pair, images):
    baseline, converted = pair
    before, weights = error(converted, baseline, images), copy.deepcopy(baseline.state_dict())
    converted.norm1.train()
    done = distill_blocks(baseline, converted, images, 60, settings=AS_THEY_ARE)
    assert converted.norm1.training
    converted.eval()
    assert done.after < done.before
    assert 0 < done.step_kept <= 60
    assert error(converted, baseline, images) < 0.5 * before
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), baseline.state_dict().values(), strict=True))


@pytest.mark.parametrize("lr", [1e-3, 0.03, 100.0])
def test_the_held_out_error_is_never_higher_than_at_the_start(pair, images, lr):
    baseline, converted = pair
    start = copy.deepcopy(converted)
    done = distill_blocks(baseline, converted, images, 20, settings=replace(AS_THEY_ARE, lengths=(lr,)))
    assert done.after <= done.before
    # The same images are held out: judged again, the model has the error that was told.
    held = [torch.cat(images)[-6:]]
    assert (error(converted, baseline, held) < error(start, baseline, held)) == (done.after < done.before)
    if lr == 100.0:
        assert done.after == done.before
        assert "stay as they were" in str(done)
        assert torch.equal(converted.conv2.weight, start.conv2.weight)
        assert torch.equal(converted(images[0]), start(images[0]))


@pytest.mark.parametrize("count", [8, 9])
def test_one_number_alone_is_judged_too(count):
    """A network of one output, of which one image is held out."""
    torch.manual_seed(0)
    baseline = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1)).eval()
    converted = copy.deepcopy(baseline)
    with torch.no_grad():
        converted[0].weight += 0.1 * torch.randn(converted[0].weight.shape)
    done = distill_blocks(baseline, converted, [torch.randn(count, 1, 8, 8)], 20, settings=AS_THEY_ARE)
    assert done.after < done.before


def test_norms_get_the_statistics_of_what_they_read_and_no_output_changes(pair, images):
    _, model = pair
    with torch.no_grad():
        before = [model(x) for x in images]
        settle_norms(model, images)
        after = [model(x) for x in images]
        inputs = torch.cat([model.conv1(x) for x in images]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.cat(after), torch.cat(before), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.norm1.running_mean, inputs.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.norm1.running_var, inputs.var(1), rtol=1e-4, atol=1e-5)


def test_images_given_to_judge_are_those_that_judge(pair, images):
    baseline, converted = pair
    start = copy.deepcopy(converted)
    done = distill_blocks(baseline, converted, Split(images[:2], images[2:]), 20, settings=AS_THEY_ARE)
    told, real = (error(x, baseline, images[2:]) for x in (start, converted))
    assert done.after < done.before
    assert real < told
    with torch.no_grad():
        inputs = torch.cat([converted.conv1(x) for x in images[:2]])
    torch.testing.assert_close(converted.norm1.running_mean, inputs.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_the_expected_time_is_told_after_the_first_step_and_frozen_parameters_stay(pair, images):
    baseline, converted = pair
    converted.conv1.requires_grad_(False)
    frozen, told = converted.conv1.weight.clone(), []
    distill_blocks(baseline, converted, images, 4, settings=AS_THEY_ARE, progress=lambda *x: told.append(x))
    assert [x[:2] for x in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert re.fullmatch(r"distilling, about \d+ (s|min) on this machine", told[0][2])
    assert torch.equal(frozen, converted.conv1.weight)


def test_the_expected_time_counts_judgings_and_the_step_lengths_left(pair, images, monkeypatch):
    clock, told, take = [0.0], [], distillation._Run.step
    monkeypatch.setattr(distillation.time, "perf_counter", lambda: clock[0])

    def slow(took, act):
        def acted(*given):
            clock[0] += took
            return act(*given)

        return acted

    monkeypatch.setattr(distillation._Run, "step", slow(3.0, take))
    monkeypatch.setattr(distillation._Best, "_measure", slow(1.0, distillation._Best._measure))
    for name in ("settle_norms", "recalibrate_batchnorm"):
        monkeypatch.setattr(distillation, name, slow(4.0, getattr(distillation, name)))
    settings = replace(AS_THEY_ARE, lengths=(100.0, 0.02), checks=2)
    done = distill_blocks(*pair, images, 3, settings=settings, progress=lambda *x: told.append(x[2]))
    said = [text for text in told if text != "distilling"]
    assert said == [
        "distilling, up to 38 s for 2 step lengths on this machine", "distilling, about 19 s on this machine",
    ]  # fmt: skip
    assert done.seconds == 5 + 38


def test_of_several_step_lengths_the_one_that_helps_goes_on(pair, images):
    baseline, converted = pair
    other = copy.deepcopy(converted)
    ruinous = distill_blocks(baseline, other, images, 40, settings=replace(AS_THEY_ARE, lengths=(100.0,)))
    chosen = distill_blocks(baseline, converted, images, 40, settings=replace(AS_THEY_ARE, lengths=(100.0, 0.02)))
    assert ruinous.after == ruinous.before == chosen.before
    assert chosen.after < 0.8 * chosen.before


def test_nothing_to_distil_is_refused(pair, images):
    baseline, converted = pair
    with pytest.raises(GhostsearchError, match="no images"):
        distill_blocks(baseline, converted, [], 1)
    with pytest.raises(GhostsearchError, match="frozen"):
        distill_blocks(baseline, converted.requires_grad_(False), images, 1)


def test_the_same_seed_gives_the_same_weights(pair, images):
    baseline, converted = pair
    other = copy.deepcopy(converted)
    for model in (converted, other):
        distill_blocks(baseline, model, images, 5, settings=DistillSettings(seed=2))
    assert all(torch.equal(a, b) for a, b in zip(converted.parameters(), other.parameters(), strict=True))


def test_it_goes_on_after_the_last_step(pair, images, tmp_path, monkeypatch):
    baseline, converted = pair
    settings = DistillSettings(seed=2, batch=16, lengths=(100.0, 0.02), checks=3)
    kept = StoppedFit(tmp_path / "fit", bool)
    steps, take = [], distillation._Run.step
    monkeypatch.setattr(distillation._Run, "step", lambda run, length: (steps.append(length), take(run, length)))

    def distilled(number, stopped=kept):
        model = copy.deepcopy(converted)
        done = distill_blocks(baseline, model, images, number, settings=settings, stopped=stopped)
        return replace(done, seconds=0.0), model.state_dict()

    (told, whole), lengths = distilled(5), list(steps)
    assert (len(lengths), told.step_kept > 0) == (10, True)
    for done in range(1, 11):
        steps.clear()
        with pytest.raises(KeyboardInterrupt):
            distilled(5, StoppedFit(kept.path, lambda done=done: len(steps) == done))
        again, found = distilled(5)
        assert steps == lengths, "a step was made twice, or not at all"
        assert again == told
        assert all(torch.equal(found[name], whole[name]) for name in whole)
        kept.forget()


def test_what_another_distillation_left_is_not_taken(pair, images, tmp_path):
    baseline, converted = pair
    other = copy.deepcopy(converted)
    with pytest.raises(KeyboardInterrupt):
        distill_blocks(
            baseline, copy.deepcopy(converted), images, 40, settings=AS_THEY_ARE,
            stopped=StoppedFit(tmp_path / "fit", lambda: True),
        )  # fmt: skip
    for model, stopped in ((converted, StoppedFit(tmp_path / "fit", bool)), (other, None)):
        assert distill_blocks(baseline, model, images, 20, settings=AS_THEY_ARE, stopped=stopped).step_kept
    assert all(torch.equal(a, b) for a, b in zip(converted.parameters(), other.parameters(), strict=True))


def test_ends_are_compared_in_the_order_that_a_fit_gave_their_channels(monkeypatch):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)]
    model, x = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(16, 4, 1)), torch.randn(64, 3, 8, 8)
    for _ in range(30):
        model(x)
    model.eval()
    errors, relative = [], distillation._relative
    monkeypatch.setattr(
        distillation, "_relative", lambda f, p: (errors.append(float(relative(f, p).detach())), relative(f, p))[1]
    )
    convert(model, Architecture.of({"0": "ghost(ratio=2, kernel=3)"}), example=x[:1], calibration=[x], distill_steps=1)
    assert errors
    # Other channels than the baseline's differ by twice its variance.
    assert max(errors) < 0.8
