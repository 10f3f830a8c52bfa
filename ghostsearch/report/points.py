"""Points of the figure of score against cost: each model's mark and error bars, and the front of these two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from ghostsearch.pareto import pareto_front
from ghostsearch.records import Axis, Record, StudyView
from ghostsearch.report.outcome import (
    by_digest,
    is_variant,
    last_rung,
    model_id,
    score_axis,
    shown_split,
    variants,
)
from ghostsearch.study.recommendation import TRAINED, beaten_by, longest_training, not_separable_from
from ghostsearch.study.statistics import error_of
from ghostsearch.units import share_text

STAGES: Mapping[str, str] = {
    "finished": "finalists, after final training: validation",
    "test": "finalists, after final training: test",
    "searched": "all trials, as searched: validation",
}
"""What a panel shows, in words, by its name; the recommended model is chosen among the first."""


@dataclass(frozen=True)
class Mark:
    """How a kind of model is drawn, in plotly's names; an open symbol is not proven to be on the front."""

    symbol: str
    colour: str
    size: int


MARKS: Mapping[str, Mark] = {
    "chosen": Mark("star", "accent", 17),
    "baseline": Mark("square", "ink", 12),
    "trained baseline": Mark("square-open", "ink", 12),
    "int8 baseline": Mark("cross", "ink", 12),
    "float baseline": Mark("cross-open", "ink", 12),
    "missed a limit": Mark("x", "warn", 10),
    "front, uniform": Mark("diamond", "uniform", 11),
    "front": Mark("circle", "accent", 10),
    "not separable, uniform": Mark("diamond-open", "accent", 10),
    "not separable": Mark("circle-open", "accent", 9),
    "uniform": Mark("diamond-open", "uniform", 10),
    "other models": Mark("circle-open", "other", 8),
    "stopped early": Mark("triangle-down-open", "other", 6),
    "failed": Mark("x", "other", 6),
}
"""How each kind of model is marked; the first ones are drawn on top. Colours are names of the page's palette."""
FAINT_KINDS = ("other models", "stopped early", "failed")
"""Kinds that are drawn without error bars."""
NAMED_KINDS = tuple(kind for kind in MARKS if kind not in ("not separable", *FAINT_KINDS))
"""Kinds that the page's menu names one by one, beside the study's front."""


@dataclass(frozen=True)
class Point:
    """A model on the picture, in the picture's units."""

    model: str
    kind: str
    x: float
    y: float
    x_range: tuple[float, float] | None
    """95 % interval of the latency, from its ratio to the baseline."""
    y_error: float | None
    """Standard error of the score."""


@dataclass(frozen=True)
class Panel:
    """Score against one cost at one of STAGES, with the front of these two axes alone."""

    stage: str
    cost: Axis
    score: Axis
    points: tuple[Point, ...]
    line: tuple[tuple[float, float], ...]
    """The front's corners, by cost."""
    asked: str
    """The limit on the cost as it was asked for, an absolute one with its share where the line is drawn by that."""


def stages(view: StudyView) -> list[str]:
    """The names of STAGES that a study has reached, what it was decided on first."""
    return list(STAGES) if shown_split(view) == "test" else ["searched"]


def make_panel(view: StudyView, cost: Axis, stage: str) -> Panel:
    """Every model that has both figures at a stage.

    The line joins the models that none of the same rung that meets every limit dominates on these two axes. A mark is
    `front` where the images prove it better than all of the line that cost no more, and `not separable`, on the line or
    beside it, where they prove neither that nor that one of those is better.
    Latencies are shares of the baseline's in the same run times one figure of the baseline, as limits are judged: a
    model that keeps a limit never lies beyond its line because the machine was slower then.
    """
    first = next((r for r in view.records if r.digest == "baseline"), None)
    if cost.baseline is None and first:
        cost = cost.model_copy(update={"baseline": cost.value(first)})
    asked = "" if cost.bound is None else cost.text(cost.bound)
    if cost.relative and cost.limit is not None:
        # A figure would be that of one stage; its words are those of a breach.
        asked = f"{cost.limit * 100:.4g} %"
    score = score_axis(view, "test" if stage == "test" else "validation")
    finished = next((r for r in view.finalists if r.digest == "baseline"), None)
    if stage != "searched" and finished and (figure := cost.value(finished)) is not None:
        moved = figure / cost.baseline if cost.limit is not None and not cost.relative and cost.baseline else 1.0
        asked += f", {share_text(cost.bound / cost.baseline)}" if moved != 1 and cost.bound and cost.baseline else ""
        cost = cost.model_copy(update={"baseline": figure, "limit": cost.limit and cost.limit * moved})
    trials = by_digest((*view.records, *untried(view)) if stage == "searched" else view.finalists)
    further = [] if stage == "searched" else variants(view)
    records = [r for r in (*trials.values(), *further) if _places(r, cost, score)]
    # The baseline was trained before the search, whose rungs do not count for it.
    rung, exempt = (last_rung(view), "baseline") if stage == "searched" else (longest_training(view.finalists), "")
    eligible = [r for r in records if _may_be_front(view, r, cost, score, 0.0 if r.digest == exempt else rung)]
    sign = -1.0 if score.maximize else 1.0
    places = [place for r in eligible for place in _places(r, cost, score)]
    front = pareto_front([(x, sign * y) for x, y in places])
    line = [eligible[i] for i in front]
    standing = {r.digest: _standing(r, line, (cost, score)) for r in eligible}
    points = tuple(_point(r, _kind(view, r, standing.get(r.digest, "")), cost, score) for r in records)
    return Panel(stage, cost, score, points, tuple(sorted(places[i] for i in front)), asked)


def untried(view: StudyView) -> list[Record]:
    """The finalists without a trial in the view: all of a study whose trials are kept elsewhere."""
    known = {r.digest for r in view.records}
    return [r for r in view.finalists if r.digest not in known]


def _places(record: Record, cost: Axis, score: Axis) -> list[tuple[float, float]]:
    """Its place in the picture's units; empty where a figure is missing."""
    x, y = cost.minimised(record), score.value(record)
    if y is None or not isfinite(x) or not isfinite(y):
        return []
    return [(x * cost.scale[0], y * score.scale[0])]


def _may_be_front(view: StudyView, record: Record, cost: Axis, score: Axis, rung: float) -> bool:
    """Whether it meets the limits and may be compared: scores of different rungs are not."""
    if (is_variant(record) and record.digest != TRAINED) or record.state != "complete" or record.digest in view.missed:
        return False
    newest = record.score(score.split)
    if newest and newest.epochs < rung:
        return False
    # Of the score's limit only on the split that is shown; of every other axis, shown or not.
    limits = (axis for axis in view.objectives if not axis.is_score)
    return not (cost.breach(record) or score.breach(record) or any(axis.breach(record) for axis in limits))


def _standing(record: Record, line: Sequence[Record], axes: Sequence[Axis]) -> str:
    """`front`, `not separable`, or nothing for a model that one of the line's is proven to beat."""
    if beaten_by(record, line, axes):
        return ""
    return "not separable" if not_separable_from(record, line, axes) else "front"


def _kind(view: StudyView, record: Record, standing: str) -> str:
    """The kind of a model on the picture, a key of MARKS."""
    if is_variant(record) or record.digest == "baseline":
        return model_id(record) if model_id(record) in MARKS else "baseline"
    if record.state == "failed":
        return "failed"
    if record.digest == view.chosen:
        return "chosen"
    if record.digest in view.missed:
        return "missed a limit"
    if record.origin == "uniform":
        return f"{standing}, uniform" if standing else "uniform"
    if standing:
        return standing
    return "other models" if record.state == "complete" and not record.reason else "stopped early"


def kinds(view: StudyView, panel: Panel | None) -> dict[str, str]:
    """The kind of every model: of those on the panel its own, of the rest by the study's front."""
    found = {model_id(r): _kind(view, r, "front" * (r.digest in view.front)) for r in (*view.records, *view.finalists)}
    return found | ({p.model: p.kind for p in panel.points} if panel else {})


def _point(record: Record, kind: str, cost: Axis, score: Axis) -> Point:
    ((x, y),) = _places(record, cost, score)
    latency = record.latency(cost.device) if cost.device else None
    interval = latency.ratio_interval if latency else None
    error = error_of(record.score(score.split))
    (fx, _), (fy, _) = cost.scale, score.scale
    around = None
    if interval and cost.baseline:
        low, high = (share * cost.baseline * fx for share in interval)
        around = min(low, x), max(high, x)
    return Point(model_id(record), kind, x, y, around, None if error is None else error * fy)
