"""Training a network from random weights on a folder of images: the baseline that a search starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ghostsearch.data.calibration import first_batch
from ghostsearch.data.load import Data
from ghostsearch.data.options import ImageOptions
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.load import LoadedModel, load_model
from ghostsearch.shown import Progress
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.saved import save
from ghostsearch.training.checks import check_run
from ghostsearch.training.finetune import (
    CHECKPOINTS,
    FinetuneResult,
    check_untaken,
    claim,
    finetune,
    load_images,
    run_of,
    write_result,
)
from ghostsearch.training.recipe import FROM_SCRATCH, Tuning
from ghostsearch.training.tasks.table import load_task

RESULT_FILE = "train.json"


def train_from_scratch(
    model: str,
    images: ImageOptions,
    out: Path,
    recipe: Tuning = FROM_SCRATCH,
    *,
    classes: int | None = None,
    size: int | str | None = None,
    progress: Progress | None = None,
) -> tuple[FinetuneResult, LoadedModel]:
    """Train a model by name from random weights; `out` gets the model, its record, its curves and its checkpoints.

    The classifier gets `classes` outputs; by default as many as the data name classes, or as an image has values, else
    the model's own. The best weights on the validation split are kept, the test split is read once. The same call
    resumes a stopped one. Returns the trained model too.
    Raises GhostsearchError for an unknown model, unlabelled or unreadable data, or an `out` of another run.
    """
    check_untaken(out)
    first = load_model(model, size=size, seed=recipe.seed)
    data = load_images(images, first.input, recipe, progress)
    if not data.labelled:
        raise GhostsearchError(f"{images.data} has no labels to train on; put the images into a folder per class")
    outputs = classes or len(data.classes) or (values_of(data) if data.kind == "value" else None)
    loaded = load_model(model, classes=outputs, size=size, seed=recipe.seed)
    loaded = replace(loaded, categories=loaded.categories or data.classes)
    task = load_task(images.task)
    check_run(loaded.module, data, task)
    claim(out / CHECKPOINTS, run_of(model, images, classes=classes, size=size))
    result = finetune(loaded.module, data, out / CHECKPOINTS, recipe, task=task, progress=progress)
    about = {"model": model, "data": images.data, "classes": list(data.classes), "seed": recipe.seed}
    save(loaded.module, out, source=loaded, architecture=Architecture())
    write_result(result, out / RESULT_FILE, about, title=f"{model} on {images.data}")
    return result, loaded


def values_of(data: Data) -> int:
    """How many values each image has."""
    batch: Any = first_batch(data.train, 1)
    return int(batch[1].shape[1]) if batch[1].ndim > 1 else 1
