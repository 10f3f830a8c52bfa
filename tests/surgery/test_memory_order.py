"""Networks that ask for a `view` of their maps run in one memory order only; all that runs a network finds it out."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostsearch.data.load import Data
from ghostsearch.graph.capture import in_order, memory_order
from ghostsearch.measure.devices.torch_cpu import TorchCpu
from ghostsearch.measure.setting import Setting
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.verify import ConversionWarning
from ghostsearch.training.evaluate import evaluate
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe


class Viewing(nn.Module):
    """x: (N, C, 8, 8) -> (N, 4)"""

    def __init__(self, channels=3, conditional=False):
        super().__init__()
        self.conditional = conditional
        self.a, self.b = nn.Conv2d(channels, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.linear = nn.BatchNorm2d(16), nn.Linear(64, 4)

    def forward(self, x):
        if self.conditional and x.abs().max() > 1e9:
            x = -x
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = F.max_pool2d(F.relu(self.norm(self.b(x))), 2)
        return self.linear(x.view(x.size(0), -1))


class Flat(Viewing):
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = F.max_pool2d(F.relu(self.norm(self.b(x))), 2)
        return self.linear(torch.flatten(x, 1))


def made(kind=Viewing, **options):
    torch.manual_seed(0)
    return kind(**options).eval()


def batches(channels=3):
    torch.manual_seed(1)
    return [(torch.randn(16, channels, 8, 8), torch.randint(4, (16,))) for _ in range(3)]


@pytest.mark.parametrize("channels", [1, 3])
def test_only_networks_that_cannot_are_not_run_in_channels_last(channels):
    x = batches(channels)[0][0]
    assert memory_order(x, made(channels=channels)) == torch.contiguous_format
    assert memory_order(x, made(Flat, channels=channels)) == torch.channels_last
    assert in_order(x, torch.channels_last).is_contiguous(memory_format=torch.channels_last)


def test_the_order_is_found_without_touching_the_network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    before, drawn = model[1].running_mean.clone(), torch.random.get_rng_state()
    memory_order(torch.randn(4, 3, 8, 8, generator=torch.Generator()), model)
    assert model.training
    assert torch.equal(model[1].running_mean, before)
    assert torch.equal(torch.random.get_rng_state(), drawn)


@pytest.mark.parametrize("conditional", [False, True], ids=["traced", "untraceable"])
@pytest.mark.parametrize("steps", [0, 2])
def test_it_is_fitted_and_distilled_as_one_that_flattens(conditional, steps):
    images = [x for x, _ in batches()]
    errors = []
    for model in (made(conditional=conditional), made(Flat, conditional=conditional)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConversionWarning)
            fitted = convert(
                model, Architecture.of({"b": "ghost(ratio=2, kernel=3)"}), example=images[0][:1], calibration=images,
                distill_steps=steps,
            )  # fmt: skip
        with torch.no_grad():
            errors.append(float((fitted(images[0]) - model(images[0])).square().mean()))
    assert errors[0] == pytest.approx(errors[1], rel=0.2)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_trained_scored_and_timed(channels):
    model, loader = made(channels=channels), batches(channels)
    # As some loaders give them.
    loader[1] = (torch.empty_like(loader[1][0], memory_format=torch.channels_last).copy_(loader[1][0]), loader[1][1])
    before = model.linear.weight.clone()
    data = Data("these", loader, loader, loader, classes=("a", "b", "c", "d"))
    train(model, data, Recipe(epochs=2, distillation=0.5, ema=0.9), teacher=made(channels=channels))
    assert not torch.equal(model.linear.weight, before)
    assert 0 <= evaluate(model, loader) <= 1
    prepared = TorchCpu().prepare(model, loader[0][0], Setting())
    torch.testing.assert_close(torch.as_tensor(prepared.outputs()[0]), model(loader[0][0]).detach())
