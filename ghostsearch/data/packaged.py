"""Data sets by name: scikit-learn's digits, and what torchvision and Hugging Face's datasets read from disk."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import ConcatDataset

from ghostsearch.data.folder import SPLIT_OF
from ghostsearch.data.images import deep_range
from ghostsearch.data.source import SPLITS, Source, with_splits
from ghostsearch.data.splits import stratified_split
from ghostsearch.errors import GhostsearchError, MissingExtraError, text_of
from ghostsearch.files import home_expanded

if TYPE_CHECKING:
    from PIL.Image import Image

PROBED = 256
MIRRORLESS = ("MNIST", "SVHN", "GTSRB", "USPS", "Omniglot", "RenderedSST2")
"""Parts of names of sets of characters or signs: a mirrored one is another or none."""


def read_digits(seed: int) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8×8 grey, split 60/20/20 by class and seed."""
    from sklearn.datasets import load_digits

    loaded: Any = load_digits()
    pixels = np.round(loaded.images * (255 / 16)).astype(np.uint8)
    labels = [int(label) for label in loaded.target]
    rest, test = stratified_split(labels, 360, seed)
    kept, taken = stratified_split([labels[i] for i in rest], 360, seed)
    return Source(
        names=[f"digit {i}" for i in range(len(labels))],
        open=partial(_open_array, pixels),
        targets=labels,
        splits={"train": [rest[i] for i in kept], "validation": [rest[i] for i in taken], "test": test},
        kind="class",
        classes=tuple(str(name) for name in loaded.target_names),
        notes=(f"test and validation: 360 of 1,797 images each, stratified, seed {seed}",),
        cut=("test", "validation"),
    )


def read_torchvision(name: str, root: Path, seed: int) -> Source:
    """A labelled torchvision set under `root` (nothing is downloaded); validation is cut from training.

    Raises GhostsearchError when there is no such set, it is not there, or it has no training and test split.
    """
    train, test = _open_pair(name, home_expanded(root))
    labels = [*_labels(train), *_labels(test)]
    classes = tuple(str(c) for c in getattr(train, "classes", ())) or tuple(map(str, range(max(labels) + 1)))
    open_image = partial(_open_row, ConcatDataset([train, test]), 0)
    source = Source(
        names=[f"{name} train {i}" for i in range(len(train))] + [f"{name} test {i}" for i in range(len(test))],
        open=open_image,
        targets=labels,
        kind="class",
        classes=classes,
        flips=not any(part in name for part in MIRRORLESS) and open_image(0).mode != "L",
    )
    own = {"train": list(range(len(train))), "test": list(range(len(train), len(labels)))}
    return with_splits(source, own, seed)


def read_hugging_face(folder: Path, seed: int) -> Source:
    """A set that Hugging Face's `datasets` saved to disk: its image column, and its label column where there is one.

    Raises MissingExtraError without that package, GhostsearchError for what is no such set.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("Hugging Face's datasets", "datasets") from None
    try:
        found: Any = datasets.load_from_disk(str(home_expanded(folder)))
    # Its readers raise errors of many kinds for what is no such folder.
    except Exception as error:  # noqa: BLE001
        raise GhostsearchError(f"{folder}: no data set that datasets.save_to_disk wrote ({text_of(error)})") from None
    given: dict[str, Any] = dict(found) if isinstance(found, dict) else {"train": found}
    parts = {SPLIT_OF.get(name.lower(), name): part for name, part in given.items()}
    if "train" not in parts:
        raise GhostsearchError(f"{folder}: has the splits {', '.join(parts)}, no train")
    features = parts["train"].features
    images = [n for n, f in features.items() if isinstance(f, datasets.Image)]
    labels = [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)]
    if not images:
        raise GhostsearchError(f"{folder}: no column holds images, found {', '.join(features)}")
    parts = {split: part for split, part in parts.items() if split in SPLITS}
    starts = np.cumsum([0, *map(len, parts.values())]).tolist()
    own = {s: list(range(a, b)) for s, a, b in zip(parts, starts, starts[1:], strict=False)}
    open_image = partial(_open_row, ConcatDataset(list(parts.values())), images[0])
    source = Source(
        names=[f"{split} {i}" for split, part in parts.items() for i in range(len(part))],
        open=open_image,
        top=_range_of_rows(open_image, starts[-1]),
        targets=_label_column(folder, parts, labels[0]) if labels else (),
        kind="class" if labels else "none",
        classes=tuple(features[labels[0]].names) if labels else (),
        flips=parts["train"][0][images[0]].mode not in ("1", "L"),
    )
    return with_splits(source, own, seed)


def _range_of_rows(open_image: Callable[[int], Image], count: int) -> float | None:
    """The range of deep images of rows, which are decoded when opened: all of them only where one of PROBED is deep."""
    openers = [partial(open_image, i) for i in range(count)]
    return deep_range(openers) if deep_range(openers[:: max(1, count // PROBED)]) else None


def _label_column(folder: Path, parts: dict[str, Any], column: str) -> list[int]:
    """The class numbers of all splits; raises GhostsearchError for a split or an image without one."""
    labels: list[int] = []
    for split, part in parts.items():
        found: list[Any] = part[column] if column in part.features else [None]
        # Sets whose test labels are secret hold -1.
        if any(label is None or label < 0 for label in found):
            raise GhostsearchError(
                f"{folder}: images of the {split} split have no {column!r}; leave them out, or the column for all"
            )
        labels.extend(found)
    return labels


def _open_array(pixels: np.ndarray, i: int) -> Image:
    from PIL import Image

    return Image.fromarray(pixels[i])


def _open_row(rows: Any, key: str | int, i: int) -> Image:
    return rows[i][key]


def _open_pair(name: str, root: Path) -> tuple[Any, Any]:
    import torchvision.datasets as sets

    kind = getattr(sets, name, None)
    if not (isinstance(kind, type) and name in sets.__all__):
        raise GhostsearchError(f"torchvision has no data set {name!r}; such as torchvision:CIFAR10@ROOT")
    takes = inspect.signature(kind).parameters
    if "train" in takes:
        selections: tuple[dict[str, Any], ...] = ({"train": True}, {"train": False})
    elif "split" in takes:
        selections = ({"split": "train"}, {"split": "test"})
    else:
        raise GhostsearchError(f"torchvision's {name} has no training and test split; use package.module:function")
    download = {"download": False} if "download" in takes else {}
    try:
        train, test = (kind(str(root), **chosen, **download) for chosen in selections)
    # torchvision's readers check little: damaged files make them raise nearly anything.
    except Exception as error:  # noqa: BLE001
        raise GhostsearchError(f"torchvision's {name} cannot be read from {str(root)!r}: {text_of(error)}") from None
    return train, test


def _labels(dataset: Any) -> list[int]:
    for attribute in ("targets", "labels", "_labels"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset):
            return [int(v) for v in values]
    labels = [dataset[i][1] for i in range(len(dataset))]
    if not all(isinstance(label, int) for label in labels):
        raise GhostsearchError(f"{type(dataset).__name__} has no class labels; use package.module:function")
    return labels
