"""Fixed-seed, stratified splits of labelled images; indices alone, no files and no torch.

scikit-learn's train_test_split refuses classes of one image and fewer held-out images than classes; people have both.
It would also draw other images for a seed, so that a study could not be resumed and its scores would not compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ghostsearch.errors import GhostsearchError

SMALL_SET = 5_000
"""Below this many images a tenth of them ranks models too coarsely, so a fifth is held out."""


def held_out_count(images: int) -> int:
    """How many of so many images a missing split is given: a tenth, a fifth of a small set."""
    return max(1, round(images * (0.2 if images < SMALL_SET else 0.1)))


def stratified_split(labels: Sequence[int], count: int, seed: int, *, keep: int = 1) -> tuple[list[int], list[int]]:
    """Positions in `labels` that stay and the `count` positions taken out, both ascending.

    Every class gives its proportional share (largest remainder) but keeps at least `keep` images; a class
    with more is taken from at least once where `count` allows. The same labels, count and seed give the same
    split.
    Raises GhostsearchError when there are not so many images to take.
    """
    wanted = np.asarray(labels, dtype=np.int64)
    sizes = np.bincount(wanted) if len(wanted) else np.zeros(0, dtype=np.int64)
    room = np.maximum(sizes - keep, 0)
    if not 0 <= count <= room.sum():
        raise GhostsearchError(
            f"cannot hold {count} images out of {len(wanted)} in {np.count_nonzero(sizes)} classes, "
            f"each of which must keep {keep}; add images"
        )
    taken = _allocate(sizes, room, count)
    random = np.random.default_rng([seed, len(wanted), count])
    out: list[int] = []
    for label, number in enumerate(taken):
        positions = np.flatnonzero(wanted == label)
        out.extend(random.permutation(positions)[:number].tolist())
    chosen = set(out)
    return [i for i in range(len(wanted)) if i not in chosen], sorted(out)


def _allocate(sizes: np.ndarray, room: np.ndarray, count: int) -> np.ndarray:
    """Whole numbers per class that sum to `count`, near the proportional share, within each class's room."""
    quota = count * sizes / max(1, sizes.sum())
    taken = np.minimum(np.floor(quota).astype(np.int64), room)
    if count >= np.count_nonzero(room):
        taken = np.maximum(taken, np.minimum(room, 1))
    while (missing := count - int(taken.sum())) != 0:
        # Floors and minima of one seldom sum to the count: move by one where the share is furthest off.
        step = 1 if missing > 0 else -1
        movable = taken < room if step > 0 else taken > np.minimum(room, 1)
        distance = np.where(movable, step * (quota - taken), -np.inf)
        taken[int(np.argmax(distance))] += step
    return taken
