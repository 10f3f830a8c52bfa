"""The command that trains a network from random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import progress_bar, say, say_json


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
    app.command("train")(train)


def train(
    model: o.Model,
    data: Annotated[str, typer.Option(help="digits, folder:PATH or torchvision:CIFAR10@ROOT.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="Where the model goes; rerun the same command to resume.", show_default=False)
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs; cosine schedule with warm-up.")] = 20,
    size: o.Size = None,
    batch: Annotated[int, typer.Option(min=1, help="Training batch size, in images.")] = 64,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; default: the recipe's.")] = None,
    ema: Annotated[float, typer.Option(min=0, max=1, help="Decay of averaged weights; 0 turns averaging off.")] = 0.0,
    validation_list: o.ValidationList = None,
    train_images: Annotated[int | None, typer.Option(min=1, help="Use only this many training images.")] = None,
    compute_device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train a network from random weights on your images; draws the curves, keeps the best epoch.

    Example: [bold]ghostsearch train ghostsearch:ghostnet --size 96 --data folder:images --out trained[/bold]
    """
    from ghostsearch.training.from_scratch import CURVES_FILE, train_from_scratch

    with progress_bar(quiet or as_json) as progress:
        result, classes = train_from_scratch(
            model, data, out, epochs=epochs, size=size, batch=batch, lr=lr, ema=ema, validation_list=validation_list,
            train_images=train_images, device=compute_device, seed=seed, progress=progress,
        )  # fmt: skip
    if as_json:
        say_json(dataclasses.asdict(result))
        return
    say(str(result))
    say(f"wrote {out} (curves: {out / CURVES_FILE})")
    given = f"--model {model} --classes {len(classes)} --weights {out / 'weights.safetensors'} --data {data}"
    say(f"next: ghostsearch search {given}" + (f" --size {size}" if size else ""))
