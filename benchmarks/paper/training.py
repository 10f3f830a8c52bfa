"""Accuracy under one short schedule from scratch, named as such: it ranks loosely and reproduces nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from statistics import mean

from torch import Tensor, nn

from benchmarks.paper.counted import Row, compared, ghosted
from benchmarks.paper.kept import KeptRows
from benchmarks.paper.options import PaperOptions
from benchmarks.paper.printed import GHOST_RESNET56, GHOST_VGG16, MILLION, RESNET56, VGG16, Printed
from ghostsearch.data.load import Data, load_data
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.load import example_input, load_model
from ghostsearch.space.choice import Ghost
from ghostsearch.training.evaluate import evaluate
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe

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
    for done, (seed, choice) in enumerate(product(seeds, wanted)):
        if progress:
            progress(done, len(seeds) * len(wanted), f"seed {seed}: {choice or 'baseline'}")
        net = _network(options.train_model, choice, example, seed)
        runs[choice].append(_trained(net, choice, data, seed, options, kept))
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


def _trained(net: nn.Module, choice: Ghost | None, data: Data, seed: int, options: PaperOptions, kept: KeptRows) -> Row:
    """Train and score one network, unless that was done before."""
    key = {"choice": _name(choice), "seed": seed} | options.model_dump(mode="json", include=SCHEDULE)
    row = kept.get(key)
    if row is None:
        result = train(net, data, options.part(Recipe, seed=seed))
        row = {
            "accuracy": evaluate(net, data.test, device=options.compute_device),
            "loss": result.history[-1].loss if result.history else None,
            "steps": result.steps,
            "seconds": result.seconds,
        }
        kept.add(key, row)
    return row


def summary(runs: Sequence[Row]) -> Row:
    """Columns of a setting's trainings, one a seed."""
    accuracies = [100 * run["accuracy"] for run in runs]
    return {
        "top-1 %, short schedule": mean(accuracies),
        "lowest seed": min(accuracies),
        "highest seed": max(accuracies),
        "last loss": None if runs[0]["loss"] is None else mean(run["loss"] for run in runs),
        "steps": runs[0]["steps"],
        "seconds a training": mean(run["seconds"] for run in runs),
    }
