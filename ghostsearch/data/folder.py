"""Image folders: one folder a class, in `train/`, `test/`, `val/` or straight in the folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ghostsearch.data.images import ImageSource, open_file
from ghostsearch.data.splits import held_out_count, stratified_split
from ghostsearch.errors import GhostsearchError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ghostsearch.models.load import InputSpec

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif"))
TRAIN_NAMES = ("train", "training")
VALIDATION_NAMES = ("val", "valid", "validation")
TEST_NAMES = ("test", "testing")


@dataclass(frozen=True)
class _Files:
    """Image files with their classes, by split; paths are relative to the root."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    parts: dict[str, list[int]]
    classes: tuple[str, ...]


def read_folder(root: Path, input_spec: InputSpec, seed: int, validation_list: Path | None = None) -> ImageSource:
    """The images of a folder with every split made; nothing is decoded yet, but for the first image's colour.

    `train/`, `val/` and `test/` are respected. What is missing is cut from the training images, stratified,
    by the seed; with `val/` alone that folder is the test split (as ImageNet is used), so that final figures
    rest on images no training has seen. Images without class folders are unlabelled: they calibrate, but do
    not train.
    Raises GhostsearchError when the folder is missing or empty, or a class has no image.
    """
    if not root.is_dir():
        raise GhostsearchError(f"no folder {str(root)!r}; write folder:PATH with one sub-folder a class")
    files = _list_files(root)
    splits, notes = _complete(files, seed, validation_list)
    paths = [str(root / name) for name in files.names]
    return ImageSource(
        names=files.names,
        labels=files.labels,
        open=partial(_open_path, paths, input_spec),
        splits=splits,
        classes=files.classes,
        flips=_is_colour(paths),
        notes=notes,
    )


def _open_path(paths: Sequence[str], input_spec: InputSpec, i: int) -> Image:
    return open_file(paths[i], input_spec)


def _list_files(root: Path) -> _Files:
    folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    train = next((folders[n] for n in TRAIN_NAMES if n in folders), None)
    if train is None:
        return _read_classes(root, {"train": root})
    parts = {"train": train}
    for split, names in (("validation", VALIDATION_NAMES), ("test", TEST_NAMES)):
        found = [folders[name] for name in names if name in folders]
        if found:
            parts[split] = found[0]
    if "validation" in parts and "test" not in parts:
        parts["test"] = parts.pop("validation")
    return _read_classes(root, parts)


def _read_classes(root: Path, folders: dict[str, Path]) -> _Files:
    classes = _class_names(folders["train"])
    if not classes:
        return _unlabelled(root, folders["train"])
    number = {name: i for i, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    parts: dict[str, list[int]] = {}
    for split, folder in folders.items():
        parts[split] = []
        for name in _class_names(folder):
            if name not in number:
                raise GhostsearchError(
                    f"{folder / name} is a class that {folders['train']} has not; give it training images too"
                )
            found = _images_below(folder / name)
            if not found:
                raise GhostsearchError(f"class folder {str(folder / name)!r} holds no image; add some or remove it")
            parts[split].extend(range(len(names), len(names) + len(found)))
            names.extend(os.path.relpath(path, root) for path in found)
            labels.extend([number[name]] * len(found))
    return _Files(tuple(names), tuple(labels), parts, classes)


def _unlabelled(root: Path, folder: Path) -> _Files:
    found = _images_below(folder)
    if not found:
        raise GhostsearchError(f"folder {str(folder)!r} holds no image; it wants one sub-folder of images a class")
    names = tuple(os.path.relpath(path, root) for path in found)
    return _Files(names, (0,) * len(names), {"train": list(range(len(names)))}, ())


def _class_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))


def _images_below(folder: Path) -> list[str]:
    """Regular image files below a folder, in order; links to folders are not followed (they may loop)."""
    found = []
    for where, below, files in os.walk(folder):
        below.sort()
        for name in sorted(files):
            path = os.path.join(where, name)
            if os.path.splitext(name)[1].lower() in EXTENSIONS and os.path.isfile(path):
                found.append(path)
    return found


def _complete(files: _Files, seed: int, validation_list: Path | None) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """All three splits: those that folders or the list give, the rest cut from the training images."""
    parts, notes = dict(files.parts), []
    if validation_list is not None:
        listed = _read_list(validation_list, files, parts["train"])
        parts["train"] = [i for i in parts["train"] if i not in listed]
        parts["validation"] = sorted(listed)
        notes.append(f"validation: the {len(listed)} images in {validation_list.name}")
    for split in ("test", "validation"):
        if split in parts:
            if split in files.parts:
                notes.append(f"{split}: the folder's own {len(parts[split])} images")
            continue
        train = parts["train"]
        count = held_out_count(len(train))
        rest, taken = stratified_split([files.labels[i] for i in train], count, seed)
        parts["train"], parts[split] = [train[i] for i in rest], [train[i] for i in taken]
        notes.append(f"{split}: {count} of the training images, stratified, seed {seed}")
    return parts, tuple(notes)


def _read_list(file: Path, files: _Files, train: Sequence[int]) -> set[int]:
    """Positions of the training images that a list names, by path from the root or the training folder."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GhostsearchError(f"cannot read the list of validation images {str(file)!r}: {error}") from None
    known = {files.names[i]: i for i in train}
    known |= {name.partition("/")[2]: i for name, i in known.items() if name.startswith(TRAIN_NAMES)}
    wanted = [os.path.normpath(line.strip()) for line in lines if line.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        what = (
            f"{len(unknown)} of {len(wanted)} are no training images, first {unknown[0]!r}" if unknown else "is empty"
        )
        raise GhostsearchError(f"{file}: {what}; write one path a line, relative to the image folder")
    return {known[name] for name in wanted}


def _is_colour(paths: Sequence[str]) -> bool:
    from PIL import Image

    for path in paths:
        try:
            with Image.open(path) as image:
                return image.mode not in ("1", "L", "LA") and not image.mode.startswith("I")
        # A broken file says nothing of the others; it is counted when it is decoded.
        except Exception:  # noqa: BLE001, S112
            continue
    return False


def without(source: ImageSource, broken: dict[int, str]) -> ImageSource:
    """The source less its broken images; raises GhostsearchError where that empties a class."""
    splits = {}
    for split, positions in source.splits.items():
        good = [i for i in positions if i not in broken]
        lost = {source.labels[i] for i in positions} - {source.labels[i] for i in good}
        if lost:
            name = source.classes[min(lost)] if source.classes else "images"
            first = next(i for i in positions if i in broken and source.labels[i] == min(lost))
            raise GhostsearchError(
                f"class {name!r} has no readable image left in the {split} split; of {len(broken)} broken files "
                f"one is {source.names[first]}: {broken[first]}"
            )
        splits[split] = good
    return replace(source, splits=splits)
