"""Images without labels, for fitting and calibrating, and small samples of a loader's batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)

from ghostsearch.data.sets import ImageSet, StreamSet
from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.batches import BATCH, ReadBatches
from ghostsearch.graph.capture import batch_size, moved


@dataclass(frozen=True)
class Calibration:
    """Images that weights are fitted on, or ranges are taken from; without labels."""

    batches: Sequence[Any]
    """(N, C, *dims) each, or tuples or dicts of several inputs."""
    images: int
    """How many there are in all, perhaps fewer than requested."""
    broken: tuple[str, ...] = ()
    """Files that were left out, each with the reason."""


def drawn(dataset: Any, images: int, seed: int, batch: int = BATCH) -> ReadBatches:
    """Batches of `images` images of a set, drawn by the seed, without augmentation."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:images].tolist()
    return ReadBatches(dataset.unaugmented(), [order[i : i + batch] for i in range(0, len(order), batch)])


def calibration_batches(data: Any, images: int = 512, *, seed: int = 0, batch: int = BATCH) -> Sequence[Any]:
    """Batches of `images` training images (fewer where there are not so many) without augmentation or labels.

    Those of a folder or packaged set are read at each access; a loader of the user's own is read once and kept, on the
    CPU. The same seed draws the same images, but of a loader whose order is not known before. Raises GhostsearchError
    when the training split is empty.
    """
    dataset = getattr(data.train, "dataset", None)
    batches: Sequence[Any]
    if isinstance(dataset, ImageSet | StreamSet):
        batches = drawn(dataset, images, seed, batch)
    else:
        with torch.random.fork_rng(devices=[]):
            # For a set that augments at random.
            torch.manual_seed(seed)
            batches = list(_first_images(_drawn_loader(data.train, images, seed), images))
    if not batches:
        raise GhostsearchError(f"{data.name} has no training images to calibrate on")
    return batches


def _drawn_loader(loader: Any, images: int, seed: int) -> Iterable[Any]:
    """A loader of so many of a loader's images, drawn by the seed; the loader itself where their order is not known."""
    if not isinstance(loader, DataLoader) or (read := positions(loader)) is None:
        return loader
    order = torch.randperm(len(read), generator=torch.Generator().manual_seed(seed))[:images].tolist()
    chosen = Subset(loader.dataset, [read[i] for i in order])
    return DataLoader(chosen, loader.batch_size, collate_fn=loader.collate_fn)


def _first_images(loader: Iterable[Any], images: int) -> Iterator[Any]:
    held = 0
    for first, *_ in loader:
        yield moved(_cut(first, images - held), "cpu")
        held += batch_size(first)
        if held >= images:
            return


def _cut(images: Any, count: int) -> Any:
    """The first images of a batch, inside any structure; of a list, its first items."""
    if isinstance(images, dict):
        return {key: _cut(item, count) for key, item in images.items()}
    return tuple(_cut(item, count) for item in images) if isinstance(images, tuple) else images[:count]


def images_within(values: int, example: Any, most: int) -> int:
    """How many images of an example's size, which is a batch of one, hold at most so many values; 1 to `most`."""
    return max(1, min(most, values // example.numel())) if isinstance(example, Tensor) else most


def spread_batches(loader: Iterable[Any], images: int, *, size: int | None = None) -> list[Any]:
    """Batches of `images` images evenly spaced over those that a loader reads; of one without positions the first.

    The first alone would be of one class where a folder is read class by class. size: images in each, where that is
    less than the loader's own.
    """
    if isinstance(loader, DataLoader) and (read := positions(loader)) is not None:
        count = min(images, len(read))
        places = Subset(loader.dataset, [read[i * len(read) // count] for i in range(count)])
        size = min(loader.batch_size or 1, size or images)
        loader = DataLoader(places, batch_size=size, collate_fn=loader.collate_fn)
    batches, held = [], 0
    for batch in loader:
        batches.append(batch)
        held += batch_size(batch[0])
        if held >= images:
            break
    return batches


def positions(loader: DataLoader[Any]) -> Sequence[int] | None:
    """Which images of its set a loader reads, where that is known without drawing; a split may be a part of a set."""
    # Without a batch sampler the items of the set are whole batches.
    if isinstance(loader.dataset, IterableDataset) or type(loader.batch_sampler) is not BatchSampler:
        return None
    sampler: Any = loader.batch_sampler.sampler
    if isinstance(sampler, SequentialSampler | RandomSampler):
        return range(len(loader.dataset))  # type: ignore[arg-type]
    chosen = sampler.indices if isinstance(sampler, SubsetRandomSampler) else sampler
    return chosen if isinstance(chosen, Sequence) else None


def first_batch(loader: Iterable[Any], images: int = 2) -> Any:
    """A small batch of a loader, without changing its shuffling or the global random state; None where it is empty."""
    with torch.random.fork_rng(devices=[]):
        generator = getattr(loader, "generator", None)
        state = generator.get_state() if generator is not None else None
        try:
            return next(iter(spread_batches(loader, images)), None)
        finally:
            if generator is not None and state is not None:
                generator.set_state(state)
