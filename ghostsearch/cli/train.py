"""Commands that train: finetune, train."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import progress_bar, say, say_json, typed
from ghostsearch.data.options import ImageOptions
from ghostsearch.training.recipe import FROM_SCRATCH, Distillation, Tuning

IMAGES, FINETUNING = ImageOptions(), Distillation()

Out = Annotated[
    Path | None, typer.Option(help="Directory of the model; rerun to resume. Default: named after model and date.")
]


@o.needs("data")
def finetune(
    directory: Annotated[
        Path, typer.Argument(help="A directory that convert, search, finetune or train wrote.", show_default=False)
    ],
    out: Out = None,
    images: ImageOptions = IMAGES,
    recipe: Distillation = FINETUNING,
    allow_code: o.AllowCode = False,
    shown: o.Output = o.OUTPUT,
) -> None:
    """Fine-tune a converted model, with distillation, averaged weights, checkpoints and a TensorBoard log.

    Example: [bold]ghostsearch finetune results/mine/models/1a2b3c4d5e --data folder:images --epochs 20
    --distill-from results/mine/models/baseline --out tuned[/bold]
    """
    from ghostsearch.study.finetuning import finetune_studied

    with progress_bar(shown.silent) as progress:
        result, out = finetune_studied(directory, images, out, recipe, allow_code=allow_code, progress=progress)
    if shown.as_json:
        say_json(dataclasses.asdict(result) | {"directory": str(out)})
        return
    say(str(result))
    made = typed(out) + " --allow-code" * allow_code
    say(f"wrote {out}\nnext: ghostsearch measure {made}   or   ghostsearch export {made} --format onnx")


@o.needs("data")
@o.without("distillation")
def train(
    model: o.Model,
    out: Out = None,
    classes: o.Classes = None,
    size: o.Size = None,
    images: ImageOptions = IMAGES,
    recipe: Tuning = FROM_SCRATCH,
    shown: o.Output = o.OUTPUT,
) -> None:
    """Train a network from random weights on your images; draws the curves, keeps the best epoch.

    Example: [bold]ghostsearch train ghostsearch:ghostnet --size 96 --data folder:images --out trained[/bold]
    """
    from ghostsearch.training.finetune import placed
    from ghostsearch.training.from_scratch import train_from_scratch

    out = out or placed(model, images, recipe, what="-trained", classes=classes, size=size)
    with progress_bar(shown.silent) as progress:
        result, trained = train_from_scratch(model, images, out, recipe, classes=classes, size=size, progress=progress)
    if shown.as_json:
        say_json(dataclasses.asdict(result) | {"directory": str(out)})
        return
    say(str(result))
    say(f"wrote {out} (curves: {out / 'train.svg'})")
    given = f"--weights {typed(out / 'weights.safetensors')} --data {typed(images.data)}"
    own = (f" --classes {trained.classes}" if trained.classes else "") + (f" --size {size}" if size else "")
    # The same splits, or the search would judge by images that it was trained on.
    own += f" --seed {recipe.seed}" * bool(recipe.seed) + f" --task {images.task}" * (images.task != "classification")
    own += f" --validation-list {typed(images.validation_list)}" if images.validation_list else ""
    say(f"next: ghostsearch search --model {model} {given}{own}")
