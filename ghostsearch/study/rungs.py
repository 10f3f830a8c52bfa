"""Rungs: which trials are trained on, by their scores after equal training."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from ghostsearch.pareto import dominates, standings
from ghostsearch.records import Axis, Record

RIVALS = 1000


def stops(record: Record, finished: Sequence[Record], rung: float, axes: Sequence[Axis]) -> str:
    """Why a trial is not trained on from a rung, or nothing when it is.

    It is promoted when nothing scored there dominates it and it is in the better half by non-dominated rank, then
    crowding (the rule of multi-objective ASHA, Schmucker et al. 2021), among the newest RIVALS. The baseline is left
    out, as its weights were never replaced. A stopped trial keeps the score that it has: the sampler learns from it,
    and it may become a finalist.
    """
    rivals = [at for r in finished if r.digest != "baseline" and (at := at_rung(r, rung))][-RIVALS:]
    points = [[_finite(axis.minimised(r)) for axis in axes] for r in (*rivals, record)]
    better = next((r for r, p in zip(rivals, points, strict=False) if dominates(p, points[-1])), None)
    if better:
        return f"stopped at rung {rung:g}: {better.digest} is better there"
    found = standings(points)
    place = sum(other < found[-1] for other in found)
    return "" if place < (len(points) + 1) // 2 else f"stopped at rung {rung:g}: lower half by crowding distance"


def at_rung(record: Record, rung: float) -> Record | None:
    """The record as it stood at a rung; None when it did not get there."""
    until = tuple(s for s in record.scores if s.split == "validation" and s.epochs <= rung)
    return record.model_copy(update={"scores": until}) if until and until[-1].epochs == rung else None


def last_rung(record: Record) -> float:
    """The rung that a scored record reached."""
    score = record.score()
    assert score is not None, "only scored records have a rung"
    return score.epochs


def _finite(value: float) -> float:
    return value if isfinite(value) else 1e300
