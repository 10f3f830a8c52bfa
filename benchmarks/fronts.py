"""What other tools reach at a cost that none of their models has: between the neighbouring models of their front."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ghostsearch.pareto import pareto_front


@dataclass(frozen=True)
class Point:
    """A model: its cost as a share of the baseline's, its accuracy in percent, and its name."""

    cost: float
    accuracy: float
    name: str


@dataclass(frozen=True)
class Between:
    """An accuracy in percent at a cost, and the models that it lies between; one alone where it costs no more."""

    accuracy: float
    models: tuple[Point, ...]

    def __str__(self) -> str:
        return " and ".join(f"{p.name} ({p.cost:.3f})" for p in self.models)


def front(points: Iterable[Point]) -> list[Point]:
    """Those that no cheaper model is as accurate as, cheapest first."""
    found = list(points)
    kept = pareto_front([(p.cost, -p.accuracy) for p in found])
    return sorted((found[i] for i in kept), key=lambda p: p.cost)


def between(points: Iterable[Point], cost: float) -> Between | None:
    """What a tool would have at a cost, on the straight line between the models of its front next to it.

    None where all cost more; the best one where all cost less.
    """
    models = front(points)
    costs, accuracies = [p.cost for p in models], [p.accuracy for p in models]
    at = bisect_right(costs, cost)
    if not at:
        return None
    next_to_it = models[at - 1 : at + 1] if costs[at - 1] < cost else models[at - 1 : at]
    return Between(float(np.interp(cost, costs, accuracies)), tuple(next_to_it))
