"""Images with boxes: Pascal VOC folders (one XML file per image) and COCO files (one JSON file for all)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

import numpy as np

from ghostsearch.data.folder import EXTENSIONS, SPLIT_NAMES, is_colour, open_listed, sizes_of, split_folders
from ghostsearch.data.images import BrokenImageError, range_of_files
from ghostsearch.data.source import Source, with_splits
from ghostsearch.errors import GhostsearchError, text_of
from ghostsearch.files import home_expanded

BACKGROUND = "background"
"""Class 0 of torchvision's detectors; objects count from 1."""
NEEDED = {
    "images": {"id", "file_name"}, "annotations": {"image_id", "category_id", "bbox"}, "categories": {"id", "name"},
}  # fmt: skip
"""What each list of a COCO file must hold."""
LARGEST = 2**53
MOST_UNUSED = 10_000
"""Category numbers that no category of a COCO file has: each is an output of the network."""


@dataclass(frozen=True)
class Boxes:
    """The objects of one image."""

    corners: np.ndarray
    """(M, 4): left, top, right, bottom in pixels of the image file."""
    labels: np.ndarray
    """(M,) class numbers from 1."""
    crowd: np.ndarray
    """(M,) 1 where a box is neither trained on nor counted: COCO's crowds, VOC's difficult objects."""
    size: tuple[int, int] | None = None
    """(width, height) that the annotation was made for; None where it does not say."""


def read_voc(root: Path, seed: int) -> Source:
    """A VOC folder: `JPEGImages/`, `Annotations/` with an XML file per image, perhaps split lists in `ImageSets/Main/`.

    Classes are the names that occur, in alphabetical order from 1. Raises GhostsearchError for any other folder.
    """
    root = home_expanded(root)
    images, annotations = root / "JPEGImages", root / "Annotations"
    if not (images.is_dir() and annotations.is_dir()):
        raise GhostsearchError(f"{root}: not a VOC folder, which holds JPEGImages/ and Annotations/")
    paths = sorted(p for p in images.iterdir() if p.suffix.lower() in EXTENSIONS)
    if not paths:
        raise GhostsearchError(f"{images} holds no image")
    found = [_voc_objects(annotations / f"{path.stem}.xml") for path in paths]
    names = sorted({name for objects in found if not isinstance(objects, str) for name, _, _ in objects[0]})
    number = {name: i for i, name in enumerate(names, 1)}
    marked = [f if isinstance(f, str) else _boxes(((number[n], box, c) for n, box, c in f[0]), f[1]) for f in found]
    source = _source([str(p) for p in paths], root, marked, (BACKGROUND, *names))
    return with_splits(source, _voc_splits(root / "ImageSets" / "Main", paths), seed)


def _voc_splits(folder: Path, paths: Sequence[Path]) -> dict[str, list[int]]:
    """The splits that lists of image names describe; with a validation list alone that one is the test split.

    Of `trainval` the training images are those that the validation list does not name.
    """
    number, parts = {path.stem: i for i, path in enumerate(paths)}, {}
    for split, names in {**SPLIT_NAMES, "train": (*SPLIT_NAMES["train"], "trainval")}.items():
        file = next((folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()), None)
        if file is None:
            continue
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        listed = [line.split()[0] for line in lines if line.strip()]
        absent = [name for name in listed if name not in number]
        if absent:
            raise GhostsearchError(f"{file}: {len(absent)} images are not in JPEGImages/, such as {absent[0][:80]!r}")
        parts[split] = [number[name] for name in listed]
    if not parts.get("train"):
        held = {i for listed in parts.values() for i in listed}
        parts["train"] = [i for i in range(len(paths)) if i not in held]
        if not parts["train"]:
            raise GhostsearchError(f"{folder}: its lists leave no image to train on; give it a train.txt")
    if not any((folder / f"{name}.txt").is_file() for name in SPLIT_NAMES["train"]):
        held = set(parts.get("validation", ()))
        parts["train"] = [i for i in parts["train"] if i not in held]
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    return parts


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document type definitions, with which a small file can expand to gigabytes or name other files."""

    def doctype(self, *_: Any) -> NoReturn:
        raise BrokenImageError("annotations with a document type definition are not read")


def _voc_objects(file: Path) -> tuple[list[tuple[str, list[float], bool]], tuple[int, int] | None] | str:
    """The objects (name, corners, difficult) and the image size in a VOC file; the reason where it cannot be read."""
    try:
        parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314
        tree = ElementTree.parse(file, parser).getroot()  # noqa: S314
        size = [int(float(tree.findtext(f"size/{side}", "0"))) for side in ("width", "height")]
        objects = [
            (
                str(thing.findtext("name", "")).strip(),
                [float(thing.findtext(f"bndbox/{k}", "nan")) for k in ("xmin", "ymin", "xmax", "ymax")],
                thing.findtext("difficult", "0").strip() == "1",
            )
            for thing in tree.iter("object")
        ]
    except (OSError, ValueError, ElementTree.ParseError) as error:
        return f"{file.name}: {text_of(error, 120)}"
    bad = next((name for name, box, _ in objects if not name or not np.isfinite(box).all()), None)
    if bad is not None:
        return f"{file.name}: object {bad!r} has no name or no bndbox"
    return objects, (size[0], size[1]) if all(size) else None


def read_coco(path: Path, seed: int) -> Source:
    """A COCO file (its `file_name`s relative to it), or a folder with `train/`, `val/`, `test/`, a JSON file in each.

    Category numbers from 1 stay, as torchvision's published weights count them; where there is a 0 they are numbered
    anew in their order. Raises GhostsearchError for a file that is not of this form.
    """
    path = home_expanded(path)
    files = {"train": path} if path.is_file() else {s: _only_json(f) for s, f in split_folders(path).items()}
    contents = {split: _read_json(file) for split, file in files.items()}
    named = _categories(files, contents)
    number = {old: old if min(named) > 0 else new for new, old in enumerate(sorted(named), 1)}
    classes = [BACKGROUND, *["N/A"] * max(number.values(), default=0)]
    for old, name in named.items():
        classes[number[old]] = name
    paths: list[str] = []
    marked: list[Boxes | str] = []
    parts: dict[str, list[int]] = {}
    for split, content in contents.items():
        parts[split] = list(range(len(paths), len(paths) + len(content["images"])))
        of_image: dict[Any, list[tuple[int, list[float], bool]]] = {image["id"]: [] for image in content["images"]}
        for thing in content["annotations"]:
            x, y, width, height = map(float, thing["bbox"])
            objects = of_image.setdefault(thing["image_id"], [])
            objects.append(
                (number[int(thing["category_id"])], [x, y, x + width, y + height], bool(thing.get("iscrowd")))
            )
        for image in content["images"]:
            size = (int(image["width"]), int(image["height"])) if {"width", "height"} <= set(image) else None
            paths.append(str(files[split].parent / image["file_name"]))
            marked.append(_boxes(of_image[image["id"]], size))
    if "validation" in parts and "test" not in parts:
        parts["test"] = parts.pop("validation")
    return with_splits(_source(paths, path.parent, marked, tuple(classes)), parts, seed)


def _categories(files: Mapping[str, Path], contents: Mapping[str, dict[str, Any]]) -> dict[int, str]:
    """The categories' names by id; raises GhostsearchError where the files of a folder number them differently."""
    named: dict[int, str] = {}
    for split, content in contents.items():
        own = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        for old, name in own.items():
            if named.get(old, name) != name or (old not in named and name in named.values()):
                raise GhostsearchError(
                    f"{files[split]}: category {old} is {_shown(name)}, and not so in another split; number the "
                    "categories of all splits alike"
                )
        named |= own
    return named


def _only_json(folder: Path) -> Path:
    found = sorted(folder.glob("*.json"))
    if len(found) != 1:
        raise GhostsearchError(
            f"{folder} holds {len(found)} JSON files; COCO's annotations are one file: write coco:FILE.json"
        )
    return found[0]


def _read_json(file: Path) -> dict[str, Any]:
    """A COCO file's content; raises GhostsearchError where what is needed of it is not there."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise GhostsearchError(f"{file}: cannot be read as JSON ({text_of(error, 120)})") from None
    for part, keys in NEEDED.items():
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and keys <= set(row) for row in rows):
            raise GhostsearchError(
                f"{file}: not a COCO file of boxes: {part!r} must be a list with {', '.join(sorted(keys))}"
            )
    _check_rows(file, content)
    return content


def _check_rows(file: Path, content: Mapping[str, list[dict[str, Any]]]) -> None:
    """Raise GhostsearchError for rows of a COCO file that hold something of another type than they should."""
    images, categories = content["images"], content["categories"]
    if not images or not _numbers([c["id"] for c in categories]):
        raise GhostsearchError(f"{file}: lists no images, or its categories have no id")
    most = max((c["id"] for c in categories), default=0)
    if most > len(categories) + MOST_UNUSED:
        raise GhostsearchError(f"{file}: {len(categories)} categories have ids of up to {most}; number them from 1")
    for image in images:
        sides = [image[side] for side in ("width", "height") if side in image]
        if not _is_id(image["id"]) or not isinstance(image["file_name"], str) or not _numbers(sides):
            raise GhostsearchError(
                f"{file}: the image {_shown(image['file_name'])} has no id, no name that is text, or a size that is "
                "no number; correct it or leave it out"
            )
    known = {c["id"] for c in categories}
    for thing in content["annotations"]:
        box, category, image = thing["bbox"], thing["category_id"], thing["image_id"]
        boxed = isinstance(box, list) and len(box) == 4 and _numbers(box)
        if not boxed or not _numbers([category]) or category not in known or not _is_id(image):
            raise GhostsearchError(
                f"{file}: an annotation of image {_shown(image)} has no known category, no bbox or no image's id"
            )
    listed, marked = {image["id"] for image in images}, [thing["image_id"] for thing in content["annotations"]]
    if marked and listed.isdisjoint(marked):
        raise GhostsearchError(
            f"{file}: no annotation is of an image that it lists: {_shown(marked[0])} is none of their ids, such as "
            f"{_shown(images[0]['id'])}"
        )


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _shown(value: Any) -> str:
    return repr(value)[:80]


def _numbers(values: Iterable[Any]) -> bool:
    """Whether all are numbers of a size that ids and pixels have; whole ones may be of any length in JSON."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < LARGEST for v in values)


def _boxes(objects: Iterable[tuple[int, Sequence[float], bool]], size: tuple[int, int] | None) -> Boxes:
    listed = list(objects)
    return Boxes(
        np.array([box for _, box, _ in listed], dtype=np.float32).reshape(-1, 4),
        np.array([label for label, _, _ in listed], dtype=np.int64),
        np.array([crowd for _, _, crowd in listed], dtype=np.int64), size,
    )  # fmt: skip


def _source(paths: list[str], root: Path, marked: list[Boxes | str], classes: tuple[str, ...]) -> Source:
    """The images; a mark that is a text is the reason why an image has none."""
    return Source(
        [os.path.relpath(path, root) for path in paths],
        # A reduced scale would move the boxes.
        partial(open_listed, paths, None), marked, kind="boxes", classes=classes, flips=is_colour(paths),
        open_target=partial(_open_boxes, marked), top=range_of_files(paths), stamp=partial(sizes_of, [paths]),
    )  # fmt: skip


def _open_boxes(marked: Sequence[Boxes | str], i: int) -> Boxes:
    found = marked[i]
    if isinstance(found, str):
        raise BrokenImageError(found)
    return found


def as_target(boxes: Boxes, size: tuple[int, int]) -> Mapping[str, Any]:
    """The boxes of an image of (width, height) as a target that moves with it, clipped to it.

    Boxes of less than a pixel are left out. Raises BrokenImageError where the annotation is for another size.
    """
    import torch
    from torchvision import tv_tensors

    if boxes.size is not None and boxes.size != size:
        raise BrokenImageError(f"its boxes are for {boxes.size[0]}x{boxes.size[1]} pixels, the image has {size}")
    corners = np.clip(boxes.corners, 0, np.array([*size, *size], dtype=np.float32))
    seen = (corners[:, 2:] - corners[:, :2] >= 1).all(1)
    return {
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(corners[seen]), format="XYXY", canvas_size=(size[1], size[0])
        ),
        "labels": torch.from_numpy(boxes.labels[seen]),
        "iscrowd": torch.from_numpy(boxes.crowd[seen]),
    }
