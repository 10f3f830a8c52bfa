"""After the search: a model of a study is fine-tuned on images that are split as the study did."""

from __future__ import annotations

from pathlib import Path

from ghostsearch.data.options import ImageOptions
from ghostsearch.shown import Progress
from ghostsearch.study.split import split_for
from ghostsearch.training.finetune import FinetuneResult, finetune_directory, placed
from ghostsearch.training.recipe import Distillation


def finetune_studied(
    directory: Path,
    images: ImageOptions,
    out: Path | None,
    recipe: Distillation,
    *,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> tuple[FinetuneResult, Path]:
    """As `finetune_directory`; without `out` in a directory named after model and date, which is returned too.

    Warns (GhostsearchWarning) of each option that is taken from the study, or the training, that the model comes from.
    """
    images, recipe = split_as_known(directory, images, recipe)
    out = out or placed(str(directory), images, recipe, what="-finetuned")
    return finetune_directory(directory, images, out, recipe, allow_code=allow_code, progress=progress), out


def split_as_known(directory: Path, images: ImageOptions, recipe: Distillation) -> tuple[ImageOptions, Distillation]:
    """The options of a training on a model's own images, split as they were unless asked otherwise."""
    found = split_for(directory, images.data, images.model_fields_set | recipe.model_fields_set)
    if "seed" in found:
        recipe = recipe.but(seed=found["seed"])
    if "validation_list" in found:
        images = images.but(validation_list=found["validation_list"])
    return images, recipe
