"""The user's own loaders, in any of FORMS, as (images, target) batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    default_collate,
)  # fmt: skip

from ghostsearch.errors import GhostsearchError, told_as
from ghostsearch.graph.batches import IMAGE_KEYS
from ghostsearch.graph.capture import batch_size
from ghostsearch.models.input import InputSpec

TARGET_KEYS = ("label", "labels", "y", "target", "targets", "mask", "masks", "value", "values")
FORMS = (
    "(images, target), (images, target, …), images alone, or a dict with one of "
    f"{', '.join(IMAGE_KEYS)} and perhaps one of {', '.join(TARGET_KEYS)}"
)

DRAWS = 10
"""Times that a sampler of the user's own is asked for its order."""


def batch_of(batch: Any, classes: Sequence[str] = ()) -> tuple[Any, Any]:
    """Images and target of a batch in one of FORMS; the target is None where there is none.

    The images are (N, C, *dims), a tuple or dict of several inputs, or a list. Names of classes become their numbers.
    Raises GhostsearchError for any other form.
    """
    if isinstance(batch, np.ndarray | Tensor):
        return _tensor(batch), None
    if isinstance(batch, Mapping):
        image = next((key for key in IMAGE_KEYS if key in batch), None)
        if image is None:
            raise GhostsearchError(f"a batch has the keys {', '.join(map(str, batch))[:200]}; expected {FORMS}")
        target = next((key for key in TARGET_KEYS if key in batch), None)
        return _images(batch[image], batch[target] if target else None, classes)
    if isinstance(batch, list | tuple) and batch:
        return _images(batch[0], batch[1] if len(batch) > 1 else None, classes)
    raise GhostsearchError(f"a batch is a {type(batch).__name__}; expected {FORMS}")


def _images(images: Any, target: Any, classes: Sequence[str]) -> tuple[Any, Any]:
    target = _target(target, classes)
    if isinstance(images, list) and images and all(isinstance(x, Tensor) for x in images):
        sized = target if isinstance(target, list | tuple | Tensor) else images[0]
        count = 0 if isinstance(sized, Tensor) and not sized.ndim else len(sized)
        # Collated, a tuple of several inputs becomes a list; a list of images, one per target, stays one.
        if all(x.ndim and len(x) == count for x in images) and not (len(images) == count and images[0].ndim == 3):
            return tuple(images), target
    return _tensor(images), target


def _tensor(value: Any) -> Any:
    """Arrays and lists of numbers as tensors; all else as it is."""
    numbers = isinstance(value, list | tuple) and value and all(isinstance(y, int | float) for y in value)
    if not (numbers or isinstance(value, np.ndarray)):
        return value
    try:
        return torch.as_tensor(value)
    # Text, objects, numbers of more than 64 bits.
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise GhostsearchError(f"a batch holds values that are no numbers for a tensor ({error})") from None


def _target(target: Any, classes: Sequence[str]) -> Any:
    if isinstance(target, str):
        target = [target]
    if isinstance(target, list | tuple) and target and all(isinstance(name, str) for name in target):
        unknown = sorted(set(target) - set(classes))
        if unknown:
            raise GhostsearchError(
                f"the targets are text such as {unknown[0]!r}, and the data name "
                f"{'no classes' if not classes else f'{len(classes)} other classes'}; give class numbers, "
                "or a data set with `classes`"
            )
        return torch.tensor([classes.index(name) for name in target])
    return _tensor(target)


@dataclass(frozen=True)
class Collate:
    """A loader's own collating, then `batch_of`; a class, so that worker processes can be sent it."""

    collate: Callable[[Any], Any]
    classes: tuple[str, ...]

    def __call__(self, samples: Any) -> tuple[Any, Any]:
        # A collate function of the user's own, or samples of several shapes, may raise anything.
        with told_as(lambda why: f"samples do not make a batch ({why})"):
            batch = self.collate(samples)
        return batch_of(batch, self.classes)


class Batches:
    """An iterable of batches that is no DataLoader, each in one of FORMS; read from its start each time."""

    def __init__(self, batches: Iterable[Any], classes: tuple[str, ...], *, training: bool) -> None:
        self.batches, self.classes, self.training = batches, classes, training

    def __len__(self) -> int:
        """The number of batches; raises TypeError where that is not known."""
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        before = 0
        for batch in self.batches:
            images, target = batch_of(batch, self.classes)
            count = batch_size(images)
            # BatchNorm cannot train on a last batch of one image.
            if not (self.training and count == 1 and before > 1):
                yield images, target
            before = count


def adapted(loader: Any, split: str, input_spec: InputSpec, *, batch: int, classes: tuple[str, ...] = ()) -> Any:
    """A loader of a split as one of (images, target) batches: DataLoaders stay such, data sets become such.

    Validation and test images are read in the same order each time: models are compared image by image.
    Raises GhostsearchError for what can be read only once or draws other images each time, or is no loader at all.
    """
    training = split == "train"
    if type(loader) is DataLoader:
        return _again(loader, split, classes)
    if isinstance(loader, DataLoader) and not training and not isinstance(loader.dataset, IterableDataset):
        sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        if in_order(sampler, split) is not sampler:
            raise GhostsearchError(
                f"the {split} loader is a {type(loader).__name__} that shuffles; give it shuffle=False"
            )
    if (
        isinstance(loader, Sequence)
        and not isinstance(loader, str)
        and len(loader)
        and _is_sample(loader[0], input_spec)
    ):
        loader = _Listed(loader)
    if isinstance(loader, IterableDataset):
        return _again(DataLoader(loader, batch, collate_fn=default_collate), split, classes)
    if isinstance(loader, Dataset):
        return _again(DataLoader(loader, batch, shuffle=training), split, classes)
    if isinstance(loader, Iterator):
        raise GhostsearchError(
            f"the {split} loader can be read only once; give a DataLoader, a Dataset or a list of batches"
        )
    if not isinstance(loader, Iterable) or isinstance(loader, str | Tensor):
        raise GhostsearchError(
            f"the {split} loader is a {type(loader).__name__}; give a DataLoader, a Dataset or a list of batches"
        )
    return Batches(loader, classes, training=training)


class _Listed(Dataset[Any]):
    """A list of samples as a data set."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def _is_sample(first: Any, input_spec: InputSpec) -> bool:
    """Whether the first item of a list is one image and not a batch: it has as many dimensions as one input."""
    try:
        images, _ = batch_of(first)
    except GhostsearchError:
        return False
    return isinstance(images, Tensor) and images.ndim == len(input_spec.shape)


def _again(loader: DataLoader[Any], split: str, classes: tuple[str, ...]) -> DataLoader[Any] | Batches:
    """The same loader with `batch_of` behind its collating; in training a last batch of one image is dropped."""
    assert loader.collate_fn is not None
    shared: dict[str, Any] = {
        "num_workers": loader.num_workers, "collate_fn": Collate(loader.collate_fn, classes),
        "pin_memory": loader.pin_memory, "timeout": loader.timeout, "worker_init_fn": loader.worker_init_fn,
        "generator": loader.generator, "multiprocessing_context": loader.multiprocessing_context,
    }  # fmt: skip
    dataset, size, training = loader.dataset, loader.batch_size, split == "train"
    if isinstance(dataset, IterableDataset):
        # How long the last batch will be is not known before.
        made: DataLoader[Any] = DataLoader(dataset, size, drop_last=loader.drop_last, **shared)
        return Batches(made, classes, training=True) if training else made
    if size is None and loader.batch_sampler is not None:
        batches = loader.batch_sampler if training else in_order(loader.batch_sampler, split)
        made = DataLoader(dataset, batch_sampler=batches, **shared)
        return Batches(made, classes, training=True) if training else made
    sampler: Any = loader.sampler if training else in_order(loader.sampler, split)
    if size is None:
        return DataLoader(dataset, None, sampler=sampler, **shared)
    images = len(sampler) if hasattr(sampler, "__len__") else 0
    single = training and size > 1 and images > 1 and images % size == 1
    return DataLoader(dataset, size, sampler=sampler, drop_last=loader.drop_last or single, **shared)


def in_order(sampler: Any, split: str) -> Any:
    """A sampler of the same places (or batches of them) that goes through them alike each time; itself where it does.

    Raises GhostsearchError where it draws other ones each time.
    """
    if isinstance(sampler, SequentialSampler):
        return sampler
    if type(sampler) is BatchSampler:
        inner = in_order(sampler.sampler, split)
        return sampler if inner is sampler.sampler else BatchSampler(inner, sampler.batch_size, sampler.drop_last)
    with torch.random.fork_rng(devices=[]):
        first = places(sampler)
        # Few batches may come twice in the same order by chance.
        other = next((drawn for drawn in (places(sampler) for _ in range(DRAWS)) if drawn != first), first)
    if first == other and not isinstance(sampler, RandomSampler | SubsetRandomSampler):
        return sampler
    if sorted(first) != sorted(other):
        raise GhostsearchError(
            f"the {split} loader draws other images each time ({type(sampler).__name__}); models are compared image by "
            "image: give a loader that reads the same ones"
        )
    return sorted(first)


def places(sampler: Iterable[Any], most: int | None = None) -> list[Any]:
    """The places in a set, or lists of them, that a sampler draws next, `most` of them.

    Raises GhostsearchError for whatever a sampler of the user's own raises.
    """
    with told_as(lambda why: f"a loader's {type(sampler).__name__} draws no images ({why})"):
        return [place.tolist() if hasattr(place, "tolist") else place for place in islice(sampler, most)]


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators of its own that a loader, its sampler or its batch sampler draws from."""
    found, parts = [], [loader]
    # A batch sampler holds a sampler, `Batches` a loader.
    for part in parts:
        if isinstance(getattr(part, "generator", None), torch.Generator):
            found.append(part.generator)
        inner = (getattr(part, name, None) for name in ("batches", "batch_sampler", "sampler"))
        parts += [x for x in inner if x is not None and not any(x is seen for seen in parts)]
    return found


def classes_of(loader: Any) -> tuple[str, ...]:
    """The class names that a loader's data set carries, as torchvision's do."""
    dataset = getattr(loader, "dataset", loader)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return tuple(map(str, getattr(dataset, "classes", None) or ()))
