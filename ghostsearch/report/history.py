"""How a study went: hypervolume by trial, scores by rung, rank correlation of early and final scores."""

from __future__ import annotations

from math import isfinite
from typing import Any

from ghostsearch.pareto import hypervolume, pareto_front
from ghostsearch.records import Axis, Record, StudyView
from ghostsearch.report.outcome import cost_axes, last_rung, score_axis
from ghostsearch.units import counted

MIN_PAIRS = 4
"""Fewest models with both figures for which a rank correlation is shown."""


def hypervolume_history(view: StudyView) -> dict[str, Any]:
    """Hypervolume of the trials at the last rung after each one, over score and the study's first cost.

    The box reaches from the baseline's cost and the worst such score to no cost and the best score,
    so that 0 is no better than baseline and 1 is out of reach. Models that failed, broke a limit or stopped at an
    earlier rung do not count. Empty where there is nothing to draw.
    """
    score, costs, baseline = score_axis(view), cost_axes(view), view.record("baseline")
    if baseline is None or not costs:
        return {}
    sign, rung = (-1.0 if score.maximize else 1.0), last_rung(view)
    points: list[tuple[int, tuple[float, float]]] = []
    for record in view.records:
        value, cost = score.value(record), costs[0].ratio(record, baseline)
        reached = record.digest == "baseline" or ((newest := record.score()) and newest.epochs >= rung)
        if record.state == "complete" and reached and value is not None and isfinite(value) and cost is not None:
            points.append((record.number, (sign * value, cost)))
    if not points:
        return {}
    worst, best = (f(p[0] for _, p in points) for f in (max, min))
    span = (worst - best) or 1.0
    scaled = [(n, ((value - best) / span, cost)) for n, (value, cost) in points]
    curve: list[list[float]] = []
    front: list[tuple[float, float]] = []
    for n, point in scaled:
        front.append(point)
        front = [front[i] for i in pareto_front(front)]
        value = round(hypervolume(front, (1.0, 1.0)), 6)
        # A step needs its corners only, which keeps the page of a study with thousands of trials small.
        if not curve or value != curve[-1][1] or n == scaled[-1][0]:
            curve.append([n, value])
    return {"curve": curve, "cost": costs[0].label, "score": score.label}


def rung_curves(view: StudyView) -> dict[str, Any]:
    """Each model's validation scores by rung; Kendall's τ of rungs, MACs and params with the last rung."""
    curves: list[dict[str, Any]] = []
    for record in view.records:
        points = {s.epochs: s.value for s in record.scores if s.split == "validation"}
        if len(points) > 1:
            curves.append({"id": record.digest, "points": sorted(points.items())})
    epochs = sorted({e for c in curves for e, _ in c["points"]})
    return {"epochs": epochs, "curves": curves, "correlations": _correlations(view, epochs)}


def _correlations(view: StudyView, epochs: list[float]) -> list[dict[str, Any]]:
    """Rank correlation with the last rung's score of what was known before: earlier rungs, MACs, params."""
    if len(epochs) < 2:
        return []
    last = epochs[-1]
    rows = [_tau(f"score after {_epochs(e)}", view, e, last) for e in epochs[:-1]]
    rows += [_tau(label, view, column, last) for column, label in (("macs", "MACs"), ("params", "parameters"))]
    return [r for r in rows if r]


def _tau(label: str, view: StudyView, predictor: float | str, last: float) -> dict[str, Any] | None:
    from scipy.stats import kendalltau

    pairs = []
    for record in view.records:
        target = _at(record, last)
        value = Axis.of_cost(predictor).value(record) if isinstance(predictor, str) else _at(record, predictor)
        if target is not None and value is not None:
            pairs.append((value, target))
    if len(pairs) < MIN_PAIRS:
        return None
    tau, p = kendalltau(*zip(*pairs, strict=True))
    if tau != tau:
        # All scores are equal, so there is no order to compare.
        return None
    return {
        "predictor": label,
        "against": f"score after {_epochs(last)}",
        "tau": float(tau),
        "p": float(p),
        "models": len(pairs),
    }


def _at(record: Record, epochs: float) -> float | None:
    return next((s.value for s in record.scores if s.split == "validation" and s.epochs == epochs), None)


def _epochs(epochs: float) -> str:
    return "no training" if epochs == 0 else counted(epochs, "epoch")
