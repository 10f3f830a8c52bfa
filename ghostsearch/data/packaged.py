"""Data sets by name: scikit-learn's digits and everything torchvision reads from disk."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostsearch.data.images import ImageSource
from ghostsearch.data.splits import held_out_count, stratified_split
from ghostsearch.errors import GhostsearchError

if TYPE_CHECKING:
    from PIL.Image import Image

MIRRORLESS = ("MNIST", "SVHN", "GTSRB", "USPS", "Omniglot", "RenderedSST2")
"""Parts of names of sets of characters or signs: a mirrored one is another or none."""


def read_digits(seed: int) -> ImageSource:
    """scikit-learn's 1,797 handwritten digits, 8×8 grey, split 60/20/20 by class and seed."""
    from sklearn.datasets import load_digits

    loaded: Any = load_digits()
    pixels = np.round(loaded.images * (255 / 16)).astype(np.uint8)
    labels = [int(label) for label in loaded.target]
    rest, test = stratified_split(labels, 360, seed)
    kept, taken = stratified_split([labels[i] for i in rest], 360, seed)
    return ImageSource(
        names=[f"digit {i}" for i in range(len(labels))],
        labels=labels,
        open=partial(_open_array, pixels),
        splits={"train": [rest[i] for i in kept], "validation": [rest[i] for i in taken], "test": test},
        classes=tuple(str(name) for name in loaded.target_names),
        flips=False,
        notes=(f"test and validation: 360 of 1,797 images each, stratified, seed {seed}",),
    )


def read_torchvision(name: str, root: Path, seed: int) -> ImageSource:
    """A labelled torchvision set under `root` (nothing is downloaded); validation is cut from training.

    Raises GhostsearchError when there is no such set, it is not there, or it has no training and test split.
    """
    train, test = _open_pair(name, root)
    labels = [*_labels(train), *_labels(test)]
    rest, taken = stratified_split(labels[: len(train)], held_out_count(len(train)), seed)
    classes = tuple(str(c) for c in getattr(train, "classes", ())) or tuple(map(str, range(max(labels) + 1)))

    open_image = partial(_open_either, train, test)
    return ImageSource(
        names=[f"{name} train {i}" for i in range(len(train))] + [f"{name} test {i}" for i in range(len(test))],
        labels=labels,
        open=open_image,
        splits={"train": rest, "validation": taken, "test": list(range(len(train), len(labels)))},
        classes=classes,
        flips=not any(part in name for part in MIRRORLESS) and open_image(0).mode != "L",
        notes=(
            f"validation: {len(taken)} of the training images, stratified, seed {seed}",
            "test: the set's own",
        ),
    )


def _open_array(pixels: np.ndarray, i: int) -> Image:
    from PIL import Image

    return Image.fromarray(pixels[i])


def _open_either(train: Any, test: Any, i: int) -> Image:
    return train[i][0] if i < len(train) else test[i - len(train)][0]


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
        reason = " ".join(str(error).split()) or type(error).__name__
        raise GhostsearchError(f"torchvision's {name} cannot be read from {str(root)!r}: {reason}") from None
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
