"""The images of a run: its splits, and what of them weights are fitted to and ranges are taken from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ghostsearch.data.calibration import calibration_batches, images_within
from ghostsearch.data.load import Data, load_data
from ghostsearch.models.input import InputSpec
from ghostsearch.shown import Progress
from ghostsearch.study.config import RunConfig
from ghostsearch.surgery.baseline_statistics import BATCH_IMAGES, BATCH_VALUES

INT8_IMAGES = 128
"""Calibration images that set the activations' ranges in int8."""


def open_data(config: RunConfig, input: InputSpec, progress: Progress | None = None) -> Data:
    """The images of a run in its splits; raises what `load_data` raises."""
    return load_data(
        config.data, input=input, batch=config.batch_size, seed=config.seed,
        validation_list=config.validation_list, train_images=config.train_images, progress=progress,
    )  # fmt: skip


def calibration_of(config: RunConfig, data: Data, example: Tensor) -> Sequence[Tensor]:
    """A run's calibration images (N, C, *dims), drawn by its seed."""
    batch = images_within(BATCH_VALUES, example, BATCH_IMAGES)
    return calibration_batches(data, config.calibration_images, seed=config.seed, batch=batch)


def for_ranges(calibration: Sequence[Tensor], images: int = INT8_IMAGES) -> Sequence[Tensor]:
    """The first of a run's calibration images: those that set the activations' ranges in int8."""
    return calibration[: max(1, images // len(calibration[0]))]
