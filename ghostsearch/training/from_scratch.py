"""Training a network from random weights on a folder of images: the baseline that a search starts from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from ghostsearch.data.load import load_data
from ghostsearch.errors import GhostsearchError
from ghostsearch.export.saved import save
from ghostsearch.files import write_text
from ghostsearch.models.load import LoadedModel, load_model
from ghostsearch.space.architecture import Architecture
from ghostsearch.training.checks import check_run
from ghostsearch.training.curves import draw_curves
from ghostsearch.training.finetune import FinetuneResult, finetune
from ghostsearch.training.tasks.classification import Classification
from ghostsearch.training.train import Recipe

Progress = Callable[[int, int, str], None]

RECIPE = Recipe(lr=0.05, warmup=0.1)
RESULT_FILE, CURVES_FILE = "train.json", "train.svg"


def train_from_scratch(
    model: str,
    data: str,
    out: Path,
    *,
    epochs: int = 20,
    size: int | str | None = None,
    batch: int = 64,
    lr: float | None = None,
    ema: float = 0.0,
    validation_list: Path | None = None,
    train_images: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[FinetuneResult, tuple[str, ...]]:
    """Train a model by name from random weights; `out` gets the model, its record, its curves and its checkpoints.

    The classifier gets as many outputs as the data have classes. The weights that score best on the validation split
    are kept, the test split is read once. The same call resumes a stopped one. Returns the classes too.
    Raises GhostsearchError for an unknown model, unlabelled or unreadable data, or an `out` of another run.
    """
    first = load_model(model, size=size, seed=seed)
    images = load_data(
        data, input=first.input, batch=batch, seed=seed, validation_list=validation_list,
        train_images=train_images, progress=progress,
    )  # fmt: skip
    if not images.classes:
        raise GhostsearchError(f"{data} has no class labels to train on; put the images into one folder a class")
    loaded = load_model(model, classes=len(images.classes), size=size, seed=seed)
    check_run(loaded.module, images, Classification())
    result = finetune(
        loaded.module, images, out / "checkpoints", epochs=epochs,
        recipe=RECIPE if lr is None else replace(RECIPE, lr=lr), ema=ema, device=device, seed=seed, progress=progress,
    )  # fmt: skip
    _write(loaded, result, out, {"model": model, "data": data, "classes": list(images.classes), "seed": seed})
    return result, images.classes


def _write(loaded: LoadedModel, result: FinetuneResult, out: Path, about: dict[str, object]) -> None:
    save(loaded.module, out, source=loaded, architecture=Architecture())
    draw_curves(result.history, out / CURVES_FILE, metric=result.metric, title=f"{about['model']} on {about['data']}")
    write_text(out / RESULT_FILE, json.dumps(about | asdict(result), indent=1) + "\n")
