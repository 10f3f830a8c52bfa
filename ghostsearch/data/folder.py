"""Image folders: one folder per class, in `train/`, `test/`, `val/` or straight in the folder; or images alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostsearch.data.images import open_file, range_of_files
from ghostsearch.data.source import Source, with_splits
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import home_expanded

if TYPE_CHECKING:
    from PIL.Image import Image

    from ghostsearch.models.input import InputSpec

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif"))
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
"""The split that a folder, or a value in a table, stands for."""
Found = tuple[list[str], dict[str, list[int]], dict[str, Any]]
"""Files, the positions in them of each split, and what else the source is told."""


def read_folder(root: Path, input_spec: InputSpec, seed: int, validation_list: Path | None = None) -> Source:
    """The images of a folder with every split made; nothing is decoded yet, but for the first image's colour
    and the range of those of more than 8 bits.

    `train/`, `val/` and `test/` are respected, in any case of letters. What is missing is cut from the training images,
    stratified, by the seed; with `val/` alone that folder is the test split (as ImageNet is used), so that final
    figures rest on images no training has seen. Images without class folders are unlabelled. Hidden files and folders
    are left alone. Raises GhostsearchError when the folder is missing, empty, one level too high or mixed up, when the
    list leaves a class nothing to train on, and for names of classes that are no UTF-8.
    """
    root = home_expanded(root)
    # Not torchvision's ImageFolder: it knows no splits, unlabelled or hidden files, and lists files before it can say
    # that a folder stands one level too high.
    named = _classes_named_like_splits(root)
    folders = {"train": root} if named else split_folders(root)
    classes = {split: tuple(f.name for f in visible_folders(folder)) for split, folder in folders.items()}
    _refuse_unreadable_names(root, [name for names in classes.values() for name in names])
    paths, parts, about = _labelled(folders, classes) if any(classes.values()) else _unlabelled(folders)
    if named:
        about["notes"] += (f"{', '.join(named)}: classes as the folders beside them, no splits",)
    names = [os.path.relpath(path, root) for path in paths]
    if "validation" in parts and "test" not in parts:
        parts["test"] = parts.pop("validation")
    if validation_list is not None:
        if "validation" in parts:
            raise GhostsearchError(
                f"{folders['validation']} holds the validation images; leave out the list of them, or move it away"
            )
        listed = _read_list(validation_list, names, parts["train"])
        parts["train"] = [i for i in parts["train"] if i not in listed]
        parts["validation"] = sorted(listed)
        _refuse_emptied(validation_list, parts, about)
    opener = partial(open_listed, paths, input_spec)
    stamp = partial(sizes_of, [paths])
    source = Source(names, opener, flips=is_colour(paths), top=range_of_files(paths), stamp=stamp, **about)
    return with_splits(source, parts, seed)


def open_listed(paths: Sequence[str], input_spec: InputSpec | None, i: int) -> Image:
    """The image at a position of a list of files."""
    return open_file(paths[i], input_spec)


def sizes_of(files: Sequence[Sequence[str]], i: int) -> list[int]:
    """The bytes of the file at a position of each list; -1 where there is none."""
    sizes = []
    for paths in files:
        try:
            sizes.append(os.stat(paths[i]).st_size)
        except OSError:
            sizes.append(-1)
    return sizes


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits that a folder holds; itself as `train` where it holds none.

    Raises GhostsearchError when it is missing, has no `train` beside other splits, or stands one level too high.
    """
    if not root.is_dir():
        raise GhostsearchError(f"no folder {str(root)!r}; write folder:PATH with one sub-folder per class")
    below = visible_folders(root)
    found: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        of_split = [folder for folder in below if folder.name.lower() in names]
        if len(of_split) > 1:
            raise GhostsearchError(f"{root} holds {of_split[0].name}/ and {of_split[1].name}/; keep one of them")
        if of_split:
            found[split] = of_split[0]
    if found and "train" not in found:
        first = next(iter(found.values())).name
        raise GhostsearchError(f"{root} holds {first}/ but no train/; add it, or give folder:{root / first}")
    if not found:
        _refuse_too_high(root, below)
        return {"train": root}
    return found


def _classes_named_like_splits(root: Path) -> list[str]:
    """Folders named like splits that are classes, since other folders of images stand beside them.

    Raises GhostsearchError where they hold class folders themselves: what stands beside them would be lost.
    """
    below = visible_folders(root) if root.is_dir() else []
    splits = [folder for folder in below if folder.name.lower() in SPLIT_OF]
    others = [folder.name for folder in below if splits and folder not in splits and images_below(folder)]
    inside = next((folder.name for folder in splits if visible_folders(folder)), None)
    if others and inside:
        raise GhostsearchError(
            f"{root} holds images in {', '.join(others[:3])}{', …' * (len(others) > 3)} beside {inside}/, "
            "which has class folders of its own; move them into it, or away"
        )
    return [folder.name for folder in splits] if others else []


def _refuse_too_high(root: Path, below: list[Path]) -> None:
    if {"Annotations", "JPEGImages"} <= {folder.name for folder in below}:
        raise GhostsearchError(f"{root} is a VOC folder of images with boxes; write voc:{root} --task detection")
    for folder in below:
        inner = visible_folders(folder)
        splits = any(f.name.lower() in SPLIT_OF for f in inner)
        if splits or (len(below) == 1 and inner):
            what = "the splits" if splits else "the class folders"
            raise GhostsearchError(f"{root} is one level too high: {what} are in {folder}; write folder:{folder}")


def _labelled(folders: dict[str, Path], classes: dict[str, tuple[str, ...]]) -> Found:
    number = {name: i for i, name in enumerate(classes["train"])}
    paths: list[str] = []
    labels: list[int] = []
    parts: dict[str, list[int]] = {}
    for split, folder in folders.items():
        if not classes[split]:
            other = next(s for s in folders if classes[s])
            raise GhostsearchError(
                f"{folder} has no class folders, {folders[other]} has; sort its images into class folders, or move "
                "it away"
            )
        parts[split] = []
        for name in classes[split]:
            if name not in number:
                raise GhostsearchError(
                    f"{folder / name} is a class that {folders['train']} has not; give it training images too"
                )
            found = images_below(folder / name)
            if not found:
                raise GhostsearchError(
                    f"class folder {str(folder / name)!r} holds no image; add some or remove it; recordings come as "
                    "arrays:FILE.npz"
                )
            parts[split].extend(range(len(paths), len(paths) + len(found)))
            paths.extend(found)
            labels.extend([number[name]] * len(found))
    loose = sum(_is_image(folder / name) for folder in folders.values() for name in os.listdir(folder))
    notes = (f"{loose} images beside the class folders were left out",) if loose else ()
    return paths, parts, {"targets": labels, "kind": "class", "classes": classes["train"], "notes": notes}


def _unlabelled(folders: dict[str, Path]) -> Found:
    paths: list[str] = []
    parts: dict[str, list[int]] = {}
    for split, folder in folders.items():
        found = images_below(folder)
        if not found:
            raise GhostsearchError(f"folder {str(folder)!r} holds no image ({', '.join(sorted(EXTENSIONS))})")
        parts[split] = list(range(len(paths), len(paths) + len(found)))
        paths.extend(found)
    return paths, parts, {"notes": ("the images have no labels",)}


def visible_folders(folder: Path) -> list[Path]:
    """The sub-folders of a folder by name, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not _is_hidden(p.name))


def images_below(folder: Path) -> list[str]:
    """Regular image files below a folder, in order; links to folders are not followed (they may loop)."""
    found: list[str] = []
    for where, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not _is_hidden(name))
        found.extend(os.path.join(where, name) for name in sorted(files) if _is_image(Path(where, name)))
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not _is_hidden(path.name) and path.is_file()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _read_list(file: Path, names: Sequence[str], train: Sequence[int]) -> set[int]:
    """Positions of the training images that a list names, by path from the root or the training folder."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GhostsearchError(f"cannot read the list of validation images {str(file)!r}: {error}") from None
    known = {names[i]: i for i in train}
    known |= {
        name.partition("/")[2]: i for name, i in known.items() if name.partition("/")[0].lower() in SPLIT_NAMES["train"]
    }
    wanted = [os.path.normpath(line.strip()) for line in lines if line.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        what = (
            f"{len(unknown)} of {len(wanted)} are no training images, first {unknown[0]!r}" if unknown else "is empty"
        )
        raise GhostsearchError(f"{file}: {what}; write one path per line, relative to the image folder")
    return {known[name] for name in wanted}


def _refuse_emptied(file: Path, parts: dict[str, list[int]], about: dict[str, Any]) -> None:
    """Raise GhostsearchError where a list of validation images leaves a class without an image to train on."""
    labels = about.get("targets")
    if not labels:
        return
    lost = sorted({labels[i] for i in parts["validation"]} - {labels[i] for i in parts["train"]})
    if lost:
        raise GhostsearchError(
            f"{file}: names every training image of class {about['classes'][lost[0]]!r}; leave each class an image "
            "to train on"
        )


def _refuse_unreadable_names(root: Path, names: Sequence[str]) -> None:
    """Raise GhostsearchError for a class that cannot be written into a file or a report."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise GhostsearchError(
                f"{root}: the class folder {ascii(os.fsencode(name))[1:]} has a name that is no UTF-8; rename it"
            ) from None


def is_colour(paths: Sequence[str]) -> bool:
    """Whether the first image that can be opened is in colour."""
    from PIL import Image

    for path in paths:
        try:
            with Image.open(path) as image:
                return image.mode not in ("1", "L", "LA", "F") and not image.mode.startswith("I")
        # A broken file says nothing of the others; it is counted when it is decoded.
        except Exception:  # noqa: BLE001, S112
            continue
    return False
