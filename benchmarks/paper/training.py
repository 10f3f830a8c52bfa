"""Accuracy under one schedule from scratch; a short one is named so: it ranks loosely and reproduces nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import product
from statistics import mean

from torch import Tensor, nn

from benchmarks.graphed import Learner, held_on, train_graphed
from benchmarks.paper.counted import Row, compared, ghosted
from benchmarks.paper.kept import KeptRows
from benchmarks.paper.options import PaperOptions
from benchmarks.paper.printed import GHOST_RESNET56, GHOST_VGG16, MILLION, RESNET56, VGG16, Printed
from ghostsearch.data.load import Data, load_data
from ghostsearch.data.sets import ImageSet
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.load import example_input, load_model
from ghostsearch.space.choice import Ghost
from ghostsearch.training.evaluate import evaluate, torch_device
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe
from ghostsearch.training.tasks.classification import Classification

Progress = Callable[[int, int, str], None]
Settings = dict[Ghost | None, Printed]
"""What the paper prints of each choice; None is the baseline."""

CHEAP = (Ghost(2, 3, "affine"), Ghost(2, 3, "wavelet"))
"""The cheap operations that the paper names beside the depthwise convolution, without a figure."""

PRINTED: dict[str, Settings] = {
    "ghostsearch:vgg16": {
        None: VGG16,
        **{Ghost(s, d): row for (s, d), row in GHOST_VGG16.items()},
        **dict.fromkeys(CHEAP, Printed("Ghost-VGG-16", "", "")),
    },
    "ghostsearch:resnet56": {None: RESNET56, Ghost(2, 3): GHOST_RESNET56},
}
"""Settings of the networks that the paper trains on CIFAR-10."""

PUBLISHED_EPOCHS = 200
"""The least that published trainings of these networks take."""
TRAINED = "top-1 %, trained here"
"""The column of our accuracies."""

SCHEDULE = {
    "train_model", "data", "validation_list", "train_images", "test_images", "epochs", "batch_size", "lr",
    "train_precision",
}  # fmt: skip
"""Options that decide what a training comes to, beside its choice and seed."""


def settings(spec: str, only: Sequence[str] = ()) -> Settings:
    """The paper's choices for a network; one that it does not train gets those of VGG-16, without figures.

    With `only`, just these. Raises GhostsearchError for one that is not among them.
    """
    every = PRINTED.get(spec) or dict.fromkeys(PRINTED["ghostsearch:vgg16"], Printed(spec, "", ""))
    names = {_name(choice): choice for choice in every}
    unknown = [name for name in only if name not in names]
    if unknown:
        raise GhostsearchError(f"no setting {unknown[0]!r} of {spec}; choose among {', '.join(names)}")
    return {names[name]: every[names[name]] for name in names if not only or name in only}


def trained_rows(options: PaperOptions, kept: KeptRows, progress: Progress | None = None) -> list[Row]:
    """One row a setting: the print, the count, and the accuracy of training from random weights, mean over seeds.

    Every setting gets the same data, recipe and seeds. Raises GhostsearchError without data.
    """
    if options.data is None:
        raise GhostsearchError("accuracies are trained on images; give --data, such as folder:PATH")
    spec = load_model(options.train_model).input
    data = load_data(
        options.data, input=spec, batch=options.batch_size, train_images=options.train_images,
        test_images=options.test_images, validation_list=options.validation_list, seed=options.seed,
    )  # fmt: skip
    wanted, example = settings(options.train_model, options.train_choices), example_input(spec)
    seeds = range(options.seed, options.seed + options.train_seeds)
    runs: dict[Ghost | None, list[Row]] = {choice: [] for choice in wanted}
    gpu = torch_device(options.compute_device).type == "cuda"
    groups = [list(wanted)] if gpu else [[choice] for choice in wanted]
    for done, (seed, some) in enumerate(product(seeds, groups)):
        if progress:
            progress(done, len(seeds) * len(groups), f"seed {seed}: {', '.join(map(_name, some))}")
        nets = {choice: _network(options.train_model, choice, example, seed) for choice in some}
        for choice, row in _trained(nets, data, seed, options, kept).items():
            runs[choice].append(row)
    return [
        compared(printed, _network(options.train_model, choice, example, 0), example, MILLION, choice=_name(choice))
        | summary(runs[choice])
        for choice, printed in wanted.items()
    ]


def _name(choice: Ghost | None) -> str:
    return str(choice or "keep")


def _network(spec: str, choice: Ghost | None, example: Tensor, seed: int) -> nn.Module:
    baseline = load_model(spec, seed=seed).module
    return ghosted(baseline, choice, example, include_first=True, seed=seed) if choice else baseline


def _trained(
    nets: dict[Ghost | None, nn.Module], data: Data, seed: int, options: PaperOptions, kept: KeptRows
) -> dict[Ghost | None, Row]:
    """Train and score networks, those together that are new; what was done before is not done again."""
    said = options.model_dump(mode="json", include=SCHEDULE)
    keys = {choice: {"choice": _name(choice), "seed": seed} | said for choice in nets}
    new = [choice for choice in nets if kept.get(keys[choice]) is None]
    for choice, losses in zip(new, _fitted([nets[c] for c in new], data, options.part(Recipe, seed=seed)), strict=True):
        kept.add(keys[choice], losses | {"accuracy": evaluate(nets[choice], data.test, device=options.compute_device)})
    return {choice: kept.get(keys[choice]) for choice in nets}


def _fitted(nets: Sequence[nn.Module], data: Data, recipe: Recipe) -> list[Row]:
    """Train networks in place by one recipe: side by side on a GPU, else one after the other."""
    device, images = torch_device(recipe.compute_device), data.train.dataset
    if not nets or device.type != "cuda" or not isinstance(images, ImageSet):
        return [_in_turn(net, data, recipe) for net in nets]
    started, learners = time.perf_counter(), [Learner(net, recipe.lr) for net in nets]
    train_graphed(learners, held_on(images, str(device)), recipe, Classification())
    seconds = (time.perf_counter() - started) / len(nets)
    steps = round(recipe.epochs * (len(images) // recipe.batch_size))
    return [{"loss": float(learner.loss), "steps": steps, "seconds": seconds} for learner in learners]


def _in_turn(net: nn.Module, data: Data, recipe: Recipe) -> Row:
    result = train(net, data, recipe)
    loss = result.history[-1].loss if result.history else None
    return {"loss": loss, "steps": result.steps, "seconds": result.seconds}


def summary(runs: Sequence[Row]) -> Row:
    """Columns of a setting's trainings, one a seed."""
    accuracies = [100 * run["accuracy"] for run in runs]
    return {
        TRAINED: mean(accuracies),
        "lowest seed": min(accuracies),
        "highest seed": max(accuracies),
        "last loss": None if runs[0]["loss"] is None else mean(run["loss"] for run in runs),
        "steps": runs[0]["steps"],
        "seconds a training": mean(run["seconds"] for run in runs),
    }
