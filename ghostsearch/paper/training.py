"""Accuracy under one short schedule from scratch, named as such: it ranks loosely and reproduces nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ghostsearch.choices import Ghost
from ghostsearch.data import load_data
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.loading import example_input, load_model
from ghostsearch.paper.counted import Row, ghosted
from ghostsearch.paper.options import PaperOptions
from ghostsearch.train import evaluate, train

Progress = Callable[[int, int, str], None]

CHOICES = (
    None, Ghost(2, 1), Ghost(2, 3), Ghost(2, 5), Ghost(2, 7), Ghost(3, 3), Ghost(4, 3), Ghost(5, 3),
    Ghost(2, 3, "affine"), Ghost(2, 3, "wavelet"),
)  # fmt: skip
"""The paper's settings of s and d, and its three cheap operations; None is the plain network."""


def trained_rows(options: PaperOptions, progress: Progress | None = None) -> Iterator[Row]:
    """One row a setting, each trained from random weights with the same seed, data and recipe.

    Raises GhostsearchError without data.
    """
    if options.data is None:
        raise GhostsearchError("accuracies are trained on images; give --data, such as folder:PATH")
    loaded = load_model(options.train_model, seed=options.seed)
    example = example_input(loaded.input)
    data = load_data(options.data, input=loaded.input, train_images=options.train_images, seed=options.seed)
    for done, choice in enumerate(CHOICES):
        if progress:
            progress(done, len(CHOICES), str(choice or "plain"))
        plain = load_model(options.train_model, seed=options.seed).module
        net = ghosted(plain, choice, example, include_first=True, seed=options.seed) if choice else plain
        result = train(net, data, epochs=options.epochs, device=options.train_device, seed=options.seed)
        yield {
            "choice": str(choice or "keep"),
            "params": sum(p.numel() for p in net.parameters()),
            "test accuracy %": 100 * evaluate(net, data.test, device=options.train_device),
            "epochs": options.epochs,
            "steps": result.steps,
            "last loss": result.history[-1].loss if result.history else None,
            "seconds": result.seconds,
        }
