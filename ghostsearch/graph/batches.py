"""The inputs of a model in the batches of a loader, whatever else a batch holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import tensors

IMAGE_KEYS = ("image", "images", "x", "input", "inputs", "pixel_values", "data")
"""Entries of a batch that is a dict under which its images are found."""
BATCH = 64


def image_batches(loader: Iterable[Any], example: Any = None) -> Iterator[Any]:
    """The model's inputs in each batch of a loader, of a data set, or in one batch (N, C, *dims).

    A batch is the inputs themselves, (inputs, …), or a dict with one of IMAGE_KEYS. Several inputs are given as in the
    example, as a tuple, perhaps with more behind it, or a dict with its keys, perhaps among others.
    Raises GhostsearchError for inputs that are not like the example, or that hold values which are no numbers.
    """
    if isinstance(loader, Tensor | np.ndarray):
        loader = [loader]
    elif isinstance(loader, Dataset):
        loader = DataLoader(loader, BATCH)
    for batch in loader:
        images = _inputs(batch, example)
        if example is not None:
            _require_alike(images, example)
        yield images


def _inputs(batch: Any, example: Any) -> Any:
    if isinstance(batch, np.ndarray):
        return torch.as_tensor(batch)
    if isinstance(batch, Mapping):
        if isinstance(example, dict):
            return {key: batch[key] for key in example} if set(example) <= set(batch) else batch
        key = next((key for key in IMAGE_KEYS if key in batch), None)
        return batch if key is None else _inputs(batch[key], example)
    if not isinstance(batch, list | tuple) or not batch:
        return batch
    if isinstance(example, tuple) and len(batch) >= len(example) > 1:
        # ((first, second), target), or the inputs themselves; collated, a tuple has become a list.
        inner = batch[0] if isinstance(batch[0], list | tuple | dict) else batch
        return tuple(inner[: len(example)]) if isinstance(inner, list | tuple) else inner
    listed = isinstance(batch, list) and all(isinstance(x, Tensor) and x.dim() == 3 for x in batch)
    return batch if listed else _inputs(batch[0], example) if isinstance(batch[0], np.ndarray) else batch[0]


def _require_alike(images: Any, example: Any) -> None:
    """Raises GhostsearchError unless inputs have as many tensors as the example, alike in channels and kind."""
    found, wanted = list(tensors(images)), list(tensors(example))
    listed = isinstance(example, list)
    shown = ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in found[:4]) or (
        f"of type {type(images).__name__}"
    )
    channel = 0 if listed else 1
    if not found or (len(found) != len(wanted) and not listed):
        raise GhostsearchError(
            f"calibration inputs are {shown}; the model takes {len(wanted)}: give images, (images, …), or a dict with "
            f"one of {', '.join(IMAGE_KEYS)}; several inputs as a tuple or a dict, in the form of the example"
        )
    for ours, theirs in zip(found, wanted * len(found) if listed else wanted, strict=False):
        fits = ours.dim() == theirs.dim() and ours.is_floating_point() == theirs.is_floating_point()
        if not fits or ours.shape[channel : channel + 1] != theirs.shape[channel : channel + 1]:
            raise GhostsearchError(
                f"calibration inputs are {shown}; the example is {tuple(theirs.shape)} "
                f"{str(theirs.dtype).removeprefix('torch.')}: give them as the model takes them, normalised"
            )
        if not torch.isfinite(ours).all():
            raise GhostsearchError("calibration inputs hold values that are not finite")
