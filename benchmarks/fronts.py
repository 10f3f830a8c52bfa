"""What other tools reach at a cost that none of their models has: between the neighbouring models of their front."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.accuracy)):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return kept


def between(points: Iterable[Point], cost: float) -> Between | None:
    """What a tool would have at a cost, on the straight line between the models of its front next to it.

    None where all cost more; the best one where all cost less.
    """
    models = front(points)
    below = [p for p in models if p.cost <= cost]
    above = [p for p in models if p.cost > cost]
    if not below:
        return None
    low = below[-1]
    if not above or low.cost == cost:
        return Between(low.accuracy, (low,))
    high = above[0]
    share = (cost - low.cost) / (high.cost - low.cost)
    return Between(low.accuracy + share * (high.accuracy - low.accuracy), (low, high))
