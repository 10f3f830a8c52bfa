"""Data sets by name, as loaders of normalised batches for training, selection and the final test."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from ghostsearch.data.boxes import read_coco, read_voc
from ghostsearch.data.calibration import Calibration, calibration_batches, drawn, first_batch
from ghostsearch.data.folder import read_folder
from ghostsearch.data.images import refuse_channels
from ghostsearch.data.options import FORMS
from ghostsearch.data.packaged import read_digits, read_hugging_face, read_torchvision
from ghostsearch.data.sets import (
    FILE_KINDS,
    ImageSet,
    StreamSet,
    decode,
    find_unreadable,
    holds_arrays,
    labels_of,
    most_shift,
)
from ghostsearch.data.source import SPLITS, Source, fingerprint, only, shortened, warnings_about, without
from ghostsearch.data.tables import read_arrays, read_csv
from ghostsearch.data.user_loaders import adapted, classes_of
from ghostsearch.errors import GhostsearchError, GhostsearchWarning, told_as
from ghostsearch.files import home_expanded
from ghostsearch.graph.batches import BATCH
from ghostsearch.graph.capture import batch_size
from ghostsearch.machine import usable_cores
from ghostsearch.shown import Progress
from ghostsearch.usercode import import_object, is_object_name

if TYPE_CHECKING:
    from ghostsearch.models.input import InputSpec

MEMORY_LIMIT_BYTES = 2**30
"""Sets that need no more than this, decoded to bytes at the model's size, stay in memory."""

NAMED_BROKEN = 3
KINDS = ("folder", "csv", "voc", "coco", "torchvision", "huggingface", "arrays")
"""What the name of a set on disk begins with."""


@dataclass(frozen=True)
class Data:
    """Loaders of (images, target) batches, `images: (N, C, *dims)` normalised for the model."""

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
    kind: str = ""
    """What a target is, see `ghostsearch.data.source.Source.kind`; empty for loaders of the user's own."""
    warnings: tuple[str, ...] = ()
    """What the numbers of images mean for the scores."""
    cut: tuple[str, ...] = ()
    """Splits that were cut from the training images."""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """What each split is known by when a run goes on; empty for loaders of the user's own."""

    @property
    def labelled(self) -> bool:
        """Whether there are targets; without, models are scored by their agreement with the baseline."""
        return self.kind != "none"


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
    trains: bool = True,
    progress: Progress | None = None,
) -> Data:
    """The data set that `spec` names, resized and normalised for a model's input.

    One of FORMS; nothing is downloaded. `package.module:function` runs that code: it is called with those of `input`,
    `batch` and `seed` that it takes and returns train, validation and test loaders. `train_images` and `test_images`
    keep only so many of a split, stratified. Sets up to MEMORY_LIMIT_BYTES are decoded once; larger ones stream through
    `workers` processes (default: one per core). Where nothing `trains`, a split without an image of its own holds all
    images. Broken images and rare classes are reported as GhostsearchWarning.
    Raises GhostsearchError for an unknown or unreadable set, an empty class or split, a bad list.
    """
    if batch < 1:
        raise GhostsearchError(f"batch must be at least 1, got {batch}")
    source = _source(spec, input, seed, validation_list)
    if source is None:
        if train_images or test_images:
            raise GhostsearchError(
                f"{spec}: loaders of your own give the images that they give; leave --train-images out"
            )
        return _user_data(spec, input, batch, seed)
    for split, count in (("train", train_images), ("test", test_images)):
        source = shortened(source, split, count, seed)
    for split in SPLITS:
        if source.splits[split]:
            continue
        if not trains:
            everything = list(range(len(source.names)))
            note = f"{split}: all {len(everything)} images, since there are too few to split"
            source = replace(source, splits={**source.splits, split: everything}, notes=(*source.notes, note))
        else:
            raise GhostsearchError(
                f"{spec}: {len(source.names)} images in {max(1, len(source.classes))} classes leave none for the "
                f"{split} split, since every class keeps one to train on; add images, or give the split a folder"
            )
    sets = _read(source, input, workers, progress)
    made = {split: _loader(sets.make(split), split, batch, seed, sets.workers) for split in SPLITS}
    about = warnings_about(sets.source)
    for text in (*about, *_told(sets.broken, len(source.names))):
        warnings.warn(f"{spec}: {text}", GhostsearchWarning, stacklevel=2)
    return Data(
        spec, **made, classes=source.classes, broken=sets.broken, notes=source.notes, kind=source.kind, warnings=about,
        cut=source.cut, fingerprint=fingerprint(source),
    )  # fmt: skip


def load_calibration(
    spec: str, *, input: InputSpec, images: int = 512, seed: int = 0, progress: Progress | None = None
) -> Calibration:
    """Images of a data set to fit or calibrate on: training images, or all where they carry no labels.

    No split and no label is needed, and no other image is decoded but those of more than 8 bits, for their range.
    Broken ones are reported as GhostsearchWarning. Raises GhostsearchError for an unknown, unreadable or empty set.
    """
    source = _source(spec, input, seed, None)
    if source is None:
        batches = calibration_batches(_user_data(spec, input, BATCH, seed), images, seed=seed)
        return Calibration(batches, sum(map(batch_size, batches)))
    positions = source.splits["train"] if source.kind != "none" else list(range(len(source.names)))
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed))[:images].tolist()
    chosen = only(replace(source, splits={"train": [positions[i] for i in order]}, kind="none", open_target=None))
    sets = _read(chosen, input, 0, progress)
    for text in _told(sets.broken, len(order)):
        warnings.warn(f"{spec}: {text}", GhostsearchWarning, stacklevel=2)
    train = sets.make("train")
    return Calibration(drawn(train, images, seed), len(train), sets.broken)


def read_fingerprint(
    spec: str, *, input: InputSpec, seed: int, validation_list: str | None = None, train_images: int | None = None
) -> dict[str, str]:
    """What the splits of a set would be known by, as `Data.fingerprint`; no image is decoded and no code of a user run.

    Empty for the user's own code. Raises GhostsearchError as `load_data` does.
    """
    if runs_code(spec):
        return {}
    source = _source(spec, input, seed, validation_list)
    return fingerprint(shortened(source, "train", train_images, seed)) if source else {}


def place_of(spec: str) -> tuple[str, ...]:
    """What two names of the same set have in common, however their paths are spelled."""
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        return (spec,)
    name, _, path = rest.partition("@") if kind == "torchvision" else ("", "", rest)
    return kind, name, str(home_expanded(Path(path)).resolve())


def runs_code(spec: str) -> bool:
    """Whether a data set of this name is the user's own code."""
    return is_object_name(spec) and spec.partition(":")[0] not in KINDS


def _told(broken: Sequence[str], images: int) -> list[str]:
    if not broken:
        return []
    named = "; ".join(broken[:NAMED_BROKEN]) + "; …" * (len(broken) > NAMED_BROKEN)
    return [f"{len(broken)} of {images} images are broken and left out: {named}"]


def _source(spec: str, input_spec: InputSpec, seed: int, validation_list: str | Path | None) -> Source | None:
    """The set that a name stands for; None for the user's own code."""
    kind, _, rest = spec.partition(":")
    if validation_list is not None and kind != "folder":
        raise GhostsearchError(f"a list of validation images goes with folder:PATH, not with {spec!r}")
    if kind == "arrays":
        return read_arrays(Path(rest), input_spec, seed)
    if kind not in KINDS and spec != "digits":
        if not is_object_name(spec):
            wanted = f"folder:{spec}" if Path(spec).is_dir() else FORMS
            raise GhostsearchError(f"no data set {spec!r}; write {wanted}")
        return None
    refuse_channels(input_spec)
    if spec == "digits":
        return read_digits(seed)
    if kind == "folder":
        return read_folder(Path(rest), input_spec, seed, Path(validation_list) if validation_list else None)
    if kind in ("voc", "coco"):
        return (read_voc if kind == "voc" else read_coco)(Path(rest), seed)
    if kind == "csv":
        return read_csv(Path(rest), input_spec, seed)
    if kind == "huggingface":
        return read_hugging_face(Path(rest), seed)
    name, _, root = rest.partition("@")
    if not root:
        raise GhostsearchError(f"data {spec!r} names no folder; write torchvision:CIFAR10@ROOT")
    return read_torchvision(name, Path(root), seed)


@dataclass(frozen=True)
class _Sets:
    """A source's data sets by split, without the images that turned out broken."""

    source: Source
    broken: tuple[str, ...]
    workers: int
    make: Callable[[str], ImageSet | StreamSet]


def _read(source: Source, input_spec: InputSpec, workers: int | None, progress: Progress | None) -> _Sets:
    size = len(source.names) * input_spec.channels * torch.Size(input_spec.dims).numel()
    if source.kind in FILE_KINDS or (size > MEMORY_LIMIT_BYTES and not holds_arrays(source)):
        broken = find_unreadable(source, progress)
        source = without(source, broken)
        workers = usable_cores() if workers is None else workers

        def make(split: str) -> ImageSet | StreamSet:
            return StreamSet(source, source.splits[split], input_spec, augment=split == "train")

    else:
        images, broken = decode(source, input_spec, progress)
        source, workers = without(source, broken), 0
        shift = 0 if images.is_floating_point() else most_shift(input_spec)

        def make(split: str) -> ImageSet | StreamSet:
            positions, training = source.splits[split], split == "train"
            return ImageSet(
                images[torch.tensor(positions)], labels_of(source, positions), input_spec,
                shift=shift if training else 0, flips=training and source.flips,
            )  # fmt: skip

    reasons = tuple(f"{source.names[i]}: {why}" for i, why in sorted(broken.items()))
    return _Sets(source, reasons, workers, make)


def _loader(dataset: ImageSet | StreamSet, split: str, batch: int, seed: int, workers: int) -> DataLoader[Any]:
    training = split == "train"
    return DataLoader(
        dataset,
        # Without gradients a batch of small images may be larger: fewer calls, same scores.
        batch_size=batch if training or max(dataset.input_spec.dims) > 64 else max(batch, 256),
        shuffle=training,
        # BatchNorm cannot train on a last batch of one image, and a short one skews its statistics.
        drop_last=training and len(dataset) >= batch,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=_as_it_is,
        # Workers live for an epoch: kept longer, they would draw on, and no seed could bring an epoch back.
        num_workers=workers,
    )


def _as_it_is(batch: Any) -> Any:
    """The data set yields whole batches, so there is nothing to collate."""
    return batch


def _user_data(spec: str, input_spec: InputSpec, batch: int, seed: int) -> Data:
    function = import_object(spec, "data")
    if not callable(function):
        raise GhostsearchError(f"data {spec!r} is a {type(function).__name__}, not a function that returns loaders")
    offered = {"input": input_spec, "batch": batch, "seed": seed}
    takes = inspect.signature(function).parameters
    with told_as(lambda why: f"data {spec!r} failed: {why}"):
        made = function(**{key: value for key, value in offered.items() if key in takes})
    return own_data(made, spec, input_spec, batch=batch)


def own_data(made: Any, name: str, input_spec: InputSpec, *, batch: int = 64) -> Data:
    """Three loaders or data sets of the user's own (train, validation, test) as Data.

    Each is a DataLoader, a Dataset, or a list or other iterable of batches; `ghostsearch.data.user_loaders.FORMS` says
    what a batch may be. Raises GhostsearchError for anything else, naming the split.
    """
    classes: tuple[str, ...] = ()
    if isinstance(made, Data):
        classes, loaders = made.classes, (made.train, made.validation, made.test)
    elif isinstance(made, Mapping) and set(SPLITS) <= set(made):
        loaders = tuple(made[split] for split in SPLITS)
    elif isinstance(made, tuple | list) and len(made) == 3:
        loaders = tuple(made)
    else:
        raise GhostsearchError(f"data {name!r} must return three loaders (train, validation, test), or a Data")
    classes = classes or classes_of(loaders[0])
    ready: dict[str, Any] = {
        split: adapted(loader, split, input_spec, batch=batch, classes=classes)
        for split, loader in zip(SPLITS, loaders, strict=True)
    }
    first = first_batch(ready["train"])
    labelled = first is None or first[1] is not None
    base = made if isinstance(made, Data) else Data(name, **ready)
    kind = base.kind or ("" if labelled else "none")
    return replace(base, name=name, **ready, classes=classes, kind=kind)
