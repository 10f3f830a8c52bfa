"""A set of images (or recordings) before it is read: names, targets, splits, and a way to open each."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ghostsearch.data.splits import held_out_count, stratified_split
from ghostsearch.errors import GhostsearchError
from ghostsearch.units import counted

SPLITS = ("train", "validation", "test")
FEW, LONG_TAIL, NAMED = 10, 20, 3


@dataclass(frozen=True)
class Source:
    """A set whose images are opened one by one."""

    names: Sequence[str]
    open: Callable[[int], Any]
    """The image at a position, a PIL image or an array; raises whatever its decoder raises when it is broken."""
    targets: Sequence[Any] = ()
    """Class number, marks, values, or what `open_target` makes one of; empty: there are no labels."""
    splits: dict[str, list[int]] = field(default_factory=dict)
    """Positions of `train`, `validation` and `test`."""
    kind: str = "none"
    """What a target is: `class`, `labels` (several per image), `value`, `mask`, `image`, `boxes`; `none`: no labels."""
    classes: tuple[str, ...] = ()
    flips: bool = False
    """Whether a mirrored image is as good as the image: true of photographs, not of characters."""
    top: float | None = None
    """The range of images of more than 8 bits, one for the whole set: see `ghostsearch.data.images.deep_range`."""
    open_target: Callable[[int], Any] | None = None
    """For targets that are files of their own (masks, images) or that move with the image (boxes)."""
    stamp: Callable[[int], Any] | None = None
    """What changes with the image at a position and is read without decoding it, such as its files' sizes."""
    notes: tuple[str, ...] = ()
    """How the splits came about."""
    cut: tuple[str, ...] = ()
    """Splits that were cut from the training images: weights from elsewhere may have been trained on them."""

    def strata(self, positions: Sequence[int]) -> list[int]:
        """What a split is stratified by: the classes where each image has one, else nothing."""
        return [int(self.targets[i]) for i in positions] if self.kind == "class" else [0] * len(positions)


def with_splits(source: Source, own: dict[str, list[int]], seed: int) -> Source:
    """The source with the splits it has of its own, and those that are missing cut from the training images.

    Cut by class and seed; every class keeps an image to train on. A split for which none is left stays empty.
    Raises GhostsearchError for an image that stands in two of them, or twice in one.
    """
    _refuse_repeated(source, own)
    splits, notes, cut = {"train": own["train"]}, list(source.notes), list[str]()
    for split in ("test", "validation"):
        if split in own:
            splits[split] = own[split]
            notes.append(f"{split}: the set's own {len(own[split])} images")
            continue
        cut.append(split)
        train = splits["train"]
        strata = source.strata(train)
        room = len(train) - len(set(strata))
        count = min(held_out_count(len(train)), room)
        rest, taken = stratified_split(strata, count, seed)
        splits["train"], splits[split] = [train[i] for i in rest], [train[i] for i in taken]
        how = ", stratified" if source.kind == "class" else ""
        notes.append(f"{split}: {count} of the training images{how}, seed {seed}")
    return replace(source, splits=splits, notes=tuple(notes), cut=tuple(cut))


def _refuse_repeated(source: Source, own: dict[str, list[int]]) -> None:
    """Raise GhostsearchError for an image that is listed more than once: a cut would put it on both sides."""
    split_of: dict[str, str] = {}
    for split, positions in own.items():
        times = Counter(source.names[i] for i in positions)
        for name, count in times.items():
            if name in split_of:
                raise GhostsearchError(
                    f"{name} stands in the {split_of[name]} split and in the {split} split; keep it in one of them"
                )
            if count > 1:
                raise GhostsearchError(f"{name} stands {count} times in the {split} split; list each image once")
            split_of[name] = split


def shortened(source: Source, split: str, count: int | None, seed: int) -> Source:
    """The source with only `count` images in a split; the other positions are never opened.

    Raises GhostsearchError for a count below 1.
    """
    before = source.splits[split]
    if count is not None and count < 1:
        raise GhostsearchError(f"the number of {split} images must be at least 1, got {count}")
    if count is None or count >= len(before):
        return source
    _, taken = stratified_split(source.strata(before), count, seed, keep=0)
    splits = {**source.splits, split: [before[i] for i in taken]}
    return only(replace(source, splits=splits), f"{split}: {count} of {len(before)} images, seed {seed}")


def only(source: Source, note: str = "") -> Source:
    """The source less the images that are in no split."""
    used = sorted({i for positions in source.splits.values() for i in positions})
    new = {old: i for i, old in enumerate(used)}
    return replace(
        source,
        names=[source.names[i] for i in used],
        targets=[source.targets[i] for i in used] if len(source.targets) else (),
        open=partial(_at, source.open, used),
        open_target=partial(_at, source.open_target, used) if source.open_target else None,
        stamp=partial(_at, source.stamp, used) if source.stamp else None,
        splits={split: [new[i] for i in positions] for split, positions in source.splits.items()},
        notes=(*source.notes, note) if note else source.notes,
    )


def fingerprint(source: Source) -> dict[str, str]:
    """What each split is known by when a run goes on: its images' names, targets and stamps, in their order."""
    found = {}
    for split, positions in source.splits.items():
        state = hashlib.sha256(json.dumps(source.classes).encode())
        for i in positions:
            target = source.targets[i] if len(source.targets) else None
            row = [source.names[i], target, source.stamp(i) if source.stamp else None]
            state.update(json.dumps(row, default=_as_json).encode())
        found[split] = f"{counted(len(positions), 'image')}, sha256 {state.hexdigest()[:16]}"
    return found


def _as_json(value: Any) -> Any:
    """Arrays as lists, a record such as the boxes of an image as what it holds."""
    return value.tolist() if hasattr(value, "tolist") else vars(value)


def _at(opener: Callable[[int], Any], used: Sequence[int], i: int) -> Any:
    return opener(used[i])


def without(source: Source, broken: dict[int, str]) -> Source:
    """The source less its broken images; raises GhostsearchError where that empties a class or a split."""
    splits = {}
    for split, positions in source.splits.items():
        good = [i for i in positions if i not in broken]
        lost = set(source.strata(positions)) - set(source.strata(good))
        if lost:
            first = next(i for i in positions if i in broken and source.strata([i])[0] == min(lost))
            name = f"class {source.classes[min(lost)]!r}" if source.kind == "class" and source.classes else "the set"
            raise GhostsearchError(
                f"{name} has no readable image left in the {split} split; of {len(broken)} broken files one is "
                f"{source.names[first]}: {broken[first]}"
            )
        splits[split] = good
    return replace(source, splits=splits)


def warnings_about(source: Source) -> tuple[str, ...]:
    """Warnings about the numbers of images: rare classes, long tails, a small test split."""
    found = []
    test = len(source.splits.get("test", ()))
    if 0 < test < 100:
        error = 100 * (0.25 / test) ** 0.5
        by = f": an accuracy on it is good to {error:.0f} points at best" if source.kind == "class" else ""
        found.append(f"the test split has {counted(test, 'image')}{by or ': a score on so few is a rough one'}")
    sizes, tested = (_class_sizes(source, split) for split in ("train", "test"))
    if not sizes:
        return tuple(found)
    what = "images" if source.kind == "class" else "examples"
    if source.kind in ("class", "labels") and (never := [c for i, c in enumerate(source.classes) if i not in sizes]):
        found.append(
            f"{len(never)} of {len(source.classes)} classes have no training image (such as {never[0]!r}): the network "
            "cannot learn them"
        )
    rare = sorted((n, source.classes[c]) for c, n in sizes.items() if n < FEW)
    if rare:
        named = ", ".join(f"{name!r} {n}" for n, name in rare[:NAMED]) + ", …" * (len(rare) > NAMED)
        found.append(f"{len(rare)} of {len(sizes)} classes have fewer than {FEW} training {what} ({named})")
    (large, most), (small, least) = sizes.most_common(1)[0], sizes.most_common()[-1]
    if most >= LONG_TAIL * least:
        found.append(
            f"class {source.classes[large]!r} has {most} training {what}, {source.classes[small]!r} {least}: "
            + ("accuracy says" if source.kind == "class" else "the score may say")
            + f" little about rare classes{'; the report has the change of each' if source.kind == 'class' else ''}"
        )
    absent = [source.classes[c] for c in sizes if c not in tested]
    if absent and test:
        found.append(
            f"{len(absent)} classes have no test image (such as {absent[0]!r}): nothing is known about them afterwards"
        )
    return tuple(found)


def _class_sizes(source: Source, split: str) -> Counter[int]:
    """Images, or of several labels or boxes per image the examples, of each class in a split; empty without classes."""
    positions = source.splits.get(split, [])
    if source.kind == "class":
        return Counter(source.strata(positions))
    if source.kind == "labels":
        return Counter(c for i in positions for c, there in enumerate(source.targets[i]) if there)
    if source.kind == "boxes":
        marks = (source.targets[i] for i in positions)
        return Counter(int(label) for boxes in marks if not isinstance(boxes, str) for label in boxes.labels)
    return Counter()
