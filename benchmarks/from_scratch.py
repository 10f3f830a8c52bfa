"""GhostNet trained from random weights on a folder of a few classes: `ghostsearch train`, with its curves as a page.

python benchmarks/from_scratch.py FOLDER [--epochs 12] [--size 64] [--train-images N] [--work trained] [--out results]
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from benchmarks.networks import compute_device
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.data.options import ImageOptions
from ghostsearch.training.curves import draw_curves
from ghostsearch.training.from_scratch import train_from_scratch
from ghostsearch.training.recipe import FROM_SCRATCH

MODEL, NAME = "ghostsearch:ghostnet", "from_scratch"


def main() -> None:
    """Train, or go on with a stopped training, and write the results page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="images, one folder a class, in train/ and test/")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--train-images", type=int)
    parser.add_argument("--work", type=Path, default=Path("trained"), help="where the model and its checkpoints go")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()

    data = f"folder:{options.folder}"
    images = ImageOptions(data=data, train_images=options.train_images)
    recipe = FROM_SCRATCH.but(epochs=options.epochs)
    result, trained = train_from_scratch(MODEL, images, options.work, recipe, size=options.size)
    classes = trained.categories
    files = sum(path.is_file() for path in options.folder.rglob("*.*"))
    used = f"{options.train_images} training images" if options.train_images else "all training images"
    same = ["ghostsearch", "train", MODEL, "--data", data, "--size", options.size, "--epochs", options.epochs]
    same += ["--train-images", options.train_images] if options.train_images else []
    page = ResultPage(
        name=NAME,
        title="GhostNet from scratch on a folder of images",
        claim=f"GhostNet 1.0× from random weights on {len(classes)} classes ({', '.join(classes)}): test accuracy",
        figure=f"{result.test:.1%} after {result.epochs} epochs",
        command=script_command(),
        device=compute_device(),
        tables=[ResultTable("epochs", [vars(epoch) for epoch in result.history])],
        notes=(
            f"The same training as a command: {shlex.join(map(str, [*same, '--out', options.work]))}",
            f"{files} files in the folder, {used}, at {options.size}×{options.size}, one seed; the epoch that scored "
            f"best on the validation split is kept ({result.best_epoch}, {result.validation:.1%}), the test split is "
            "read once.",
        ),
        pictures={f"{NAME}.png": lambda path: draw_curves(result.history, path, metric=result.metric)},
    )
    for path in publish(page, options.out):
        print(path)


if __name__ == "__main__":
    main()
