"""Data sets by name, as loaders of normalised batches for training, selection and the final test."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from ghostsearch.data.folder import read_folder, without
from ghostsearch.data.images import ImageSource
from ghostsearch.data.memory import ImageSet, decode
from ghostsearch.data.packaged import read_digits, read_torchvision
from ghostsearch.data.splits import stratified_split
from ghostsearch.data.stream import StreamSet, find_unreadable
from ghostsearch.errors import GhostsearchError
from ghostsearch.usercode import import_object, is_object_name

if TYPE_CHECKING:
    from PIL.Image import Image

    from ghostsearch.models.load import InputSpec

Progress = Callable[[int, int, str], None]

MEMORY_LIMIT_BYTES = 2**30
"""Sets that need no more than this, decoded to bytes at the model's size, stay in memory."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Data:
    """Loaders of (images, target) batches, `images: (N, C, H, W)` normalised for the model."""

    name: str
    train: Iterable[Any]
    """Shuffled and augmented."""
    validation: Iterable[Any]
    """Selects among models."""
    test: Iterable[Any]
    """Read once, at the end."""
    classes: tuple[str, ...] = ()
    """Empty when the images carry no class labels."""
    broken: tuple[str, ...] = ()
    """Files that were left out, each with the reason."""
    notes: tuple[str, ...] = ()
    """How the splits came about."""


def load_data(
    spec: str,
    *,
    input: InputSpec,
    batch: int = 64,
    seed: int = 0,
    validation_list: str | Path | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Data:
    """The data set that `spec` names, resized and normalised for a model's input.

    `digits`, `folder:PATH`, `torchvision:NAME@ROOT` (already on disk), or `package.module:function`, which
    runs that code: it is called with those of `input`, `batch` and `seed` that it takes and returns train,
    validation and test loaders. `train_images` and `test_images` keep only so many of a split, stratified. Sets
    up to MEMORY_LIMIT_BYTES are decoded once; larger ones stream through `workers` processes (default: one a core).
    Raises GhostsearchError for an unknown or unreadable set, an empty class, a bad list.
    """
    if batch < 1:
        raise GhostsearchError(f"batch must be at least 1, got {batch}")
    kind, _, rest = spec.partition(":")
    if validation_list is not None and kind != "folder":
        raise GhostsearchError(f"a list of validation images goes with folder:PATH, not with {spec!r}")
    if kind not in ("folder", "torchvision") and spec != "digits":
        return _user_data(spec, {"input": input, "batch": batch, "seed": seed})
    if input.channels not in (1, 3):
        raise GhostsearchError(
            f"the model takes {input.channels} channels, images have 1 or 3; "
            "give loaders of your own by package.module:function"
        )
    if spec == "digits":
        source = read_digits(seed)
    elif kind == "folder":
        source = read_folder(Path(rest), input, seed, Path(validation_list) if validation_list else None)
    else:
        name, _, root = rest.partition("@")
        if not root:
            raise GhostsearchError(f"data {spec!r} names no folder; write torchvision:CIFAR10@ROOT")
        source = read_torchvision(name, Path(root), seed)
    for split, count in (("train", train_images), ("test", test_images)):
        source = _shortened(source, split, count, seed)
    return _loaders(spec, source, input, batch, seed, workers, progress)


class ReadBatches(Sequence[Tensor]):
    """Batches of images of a set by position, read anew each time one is looked at, so none stays in memory."""

    def __init__(self, images: Any, positions: Sequence[Sequence[int]]) -> None:
        self.images, self.positions = images, positions

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> ReadBatches: ...
    def __getitem__(self, index: int | slice) -> Tensor | ReadBatches:
        if isinstance(index, slice):
            return ReadBatches(self.images, self.positions[index])
        batch: Tensor = self.images.__getitems__(self.positions[index])[0]
        return batch


def calibration_batches(data: Data, images: int = 512, *, seed: int = 0, batch: int = 64) -> Sequence[Tensor]:
    """Batches of `images` training images (fewer where there are not so many) without augmentation or labels.

    Those of a folder or packaged set are read when looked at; a loader of the user's own is read once and kept. The
    same seed draws the same images. Raises GhostsearchError when the training split is empty.
    """
    dataset = getattr(data.train, "dataset", None)
    batches: Sequence[Tensor]
    if isinstance(dataset, ImageSet | StreamSet):
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:images].tolist()
        batches = ReadBatches(dataset.baseline(), [order[i : i + batch] for i in range(0, len(order), batch)])
    else:
        batches = list(_first_images(data.train, images))
    if not batches:
        raise GhostsearchError(f"{data.name} has no training images to calibrate on")
    return batches


def images_within(values: int, example: Any, most: int) -> int:
    """How many images of an example's size, which is a batch of one, hold at most so many values; 1 to `most`."""
    return max(1, min(most, values // example.numel())) if isinstance(example, Tensor) else most


def _first_images(loader: Iterable[Any], images: int) -> Iterator[Tensor]:
    held = 0
    for first, *_ in loader:
        yield first[: images - held]
        held += len(first)
        if held >= images:
            return


def spread_batches(loader: Iterable[Any], images: int, *, size: int | None = None) -> list[Any]:
    """Batches of `images` images evenly spaced over a loader's set; of a loader without positions the first ones.

    The first alone would be of one class where a folder is read class by class. size: images in each, where that is
    less than the loader's own.
    """
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        total = len(loader.dataset)  # type: ignore[arg-type]
        count = min(images, total)
        places = Subset(loader.dataset, [i * total // count for i in range(count)])
        size = min(loader.batch_size or 1, size or images)
        loader = DataLoader(places, batch_size=size, collate_fn=loader.collate_fn)
    batches, held = [], 0
    for batch in loader:
        batches.append(batch)
        held += len(batch[-1])
        if held >= images:
            break
    return batches


def _shortened(source: ImageSource, split: str, count: int | None, seed: int) -> ImageSource:
    """The source with only `count` images in a split; the other positions are not even decoded."""
    before = source.splits[split]
    if count is not None and count < 1:
        raise GhostsearchError(f"the number of {split} images must be at least 1, got {count}")
    if count is None or count >= len(before):
        return source
    _, taken = stratified_split([source.labels[i] for i in before], count, seed, keep=0)
    used = sorted({before[i] for i in taken} | {i for s in SPLITS if s != split for i in source.splits[s]})
    new = {old: i for i, old in enumerate(used)}
    return replace(
        source,
        names=[source.names[i] for i in used],
        labels=[source.labels[i] for i in used],
        open=partial(_open_used, source.open, used),
        splits={s: [new[i] for i in source.splits[s] if i in new] for s in SPLITS},
        notes=(*source.notes, f"{split}: {count} of {len(before)} images, stratified, seed {seed}"),
    )


def _open_used(opener: Callable[[int], Image], used: list[int], i: int) -> Image:
    return opener(used[i])


def _loaders(
    spec: str,
    source: ImageSource,
    input_spec: InputSpec,
    batch: int,
    seed: int,
    workers: int | None,
    progress: Progress | None,
) -> Data:
    needed = len(source.names) * input_spec.channels * input_spec.size**2
    in_memory = needed <= MEMORY_LIMIT_BYTES
    if in_memory:
        images, broken = decode(source, input_spec, progress)
        source = without(source, broken)
        labels = torch.tensor(source.labels)
        shift = max(1, input_spec.size // 8)
    else:
        broken = find_unreadable(source, progress)
        source = without(source, broken)
        workers = (os.cpu_count() or 1) if workers is None else workers

    def dataset(split: str) -> ImageSet | StreamSet:
        positions, training = source.splits[split], split == "train"
        if not in_memory:
            return StreamSet(source, positions, input_spec, augment=training)
        chosen = torch.tensor(positions)
        return ImageSet(
            images[chosen], labels[chosen], mean=input_spec.mean, std=input_spec.std,
            shift=shift if training else 0, flips=training and source.flips,
        )  # fmt: skip

    made = {split: _loader(dataset(split), split, batch, seed, 0 if in_memory else workers or 0) for split in SPLITS}
    reasons = tuple(f"{source.names[i]}: {why}" for i, why in sorted(broken.items()))
    return Data(spec, **made, classes=source.classes, broken=reasons, notes=source.notes)


def _loader(dataset: ImageSet | StreamSet, split: str, batch: int, seed: int, workers: int) -> DataLoader[Any]:
    training = split == "train"
    size = dataset.images.shape[-1] if isinstance(dataset, ImageSet) else dataset.input_spec.size
    return DataLoader(
        dataset,
        # Without gradients a batch of small images may be larger: fewer calls, same scores.
        batch_size=batch if training or size > 64 else max(batch, 256),
        shuffle=training,
        # BatchNorm cannot train on a last batch of one image, and a short one skews its statistics.
        drop_last=training and len(dataset) >= batch,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=_as_it_is,
        # Workers live for an epoch: kept longer, they would draw on, and no seed could bring an epoch back.
        num_workers=workers,
    )


def _as_it_is(batch: Any) -> Any:
    """The data set gives out whole batches, so there is nothing to collate."""
    return batch


def _user_data(spec: str, offered: Mapping[str, Any]) -> Data:
    if not is_object_name(spec):
        raise GhostsearchError(
            f"no data set {spec!r}; write digits, folder:PATH, torchvision:CIFAR10@ROOT or package.module:function"
        )
    function = import_object(spec, "data")
    if not callable(function):
        raise GhostsearchError(f"data {spec!r} is a {type(function).__name__}, not a function that returns loaders")
    takes = inspect.signature(function).parameters
    made = function(**{key: value for key, value in offered.items() if key in takes})
    if isinstance(made, Data):
        return replace(made, name=spec)
    if isinstance(made, Mapping) and set(SPLITS) <= set(made):
        made = tuple(made[split] for split in SPLITS)
    if not (isinstance(made, tuple | list) and len(made) == 3):
        raise GhostsearchError(f"data {spec!r} must return three loaders (train, validation, test), or a Data")
    dataset = getattr(made[0], "dataset", None)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    train, validation, test = made
    classes = tuple(map(str, getattr(dataset, "classes", ())))
    return Data(spec, train, validation, test, classes=classes)
