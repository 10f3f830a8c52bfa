"""After the search: a model of a study is fine-tuned on images that are split as the study did."""

from __future__ import annotations

import warnings
from pathlib import Path

from ghostsearch.data.load import place_of, read_fingerprint
from ghostsearch.data.options import ImageOptions
from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.shown import Progress
from ghostsearch.study.config import RunConfig, configure
from ghostsearch.study.directory import STUDY, read_study, study_of
from ghostsearch.study.fingerprint import changed_since, known_by
from ghostsearch.surgery.saved import read_manifest
from ghostsearch.training.finetune import FinetuneResult, finetune_directory, placed
from ghostsearch.training.recipe import Distillation
from ghostsearch.yaml_files import RUN


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
    if study is None or config is None or not _same_images(directory, study, config, images):
        return images, recipe
    if config.seed != recipe.seed and "seed" not in recipe.model_fields_set:
        recipe = recipe.but(seed=config.seed)
        warnings.warn(f"seed {config.seed}, by which {study} split its images", GhostsearchWarning, stacklevel=2)
    if config.validation_list and "validation_list" not in images.model_fields_set:
        images = images.but(validation_list=config.validation_list)
        told = f"validation list {config.validation_list}, as in {study}"
        warnings.warn(told, GhostsearchWarning, stacklevel=2)
    return images, recipe


def _same_images(directory: Path, study: Path, config: RunConfig, images: ImageOptions) -> bool:
    """Whether images are a study's, by their place or by what its splits are known by.

    Warns (GhostsearchWarning) where those in its place are others now.
    """
    same = place_of(config.data) == place_of(images.data)
    try:
        known = known_by(read_study(study)) if (study / STUDY).is_file() else {}
        if "test" not in known:
            return same
        now = read_fingerprint(
            images.data, input=read_manifest(directory)[1].source.input, seed=config.seed,
            validation_list=config.validation_list, train_images=config.train_images,
        )  # fmt: skip
    # Other images need not have what the study's have, such as a list of validation images.
    except GhostsearchError:
        return same
    changed = changed_since(known, now)
    if same and changed:
        warnings.warn(
            f"the images of {images.data} have changed since {study} ({changed}): those that judge the model now may "
            "have trained it", GhostsearchWarning, stacklevel=3,
        )  # fmt: skip
    return same or (bool(now) and not changed)
