"""The inputs of a model in the batches of a loader, whatever else a batch holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import is_image_list, like, tensors

IMAGE_KEYS = ("image", "images", "x", "input", "inputs", "pixel_values", "data")
"""Entries of a batch that is a dict under which its images are found."""
MOST_COLOURS = 4
"""Channels that an image of a list may have; more are a batch of recordings."""
BATCH = 64


class ReadBatches(Sequence[Tensor]):
    """Batches of images of a set by position, read at each access; the first ones stay in memory where there is room.

    images: `__getitems__(positions)` gives a tuple that begins with the images (N, C, *dims); made: what becomes of
    images that were read; room: bytes that may be kept.
    """

    def __init__(
        self, images: Any, positions: Sequence[Sequence[int]], made: Callable[[Tensor], Tensor] | None = None,
        *, room: int = 0,
    ) -> None:  # fmt: skip
        self.images, self.positions, self.made, self.room = images, positions, made, room
        self._kept: dict[int, Tensor] = {}
        self._rows: dict[int, Tensor] = {}
        """Images of the batches kept, by position."""

    @classmethod
    def of(cls, batches: Sequence[Any]) -> ReadBatches | None:
        """The same batches where each is read by itself, or is a tensor of images like the first; else None."""
        if isinstance(batches, ReadBatches):
            return batches
        if not batches or not all(isinstance(b, Tensor) and b.shape[1:] == batches[0].shape[1:] for b in batches):
            return None
        numbers = iter(range(sum(map(len, batches))))
        return cls(_InMemory(batches), [[next(numbers) for _ in b] for b in batches])

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> ReadBatches: ...
    def __getitem__(self, index: int | slice) -> Tensor | ReadBatches:
        if isinstance(index, slice):
            return ReadBatches(self.images, self.positions[index], self.made)
        if index in self._kept:
            return self._kept[index]
        positions = self.positions[index]
        batch = self.at(positions)
        if batch.nbytes <= self.room:
            self.room -= batch.nbytes
            self._kept[index] = batch
            # A broken image may be left out of what was read.
            self._rows.update(zip(positions, batch, strict=False) if len(batch) == len(positions) else ())
        return batch

    def at(self, positions: Sequence[int]) -> Tensor:
        """The images at some positions: (N, C, *dims)."""
        if self._rows.keys() >= set(positions):
            return torch.stack([self._rows[p] for p in positions])
        batch: Tensor = self.images.__getitems__(list(positions))[0]
        return self.made(batch) if self.made else batch

    def then(self, made: Callable[[Tensor], Tensor], *, room: int = 0) -> ReadBatches:
        """The same with something more made of what was read."""
        first = self.made
        return ReadBatches(self.images, self.positions, (lambda x: made(first(x))) if first else made, room=room)

    def cut(self, positions: Sequence[Sequence[int]]) -> ReadBatches:
        """Other batches of the same images."""
        return ReadBatches(self.images, positions, self.made)


class _InMemory:
    """Images of batches in memory, by position over all of them."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.places = [(batch, i) for batch in batches for i in range(len(batch))]

    def __getitems__(self, positions: Sequence[int]) -> tuple[Tensor]:
        return (torch.stack([batch[i] for batch, i in map(self.places.__getitem__, positions)]).detach(),)


def kept_batches(loader: Iterable[Any], example: Any = None) -> Sequence[Any]:
    """The same as `image_batches` as often as needed: read at each access where the loader can, else in a list."""
    if not isinstance(loader, ReadBatches):
        return list(image_batches(loader, example))

    def alike(images: Tensor) -> Tensor:
        _require_alike(images, example)
        return images

    return loader if example is None else loader.then(alike)


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
    several = isinstance(example, tuple) and len(example) > 1
    if several or (isinstance(example, list) and not is_image_list(example)):
        # ((first, second), target), or the inputs themselves; collated, a tuple has become a list.
        nested = isinstance(batch[0], list | tuple | dict) and not _in_form_of(batch[0], example[0])
        inner = batch[0] if nested else batch
        enough = isinstance(inner, list | tuple) and len(inner) >= len(example)
        if not enough:
            return inner
        return like(
            example,
            [_inputs(x, e) if isinstance(x, Mapping | np.ndarray) else x for x, e in zip(inner, example, strict=False)],
        )
    listed = isinstance(batch, list) and all(isinstance(x, Tensor) and x.dim() == 3 for x in batch)
    # A batch of recordings (N, C, L) has as many sides as an image (C, H, W).
    recordings = example.dim() == 3 if isinstance(example, Tensor) else listed and batch[0].shape[0] > MOST_COLOURS
    if listed and not recordings:
        return batch
    return _inputs(batch[0], example) if isinstance(batch[0], np.ndarray | Mapping) else batch[0]


def _in_form_of(value: Any, example: Any) -> bool:
    """Whether tensors stand in a value's lists, tuples and dicts as in an example's."""
    if isinstance(example, Mapping):
        return isinstance(value, Mapping) and all(k in value and _in_form_of(value[k], x) for k, x in example.items())
    if isinstance(example, list | tuple):
        ours = isinstance(value, list | tuple) and len(value) == len(example)
        return ours and all(map(_in_form_of, value, example))
    return not isinstance(value, list | tuple | Mapping)


def _require_alike(images: Any, example: Any) -> None:
    """Raises GhostsearchError unless inputs have as many tensors as the example, alike in channels and kind."""
    found, wanted = list(tensors(images)), list(tensors(example))
    listed = is_image_list(example)
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
