"""How the images were split that trained a model: what judges it later must be none of those."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghostsearch.data.load import place_of, read_fingerprint
from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.files import read_json
from ghostsearch.study.config import configure
from ghostsearch.study.directory import STUDY, read_study, study_of
from ghostsearch.study.fingerprint import changed_since, known_by
from ghostsearch.surgery.saved import read_manifest
from ghostsearch.training.finetune import CHECKPOINTS, SETTINGS_FILE
from ghostsearch.yaml_files import RUN


@dataclass(frozen=True)
class Split:
    """The images of a study or a training, and what parted them."""

    place: Path
    data: str
    seed: int
    validation_list: str | None
    train_images: int | None
    known: Mapping[str, str]
    """What each part is known by; empty where that was not noted."""


def split_of(directory: Path) -> Split | None:
    """The split of the study that a model comes from, else of its training; None of neither."""
    if study := study_of(directory):
        config = configure({}, study / RUN)
        known = known_by(read_study(study)) if (study / STUDY).is_file() else {}
        return Split(study, config.data, config.seed, config.validation_list, config.train_images, known)
    file = directory / CHECKPOINTS / SETTINGS_FILE
    noted: Any = read_json(file) if file.is_file() else None
    if not isinstance(noted, dict):
        return None
    return Split(
        directory, str(noted.get("data", "")), int(noted.get("seed", 0)), noted.get("validation_list"),
        noted.get("train_images"), noted.get("set of images", {}),
    )  # fmt: skip


def split_for(directory: Path, data: str, given: Container[str]) -> dict[str, Any]:
    """The seed and validation list by which a model's images were split, where `data` are those, as options.

    Those given stay. By other splits the model would be judged on images that it was trained on. Warns
    (GhostsearchWarning) of each.
    """
    split = split_of(directory)
    if split is None or not _same_images(directory, split, data):
        return {}
    found: dict[str, Any] = {}
    if split.seed and "seed" not in given:
        found["seed"] = split.seed
        told = f"seed {split.seed}, by which {split.place} split its images"
        warnings.warn(told, GhostsearchWarning, stacklevel=3)
    if split.validation_list and "validation_list" not in given:
        found["validation_list"] = split.validation_list
        warnings.warn(f"validation list {split.validation_list}, as in {split.place}", GhostsearchWarning, stacklevel=3)
    return found


def _same_images(directory: Path, split: Split, data: str) -> bool:
    """Whether images are a split's, by their place or by what its parts are known by.

    Warns (GhostsearchWarning) where those in its place are others now.
    """
    same = place_of(split.data) == place_of(data)
    try:
        if "test" not in split.known:
            return same
        now = read_fingerprint(
            data, input=read_manifest(directory)[1].source.input, seed=split.seed,
            validation_list=split.validation_list, train_images=split.train_images,
        )  # fmt: skip
    # Other images need not have what these have, such as a list of validation images.
    except GhostsearchError:
        return same
    changed = changed_since(split.known, now)
    if same and changed:
        warnings.warn(
            f"the images of {data} have changed since {split.place} ({changed}): those that judge the model now may "
            "have trained it", GhostsearchWarning, stacklevel=4,
        )  # fmt: skip
    return same or (bool(now) and not changed)
