"""Rungs: which trials are trained on, by their scores after equal training."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from ghostsearch.pareto import standings
from ghostsearch.records import Axis, Record
from ghostsearch.study.recommendation import beaten_by

RIVALS = 1000


def stops(record: Record, finished: Sequence[Record], rung: float, axes: Sequence[Axis]) -> str:
    """Why a trial is not trained on from a rung, or nothing when it is.

    It is promoted when nothing that costs no more is proven better there and it is in the better half by non-dominated
    rank, then crowding (the rule of multi-objective ASHA, Schmucker et al. 2021), among the newest RIVALS. The baseline
    is left out, as its weights were never replaced. A stopped trial keeps the score that it has: the sampler learns
    from it, and it may become a finalist.
    """
    rivals = [at for r in finished if r.digest != "baseline" and (at := at_rung(r, rung))][-RIVALS:]
    if better := beaten_by(record, rivals, axes):
        return f"stopped at rung {rung:g}: {better.digest} is better there"
    found = standings([[_finite(axis.minimised(r)) for axis in axes] for r in (*rivals, record)])
    place = sum(other < found[-1] for other in found)
    if place < (len(found) + 1) // 2:
        return ""
    return f"stopped at rung {rung:g}: lower half by rank and crowding distance"


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
