"""Non-dominated models: front, ranks, crowding, hypervolume. Every axis is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = Sequence[float]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the non-dominated points, in their order; of equal points the first alone stands.

    Points with a value that is not a number are never on the front.
    """
    if not len(points):
        return []
    values = np.array(points, dtype=float)
    finite = np.flatnonzero(np.isfinite(values).all(axis=1))
    rows, first = np.unique(values[finite], axis=0, return_index=True)
    return sorted(finite[first[_undominated(rows)]].tolist())


def _undominated(rows: NDArray[Any]) -> NDArray[Any]:
    """Indices of the non-dominated among different rows."""
    left, at = np.arange(len(rows)), 0
    while at < len(left):
        better_somewhere = (rows[left] < rows[left[at]]).any(axis=1)
        better_somewhere[at] = True
        at = int(better_somewhere[:at].sum()) + 1
        left = left[better_somewhere]
    return left


def non_dominated_ranks(points: Sequence[Point]) -> list[int]:
    """Rank of each point: 0 on the front, 1 on the front of the rest, … (Deb et al. 2002, section III.A).

    Equal points share a rank.
    """
    if not len(points):
        return []
    values = np.array(points, dtype=float)
    rows, inverse = np.unique(values, axis=0, return_inverse=True)
    ranks = np.zeros(len(rows), dtype=int)
    left, rank = np.arange(len(rows)), 0
    while len(left):
        layer = _undominated(rows[left])
        ranks[left[layer]] = rank
        left, rank = np.delete(left, layer), rank + 1
    return [int(r) for r in ranks[inverse.reshape(-1)]]


def crowding_distances(points: Sequence[Point]) -> list[float]:
    """How alone each point is among the others; infinite at the ends of an axis (Deb et al. 2002, section III.B)."""
    distances = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: points[i][axis])
        low, high = points[order[0]][axis], points[order[-1]][axis]
        distances[order[0]] = distances[order[-1]] = inf
        if high > low:
            for before, i, after in zip(order, order[1:], order[2:], strict=False):
                distances[i] += (points[after][axis] - points[before][axis]) / (high - low)
    return distances


def standings(points: Sequence[Point]) -> list[tuple[int, float]]:
    """Non-dominated rank and, negative, crowding distance within the rank: the smaller, the sooner promoted."""
    ranks = non_dominated_ranks(points)
    found: dict[int, tuple[int, float]] = {}
    for rank in range(max(ranks, default=-1) + 1):
        members = [i for i, r in enumerate(ranks) if r == rank]
        crowding = crowding_distances([points[i] for i in members])
        found |= {i: (rank, -c) for i, c in zip(members, crowding, strict=True)}
    return [found[i] for i in range(len(points))]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume between the points and a reference that is worse than them on every axis.

    Exact for any number of axes, by slicing along the last (fine for the two to four axes and the hundreds of points
    of a study). Points that do not beat the reference on every axis add nothing.
    """
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    return _volume([inside[i] for i in pareto_front(inside)], tuple(reference))


def _volume(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    if not points:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in points)
    total = 0.0
    ordered = sorted(points, key=lambda p: p[-1])
    for i, point in enumerate(ordered):
        upper = ordered[i + 1][-1] if i + 1 < len(ordered) else reference[-1]
        if upper > point[-1]:
            slice_ = [p[:-1] for p in ordered[: i + 1]]
            total += (upper - point[-1]) * _volume([slice_[j] for j in pareto_front(slice_)], reference[:-1])
    return total


def most_volume(points: Sequence[Point], count: int, given: Sequence[int] = ()) -> list[int]:
    """Indices of at most `count` points that dominate much together, greedily: each adds most hypervolume so far.

    `given`: indices that are among them in any case, first.
    Axes are scaled to the points' range, the reference lies a tenth beyond the worst (greedy hypervolume subset
    selection, Guerreiro et al. 2016). Crowding would take the ends of every axis first, which nobody wants all of.
    """
    if not points:
        return []
    low, high = ([f(axis) for axis in zip(*points, strict=True)] for f in (min, max))
    span = [h - b or 1.0 for b, h in zip(low, high, strict=True)]
    scaled = [[(x - b) / s for x, b, s in zip(p, low, span, strict=True)] for p in points]
    reference, chosen = [1.1] * len(low), list(given)
    while len(chosen) < min(count, len(points)):
        rest = (i for i in range(len(points)) if i not in chosen)
        chosen.append(max(rest, key=lambda i: hypervolume([scaled[j] for j in (*chosen, i)], reference)))
    return chosen
