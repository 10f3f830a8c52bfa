"""Training a network from random weights on a folder of images: the baseline that a search starts from."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ghostsearch.data.load import load_data
from ghostsearch.data.options import ImageOptions
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text
from ghostsearch.models.load import LoadedModel, load_model
from ghostsearch.shown import Progress
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.saved import save
from ghostsearch.training.checks import check_run
from ghostsearch.training.curves import draw_curves
from ghostsearch.training.finetune import CHECKPOINTS, FinetuneResult, finetune
from ghostsearch.training.recipe import Tuning
from ghostsearch.training.tasks.table import load_task

RECIPE = Tuning(warmup=0.1, ema=0.0)
RESULT_FILE, CURVES_FILE = "train.json", "train.svg"


def train_from_scratch(
    model: str,
    images: ImageOptions,
    out: Path,
    recipe: Tuning = RECIPE,
    *,
    size: int | str | None = None,
    progress: Progress | None = None,
) -> tuple[FinetuneResult, tuple[str, ...]]:
    """Train a model by name from random weights; `out` gets the model, its record, its curves and its checkpoints.

    The classifier gets as many outputs as the data name classes. The best weights on the validation split are kept, the
    test split is read once. The same call resumes a stopped one. Returns the classes too.
    Raises GhostsearchError for an unknown model, unlabelled or unreadable data, or an `out` of another run.
    """
    first = load_model(model, size=size, seed=recipe.seed)
    data = load_data(
        images.data, input=first.input, batch=recipe.batch_size, seed=recipe.seed, train_images=images.train_images,
        validation_list=images.validation_list, progress=progress,
    )  # fmt: skip
    if not data.labelled:
        raise GhostsearchError(f"{images.data} has no labels to train on; put the images into a folder per class")
    loaded = load_model(model, classes=len(data.classes) or None, size=size, seed=recipe.seed)
    task = load_task(images.task)
    check_run(loaded.module, data, task)
    result = finetune(loaded.module, data, out / CHECKPOINTS, recipe, task=task, progress=progress)
    about = {"model": model, "data": images.data, "classes": list(data.classes), "seed": recipe.seed}
    _write(loaded, result, out, about)
    return result, data.classes


def _write(loaded: LoadedModel, result: FinetuneResult, out: Path, about: dict[str, object]) -> None:
    save(loaded.module, out, source=loaded, architecture=Architecture())
    draw_curves(result.history, out / CURVES_FILE, metric=result.metric, title=f"{about['model']} on {about['data']}")
    write_text(out / RESULT_FILE, json.dumps(about | asdict(result), indent=1) + "\n")
