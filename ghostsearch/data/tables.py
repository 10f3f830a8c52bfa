"""Data that a table or an array file describes: CSV files of paths with labels, masks or values, and .npz files."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostsearch.data.folder import SPLIT_OF, is_colour, open_listed, sizes_of
from ghostsearch.data.images import BrokenImageError, open_file, range_of_files
from ghostsearch.data.source import Source, with_splits
from ghostsearch.errors import GhostsearchError, text_of
from ghostsearch.files import home_expanded

if TYPE_CHECKING:
    import pandas as pd

    from ghostsearch.models.input import InputSpec

TARGET_COLUMNS = ("label", "labels", "value", "mask", "target")
"""A class; several classes separated by `;`; a number (`value`, or `value_a`, `value_b`, …); a file of class numbers
per pixel; an image to be restored to."""
TRIMMED = ("label", "split")
"""Columns of names, which spaces around them do not change."""
MOST_CLASSES = 2**15
"""Class numbers above this (ImageNet-21k has 21,843) and above the number of images are ids, counts or prices."""


def read_csv(file: Path, input_spec: InputSpec, seed: int) -> Source:
    """The images of a CSV file: a column `path` (relative to the file), one of TARGET_COLUMNS or none, perhaps `split`.

    Raises GhostsearchError for a file that cannot be read, columns that are missing and paths that lead nowhere.
    """
    file = home_expanded(file)
    table = _read_table(file)
    paths = _files(file, table["path"], "path")
    kind, targets, classes = _targets(file, table)
    opener: Callable[[int], Any] | None = None
    second: list[str] = []
    # A reduced scale would make the image smaller than its mask.
    scale = None if kind in ("mask", "image") else input_spec
    if kind == "mask":
        second = _files(file, targets, kind)
        opener = partial(open_mask, second)
    elif kind == "image":
        second = _files(file, targets, "target")
        opener = partial(open_listed, second, None)
    unread = sorted(set(table.columns) - {"path", "split"}) if kind == "none" else []
    source = Source(
        [os.path.relpath(path, file.parent) for path in paths], partial(open_listed, paths, scale), targets, kind=kind,
        notes=(f"no labels: of the columns {', '.join(unread)} none is {', '.join(TARGET_COLUMNS)}",) if unread else (),
        classes=classes, flips=is_colour(paths) and kind != "value", open_target=opener,
        top=range_of_files([*paths, *(second if kind == "image" else ())]),
        stamp=partial(sizes_of, [paths, second] if second else [paths]),
    )  # fmt: skip
    return with_splits(source, _own_splits(file, table), seed)


def _files(file: Path, texts: Iterable[str], column: str) -> list[str]:
    """The files that a column names, relative to the table; raises GhostsearchError where some are not there."""
    paths = [file.parent / home_expanded(Path(text)) for text in texts]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise GhostsearchError(
            f"{file}: {len(absent)} of {len(paths)} files in column {column!r} do not exist, such as {absent[0]}"
        )
    return list(map(str, paths))


def open_mask(paths: Sequence[str], i: int) -> np.ndarray:
    """The class numbers (H, W) in a mask file; palette images hold them as they are."""
    mask = np.array(open_file(paths[i]))
    if mask.ndim != 2 or mask.dtype.kind not in "uib":
        raise BrokenImageError(f"a mask holds class numbers (grey or palette), {paths[i]} has shape {mask.shape}")
    return mask.astype(np.int64)


def _read_table(file: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, skipinitialspace=True)
    # pandas raises errors of its own, and of the system, for what is no CSV.
    except Exception as error:  # noqa: BLE001
        raise GhostsearchError(f"{file}: no CSV table can be read ({text_of(error)})") from None
    if "path" not in table or table.empty:
        found = ", ".join(map(str, table.columns))[:100]
        raise GhostsearchError(
            f"{file}: needs columns separated by commas, `path` among them, and at least one row; found {found!r}"
        )
    for column in TRIMMED:
        if column in table:
            table[column] = table[column].str.strip()
    return table


def _targets(file: Path, table: pd.DataFrame) -> tuple[str, Sequence[Any], tuple[str, ...]]:
    values = [c for c in table.columns if c == "value" or c.startswith("value_")]
    present = [c for c in TARGET_COLUMNS if c in table] + (["value"] if values and "value" not in table else [])
    if len(present) > 1:
        raise GhostsearchError(f"{file}: has the columns {', '.join(present)}; keep the one that is to be learned")
    column = present[0] if present else ""
    if column == "label":
        if not all(table["label"]):
            row = list(table["label"]).index("") + 2
            raise GhostsearchError(f"{file}: row {row} has no label; leave its image out, or the column for all")
        classes = _in_order(table["label"])
        number = {name: i for i, name in enumerate(classes)}
        return "class", [number[name] for name in table["label"]], classes
    if column == "labels":
        rows = [[part.strip() for part in text.split(";") if part.strip()] for text in table["labels"]]
        classes = _in_order([name for row in rows for name in row])
        return "labels", [[float(name in row) for name in classes] for row in rows], classes
    if column == "value":
        try:
            numbers = table[values].astype(float).to_numpy()
        except ValueError as error:
            raise GhostsearchError(f"{file}: column {values[0]} must hold numbers ({error})") from None
        return "value", _finite(numbers, lambda i: f"{file}: row {i + 2}"), ()
    if column:
        return ("mask" if column == "mask" else "image"), list(table[column]), ()
    return "none", (), ()


def _finite(numbers: np.ndarray, where: Callable[[int], str]) -> list[list[float]]:
    """Rows of values to be learned; raises GhostsearchError for the first that 32 bits cannot hold as a number."""
    with np.errstate(over="ignore"):
        good = np.isfinite(numbers.astype(np.float32)).all(1)
    if not good.all():
        first = int(np.argmin(good))
        raise GhostsearchError(
            f"{where(first)} has the value {', '.join(map(str, numbers[first].tolist()))[:80]}, which cannot be "
            "learned; give a finite number, or leave its image out"
        )
    rows: list[list[float]] = numbers.astype(float).tolist()
    return rows


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in alphabetical order; whole numbers (2, 2.0) by value: a network's outputs."""
    found = set(names)
    with suppress(ValueError):
        values = {name: float(name) for name in found}
        if all(value.is_integer() for value in values.values()):
            return tuple(sorted(found, key=lambda name: (values[name], name)))
    return tuple(sorted(found))


def _own_splits(file: Path, table: pd.DataFrame) -> dict[str, list[int]]:
    if "split" not in table:
        return {"train": list(range(len(table)))}
    parts: dict[str, list[int]] = {}
    for i, name in enumerate(table["split"]):
        if name.lower() not in SPLIT_OF:
            raise GhostsearchError(f"{file}: row {i + 2} has split {name!r}; write train, validation or test")
        parts.setdefault(SPLIT_OF[name.lower()], []).append(i)
    if "train" not in parts:
        raise GhostsearchError(f"{file}: no row has split 'train'")
    return parts


def read_arrays(file: Path, input_spec: InputSpec, seed: int) -> Source:
    """The array `x` of a .npz file (N, C, …) with `y` beside it: whole numbers are classes.

    Images are bytes, or scaled to 0…1; recordings are in the units of the model's mean and std. Two-dimensional
    `y` of zeros and ones are several labels, other numbers values; without `y` there are no labels.
    Raises GhostsearchError for a file that cannot be read, an `x` of another shape than the model's input, images
    that are not scaled, values that are not finite, class numbers far above the number of images.
    """
    file = home_expanded(file)
    try:
        with np.load(file, allow_pickle=False) as found:
            x, y = found["x"], found.get("y")
    # A damaged archive makes its reader raise nearly anything.
    except Exception as error:  # noqa: BLE001
        raise GhostsearchError(f"{file}: cannot be read as .npz with an array x ({text_of(error)})") from None
    if x.ndim == len(input_spec.shape) and input_spec.channels == 1:
        x = x[:, None]
    if x.shape[1:] != input_spec.shape or x.size == 0 or x.dtype.kind not in "fiub":
        raise GhostsearchError(
            f"{file}: x has shape {x.shape}, the model wants (N, {', '.join(map(str, input_spec.shape))})"
        )
    if y is not None and (y.shape[:1] != x.shape[:1] or y.ndim > 2 or y.dtype.kind not in "fiub"):
        raise GhostsearchError(f"{file}: y is {y.dtype} {y.shape}, expected numbers ({len(x)},) or ({len(x)}, K)")
    images = len(input_spec.dims) == 2
    # Bytes of 0 and 1 alone are scaled already.
    scaled = not (images and x.dtype == np.uint8 and x.max() > 1)
    x = x.astype(np.float32)
    if not scaled:
        x /= 255
    if not np.isfinite(x).all():
        raise GhostsearchError(f"{file}: x holds values that are not finite")
    if images and (x.min() < 0 or x.max() > 1):
        raise GhostsearchError(
            f"{file}: x holds images of values from {x.min():g} up to {x.max():g}; scale them to 0…1, or give uint8"
        )
    kind, targets, classes = _array_targets(file, y)
    names = [f"x[{i}]" for i in range(len(x))]
    source = Source(names, partial(getitem, x), targets, kind=kind, classes=classes, stamp=partial(_checksum, x))
    return with_splits(source, {"train": list(range(len(x)))}, seed)


def _checksum(x: np.ndarray, i: int) -> int:
    return zlib.crc32(x[i].tobytes())


def _array_targets(file: Path, y: np.ndarray | None) -> tuple[str, Sequence[Any], tuple[str, ...]]:
    if y is None:
        return "none", (), ()
    if y.ndim == 2 and y.shape[1] > 1 and np.isin(y, (0, 1)).all():
        return "labels", y.astype(float).tolist(), tuple(map(str, range(y.shape[1])))
    if y.dtype.kind in "iub" and y.ndim == 1 and y.min() >= 0:
        if y.max() > max(len(y), MOST_CLASSES):
            raise GhostsearchError(
                f"{file}: y holds whole numbers up to {y.max()}, which are classes; number them from 0, or give values "
                "as floats"
            )
        return "class", y.astype(int).tolist(), tuple(map(str, range(int(y.max()) + 1)))
    return "value", _finite(y.reshape(len(y), -1), lambda i: f"{file}: y[{i}]"), ()
