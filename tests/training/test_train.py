"""Training and scoring on real digits, and on a task that is no classification."""

from __future__ import annotations

import copy
import random
import signal
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ghostsearch.data.load import Data, load_data, own_data
from ghostsearch.errors import GhostsearchError, TrainingError
from ghostsearch.models.input import InputSpec
from ghostsearch.training.evaluate import evaluate, to_device
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.tasks.classification import Classification


def network(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Dropout(0.05), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits", input=InputSpec(8, 1, (0.305,), (0.376,)), batch=32)


@pytest.fixture(scope="module")
def trained(data):
    model = network()
    return model, train(model, data, Recipe(epochs=4, lr=0.1))


def weights(model):
    return torch.cat([p.detach().flatten() for p in [*model.parameters(), *model.buffers()]])


def test_a_small_network_learns_the_digits(data, trained):
    model, result = trained
    assert evaluate(model, data.test) > 0.9
    assert evaluate(network(), data.test) < 0.3
    assert result.history[-1].loss < result.history[0].loss / 2


def test_the_result_says_what_was_done(data, trained):
    _, result = trained
    assert (result.epochs, result.steps) == (4, 4 * len(data.train))
    assert [e.epoch for e in result.history] == [1, 2, 3, 4]
    assert [e.steps for e in result.history] == [n * len(data.train) for n in (1, 2, 3, 4)]
    assert (result.device, result.precision) == ("cpu", "32-true")
    assert result.history[-1].lr == pytest.approx(0, abs=1e-9)


def test_the_seed_makes_the_weights_whatever_ran_before(data, trained):
    again, other = network(), network()
    next(iter(data.train))
    torch.rand(7)
    train(again, data, Recipe(epochs=4, lr=0.1))
    assert torch.equal(weights(again), weights(trained[0]))
    train(other, data, Recipe(epochs=4, lr=0.1, seed=1))
    assert not torch.equal(weights(other), weights(trained[0]))


class Loader(DataLoader):
    """A subclass, whose iteration may be of its own."""


def order(**options):
    return RandomSampler(range(64), generator=torch.Generator(), **options)


SAMPLED = {
    "a sampler": lambda images: DataLoader(images, 32, sampler=order()),
    "weights": lambda images: DataLoader(
        images, 32, sampler=WeightedRandomSampler(torch.ones(64), 64, generator=torch.Generator())
    ),
    "a batch sampler": lambda images: DataLoader(images, batch_sampler=BatchSampler(order(), 32, drop_last=False)),
    "a subclass": lambda images: Loader(images, 32, shuffle=True, generator=torch.Generator()),
}


@pytest.mark.parametrize("form", SAMPLED)
def test_the_seed_makes_the_order_of_samplers_with_generators_of_their_own(data, form):
    x, y = next(iter(data.test))
    loader = SAMPLED[form](TensorDataset(x[:64], y[:64]))
    ready, found = own_data((loader, data.validation, data.test), "mine", InputSpec(8, 1, (0.0,), (1.0,))), []
    for seed in (0, 0, 1):
        found.append(network())
        train(found[-1], ready, Recipe(epochs=2, lr=0.1, seed=seed))
    assert torch.equal(weights(found[0]), weights(found[1]))
    assert not torch.equal(weights(found[0]), weights(found[2]))


def test_training_leaves_the_random_generators_and_the_model_as_they_were(data):
    model = network()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    wanted = random.random(), np.random.rand(), float(torch.rand(()))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    model[0].train()
    train(model, data, Recipe(steps=2))
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == wanted
    assert (model.training, model[0].training) == (False, True)
    assert all(p.is_contiguous() and p.device.type == "cpu" for p in model.parameters())


def test_steps_and_parts_of_epochs(data):
    assert train(network(), data, Recipe(epochs=0.5)).steps == round(len(data.train) / 2)
    result = train(network(), data, Recipe(epochs=3, steps=5))
    assert result.steps == 5
    assert result.epochs == pytest.approx(5 / len(data.train))


def test_distillation_brings_the_student_nearer_to_the_teacher(data, trained):
    teacher = trained[0]
    distance = []
    for share in (0.0, 1.0):
        student = network(4)
        train(student, data, Recipe(epochs=2, lr=0.1, distillation=share), teacher=teacher)
        with torch.no_grad():
            x = torch.cat([x for x, _ in data.test])
            distance.append(float(Classification().distillation_loss(student(x), teacher(x))))
    assert distance[1] < distance[0]


def test_the_teacher_is_not_touched(data, trained):
    teacher = copy.deepcopy(trained[0])
    teacher.train()
    train(network(), data, Recipe(steps=3), teacher=teacher)
    assert torch.equal(weights(teacher), weights(trained[0]))
    assert teacher.training
    assert all(p.grad is None for p in teacher.parameters())


def test_a_loss_that_is_not_finite_is_a_training_error(data):
    model = network()
    with torch.no_grad():
        model[-1].bias[0] = float("nan")
    with pytest.raises(TrainingError, match="not finite by step 1 of 33"):
        train(model, data, Recipe(epochs=1))
    assert not model.training


def test_a_norm_that_sees_one_value_of_each_channel_is_a_training_error():
    one = load_data("digits", input=InputSpec(8, 1, (0.305,), (0.376,)), batch=1, train_images=20)
    norm_of_means = [nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10)]
    with pytest.raises(TrainingError, match=r"one value of each channel, .*; raise --batch-size"):
        train(nn.Sequential(nn.Conv2d(1, 8, 3), *norm_of_means), one, Recipe(epochs=1, batch_size=1))


def test_a_huge_learning_rate_is_a_training_error_too(data):
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(network(), data, Recipe(epochs=1, lr=1e30, clip_norm=0))


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "not a number"), (float("inf"), "infinite")])
def test_a_score_that_is_no_number_is_a_training_error(data, value, said):
    class Nothing(Classification):
        def meter(self):
            return self

        def update(self, output, target): ...

        def compute(self):
            return torch.tensor(value)

    with pytest.raises(TrainingError, match=f"accuracy is {said}"):
        evaluate(network(), data.test, Nothing())


def test_progress_ends_at_the_last_step(data):
    told = []
    train(network(), data, Recipe(steps=6), progress=lambda *news: told.append(news))
    done, total, text = told[-1]
    assert (done, total) == (6, 6)
    assert text.startswith("loss ")
    evaluated = []
    evaluate(network(), data.test, progress=lambda *news: evaluated.append(news))
    assert evaluated[-1][:2] == (len(data.test), len(data.test))


def test_ctrl_c_arrives_as_keyboard_interrupt(data):
    before = signal.getsignal(signal.SIGINT)

    def stop(done, total, text):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(network(), data, Recipe(epochs=1), progress=stop)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_in_the_model_comes_through_as_it_is(data):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(Broken(), data, Recipe(steps=1))
    with pytest.raises(ZeroDivisionError, match="mine"):
        evaluate(Broken(), data.test)


def test_evaluating_changes_nothing(data):
    model = network().train()
    model[1].eval()
    before = copy.deepcopy(model)
    evaluate(model, data.test)
    assert torch.equal(weights(model), weights(before))
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


def test_frozen_parameters_stay_and_all_frozen_is_refused(data):
    model = network()
    model[0].weight.requires_grad_(False)
    kept = model[0].weight.clone()
    train(model, data, Recipe(steps=3))
    assert torch.equal(model[0].weight, kept)
    with pytest.raises(GhostsearchError, match="nothing to train"):
        train(network().requires_grad_(False), data, Recipe(steps=1))


BAD = [
    ({"epochs": 0}, "^epochs: .* greater than 0, got 0"),
    ({"epochs": float("nan")}, "^epochs: .*finite"),
    ({"steps": 0}, "^steps: "),
    ({"lr": float("inf")}, "^lr: .*finite"),
    ({"weight_decay": -1.0}, "^weight_decay: "),
    ({"distillation": 1.5}, "^distillation: "),
    ({"compute_device": "toaster"}, "cannot compute on 'toaster'"),
    ({"compute_device": "meta"}, "cannot compute on 'meta'"),
    ({"compute_device": "cuda:99"}, "cannot compute on 'cuda:99'"),
]


@pytest.mark.parametrize(("options", "said"), BAD)
def test_bad_arguments_get_one_line(data, options, said):
    with pytest.raises(GhostsearchError, match=said) as caught:
        train(network(), data, Recipe(**{"epochs": 1, **options}))
    assert "\n" not in str(caught.value)


def test_a_loader_without_length_trains_by_steps():
    class Stream(IterableDataset):
        def __iter__(self):
            while True:
                yield torch.zeros(1, 8, 8), 3

    stream = DataLoader(Stream(), batch_size=4)
    endless = Data("stream", stream, stream, stream)
    with pytest.raises(GhostsearchError, match="say how many steps"):
        train(network(), endless, Recipe())
    assert train(network(), endless, Recipe(steps=3)).steps == 3


@given(
    steps=st.integers(1, 200), warmup=st.floats(0, 0.9), lr=st.floats(1e-4, 1),
)  # fmt: skip
def test_the_learning_rate_climbs_once_and_falls_to_nearly_nothing(steps, warmup, lr):
    recipe = Recipe(lr=lr, warmup=warmup)
    shares = [recipe.lr_share(step, steps) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares)
    top = shares.index(max(shares))
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert recipe.lr_share(steps, steps) == pytest.approx(0, abs=1e-12) or warmup * steps >= steps - 0.5


class Pair(NamedTuple):
    """What a loader may give as a batch."""

    first: torch.Tensor
    second: torch.Tensor


def test_nested_batches_go_to_the_device():
    batch = {"boxes": [torch.zeros(2), (torch.ones(1), "text")], "n": 3}
    moved = to_device(batch, torch.device("meta"))
    assert moved["boxes"][0].device.type == moved["boxes"][1][0].device.type == "meta"
    assert (moved["boxes"][1][1], moved["n"]) == ("text", 3)
    images = to_device(torch.zeros(2, 3, 4, 4), torch.device("cpu"))
    assert images.is_contiguous(memory_format=torch.channels_last)


class Segmentation(Task):
    """An example of a task of one's own: a label for each pixel, scored by mean intersection over union."""

    metric = "mIoU"

    def __init__(self, classes: int = 2) -> None:
        self.classes = classes

    def loss(self, output, target):
        auxiliary = 0.4 * nn.functional.cross_entropy(output["aux"], target)
        return nn.functional.cross_entropy(output["out"], target) + auxiliary

    def meter(self):
        return MeanIoU(self.classes)


class MeanIoU:
    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.long)

    def update(self, output, target):
        classes = len(self.counts)
        pairs = classes * target.flatten() + output["out"].argmax(1).flatten()
        self.counts += pairs.bincount(minlength=classes**2).view(classes, classes)

    def compute(self):
        both = self.counts.diag()
        return (both / (self.counts.sum(0) + self.counts.sum(1) - both)).mean()


class TinyFCN(nn.Module):
    """x: (N, 1, H, W) -> {"out", "aux"}: (N, 2, H, W), as torchvision's segmentation models answer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head, self.aux = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        y = self.body(x)
        return {"out": self.head(y), "aux": self.aux(y)}


def test_segmentation_trains_scores_and_distils_like_any_task(data):
    """Ink against paper on the digits' own pixels."""
    loaders = []
    for part in (data.train, data.validation, data.test):
        pixels = part.dataset.images.float() / 255
        loaders.append(DataLoader(TensorDataset(pixels, (pixels[:, 0] > 0.5).long()), batch_size=64))
    pixels = Data("ink", *loaders)
    torch.manual_seed(0)
    model = TinyFCN()
    before = evaluate(model, pixels.test, Segmentation())
    train(model, pixels, Recipe(epochs=2, lr=0.1), task=Segmentation())
    after = evaluate(model, pixels.test, Segmentation())
    assert 0 <= before < after <= 1
    assert after > 0.8
    student = TinyFCN()
    train(student, pixels, Recipe(epochs=2, lr=0.1, distillation=1.0), task=Segmentation(), teacher=model)
    assert evaluate(student, pixels.test, Segmentation()) > 0.6


def test_half_precision_trains_on_a_processor_and_its_library_says_nothing(data, capfd):
    model = network()
    result = train(model, data, Recipe(epochs=4, lr=0.1, train_precision="bf16-mixed"))
    assert result.precision == "bf16-mixed"
    assert next(model.parameters()).dtype == torch.float32
    assert evaluate(model, data.test) > 0.85
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_trains_in_mixed_precision_and_gives_the_model_back(data):
    model = network()
    result = train(model, data, Recipe(epochs=4, lr=0.1, compute_device="cuda"))
    assert result.precision in ("bf16-mixed", "16-mixed")
    assert next(model.parameters()).device.type == "cpu"
    assert evaluate(model, data.test, device="cuda") > 0.9


def test_a_frozen_norm_keeps_its_statistics(data):
    model = nn.Sequential(nn.BatchNorm2d(1), network())
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model[0].state_dict().items()}
    train(model, data, Recipe(steps=3))
    assert all(torch.equal(value, before[name]) for name, value in model[0].state_dict().items())
    assert model[0].training


def test_named_tuples_of_a_batch_stay_so():
    batch = Pair(torch.zeros(2), torch.ones(1))
    assert to_device(batch, torch.device("meta")).second.device.type == "meta"
