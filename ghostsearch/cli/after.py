"""Commands after the search: finetune."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import progress_bar, say, say_json


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
    app.command("finetune")(finetune)


def finetune(
    directory: Annotated[Path, typer.Argument(help="A directory that convert or search wrote.", show_default=False)],
    data: Annotated[
        str, typer.Option(help="digits, folder:PATH, torchvision:CIFAR10@ROOT or package.module:function.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="Where the fine-tuned model goes; rerun the same command to resume.", show_default=False),
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs; cosine schedule with warm-up.")] = 20,
    distill_from: Annotated[
        str | None, typer.Option(help="A teacher: a MODEL or a directory, such as models/baseline.")
    ] = None,
    distill_weights: Annotated[
        str | None, typer.Option(help="The teacher's weights, when it is named as a MODEL.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Training batch size, in images.")] = 64,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; default: the recipe's.")] = None,
    ema: Annotated[
        float, typer.Option(min=0, max=1, help="Decay of the averaged weights; 0 turns averaging off.")
    ] = 0.999,
    validation_list: o.ValidationList = None,
    train_images: Annotated[int | None, typer.Option(min=1, help="Use only this many training images.")] = None,
    task: Annotated[
        str, typer.Option(help="classification, segmentation, …, or package.module:object.")
    ] = "classification",
    compute_device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="GPUs to train on.")] = 1,
    seed: o.Seed = 0,
    allow_code: o.AllowCode = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train a converted model on, with distillation, averaged weights, checkpoints and a TensorBoard log.

    Example: [bold]ghostsearch finetune results/mine/models/1a2b3c4d5e --data folder:images --epochs 20
    --distill-from results/mine/models/baseline --out tuned[/bold]
    """
    from ghostsearch.training.finetune import finetune_directory
    from ghostsearch.training.tasks.table import load_task

    teacher = o.resolve_model(distill_from, weights=distill_weights, allow_code=allow_code) if distill_from else None
    with progress_bar(quiet or as_json) as progress:
        result = finetune_directory(
            directory, data, out, epochs=epochs, batch=batch, validation_list=validation_list,
            train_images=train_images, task=load_task(task), lr=lr, ema=ema, distill_from=teacher,
            device=compute_device, devices=devices, seed=seed, allow_code=allow_code, progress=progress,
        )  # fmt: skip
    if as_json:
        say_json(dataclasses.asdict(result))
        return
    say(str(result))
    say(f"wrote {out}\nnext: ghostsearch measure {out}   or   ghostsearch export {out} --format onnx")
