"""After the search: a model of a study is fine-tuned on images that are split as the study did."""

from __future__ import annotations

import warnings
from pathlib import Path

from ghostsearch.data.options import ImageOptions
from ghostsearch.errors import GhostsearchWarning
from ghostsearch.shown import Progress
from ghostsearch.study.config import configure
from ghostsearch.study.directory import RUN, study_of
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

    Warns (GhostsearchWarning) of each option that is taken from the study that the model comes from.
    """
    images, recipe = split_as_studied(directory, images, recipe)
    out = out or placed(str(directory), images, recipe, what="-finetuned")
    return finetune_directory(directory, images, out, recipe, allow_code=allow_code, progress=progress), out


def split_as_studied(
    directory: Path, images: ImageOptions, recipe: Distillation
) -> tuple[ImageOptions, Distillation]:  # fmt: skip
    """The options of a training on the data of the study that a model comes from, split as there unless asked.

    By other splits the model would be judged on images that it was trained on.
    """
    study = study_of(directory)
    config = configure({}, study / RUN) if study else None
    if config is None or config.data != images.data:
        return images, recipe
    if config.seed != recipe.seed and "seed" not in recipe.model_fields_set:
        recipe = recipe.but(seed=config.seed)
        warnings.warn(f"seed {config.seed}, by which {study} split its images", GhostsearchWarning, stacklevel=2)
    if config.validation_list and "validation_list" not in images.model_fields_set:
        images = images.but(validation_list=config.validation_list)
        told = f"validation list {config.validation_list}, as in {study}"
        warnings.warn(told, GhostsearchWarning, stacklevel=2)
    return images, recipe
