"""A cost of many choices as an exact sum of small terms, so that a linear program can add it up.

MACs of a layer depend on its own choice and on the widths of the groups it reads and makes. That is a sum over single
choices, pairs and triples (a Möbius expansion), found here by asking the cost formula; nothing about layers is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]
"""codes (A, V), the number of the option that each variable takes -> (R, A), R resources of A architectures."""


@dataclass(frozen=True)
class Term:
    """Resources that depend on a few variables together. values: (R, options of the first, of the second, …)."""

    variables: tuple[int, ...]
    values: np.ndarray


@dataclass(frozen=True)
class Additive:
    """Resources as `constant` (R,) plus one entry of every term; exact where no more than three variables meet."""

    constant: np.ndarray
    terms: tuple[Term, ...]

    def at(self, code: Sequence[int]) -> np.ndarray:
        """The resources (R,) of one architecture's codes."""
        return self.at_all(np.array([code]))[:, 0]

    def at_all(self, codes: np.ndarray) -> np.ndarray:
        """The resources (R, A) of codes (A, V)."""
        total = np.repeat(self.constant[:, None], len(codes), axis=1)
        for term in self.terms:
            at: tuple[Any, ...] = (slice(None), *(codes[:, v] for v in term.variables))
            total += term.values[at]
        return total


def decompose(predict: Predict, sizes: Sequence[int]) -> Additive:
    """Find the terms of a cost: option 0 of every variable is the baseline, `sizes` counts each one's options.

    Each resource must be a sum of parts of at most three variables that meet pairwise (a convolution: its choice, its
    input's and its output's width).
    """
    base = predict(np.zeros((1, len(sizes)), dtype=np.int64))[:, 0].astype(float)
    found: dict[tuple[int, ...], np.ndarray] = {}

    def add(chosen: list[tuple[int, ...]]) -> None:
        for variables, whole in _evaluate(predict, sizes, chosen).items():
            found[variables] = _own_part(whole, base, variables, found)

    add([(v,) for v, size in enumerate(sizes) if size > 1])
    add(_meeting_pairs(predict, base, sizes, found))
    add(_triangles([v for v in found if len(v) == 2]))
    return Additive(base, _merged(found, sizes))


def _triangles(pairs: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Sets of three variables of which each two meet."""
    neighbours: dict[int, set[int]] = {}
    for a, b in pairs:
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    return sorted({tuple(sorted((a, b, c))) for a, b in pairs for c in neighbours[a] & neighbours[b]})


def _meeting_pairs(
    predict: Predict, base: np.ndarray, sizes: Sequence[int], found: dict[tuple[int, ...], np.ndarray]
) -> list[tuple[int, ...]]:
    """Pairs of variables whose last options together cost another sum than alone."""
    free = [v for v in range(len(sizes)) if sizes[v] > 1]
    tried = list(combinations(free, 2))
    if not tried:
        return []
    codes = np.zeros((len(tried), len(sizes)), dtype=np.int64)
    for row, pair in zip(codes, tried, strict=True):
        row[list(pair)] = [sizes[v] - 1 for v in pair]
    together = predict(codes)
    parts = np.array([sum(found[(v,)][:, sizes[v] - 1] for v in pair) for pair in tried]).T
    differs = np.abs(together - base[:, None] - parts) > 1e-9 * np.abs(base[:, None])
    return [pair for pair, meets in zip(tried, differs.any(axis=0), strict=True) if meets]


def _evaluate(
    predict: Predict, sizes: Sequence[int], chosen: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], np.ndarray]:
    """Whole resources over all options of each set of variables, everything else baseline."""
    rows: list[np.ndarray] = []
    for variables in chosen:
        grid = np.array(list(product(*(range(sizes[v]) for v in variables))), dtype=np.int64)
        codes = np.zeros((len(grid), len(sizes)), dtype=np.int64)
        codes[:, list(variables)] = grid
        rows.append(codes)
    if not rows:
        return {}
    values = predict(np.concatenate(rows)).astype(float)
    split = np.split(values, np.cumsum([len(r) for r in rows])[:-1], axis=1)
    shapes = [tuple(sizes[v] for v in variables) for variables in chosen]
    return {v: x.reshape(len(x), *shape) for v, x, shape in zip(chosen, split, shapes, strict=True)}


def _own_part(
    whole: np.ndarray, base: np.ndarray, variables: tuple[int, ...], found: dict[tuple[int, ...], np.ndarray]
) -> np.ndarray:
    """What a set of variables adds beyond the base and all its subsets."""
    own = whole - base.reshape(-1, *[1] * len(variables))
    for order in range(1, len(variables)):
        for subset in combinations(variables, order):
            if subset in found:
                own = own - _spread(found[subset], subset, variables)
    return own


def _spread(values: np.ndarray, subset: tuple[int, ...], variables: tuple[int, ...]) -> np.ndarray:
    """A subset's values with an axis of length one for every variable that it lacks."""
    axes = [values.shape[1 + subset.index(v)] if v in subset else 1 for v in variables]
    return values.reshape(len(values), *axes)


def _cliques(found: dict[tuple[int, ...], np.ndarray]) -> list[tuple[int, ...]]:
    """The sets of variables that no larger set contains."""
    by_size = sorted(found, key=len, reverse=True)
    kept: list[tuple[int, ...]] = []
    for variables in by_size:
        if not any(set(variables) < set(larger) for larger in kept):
            kept.append(variables)
    return kept


def _merged(found: dict[tuple[int, ...], np.ndarray], sizes: Sequence[int]) -> tuple[Term, ...]:
    """One term a maximal set: its own part and those of its subsets, each subset counted once."""
    cliques, used = _cliques(found), set()
    terms = []
    for clique in cliques:
        resources = len(next(iter(found.values())))
        values = np.zeros((resources, *(sizes[v] for v in clique)))
        for order in range(1, len(clique) + 1):
            for subset in combinations(clique, order):
                if subset in found and subset not in used:
                    used.add(subset)
                    values = values + _spread(found[subset], subset, clique)
        terms.append(Term(clique, values))
    return tuple(terms)
