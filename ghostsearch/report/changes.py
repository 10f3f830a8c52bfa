"""What changed from one study to others: front, chosen model, scores and costs, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, hypot, log

from ghostsearch.records import Axis, Record, StudyView
from ghostsearch.report.outcome import score_axis
from ghostsearch.study.statistics import compare
from ghostsearch.units import MISSING, PERCENT

SAME_IMAGES = ("data", "seed", "task", "train_images", "validation_list")
"""Options that decide which images a split holds."""

Row = tuple[str, list[str]]


def change_rows(views: Sequence[StudyView], axes: Sequence[Axis]) -> list[Row]:
    """Rows of the table of changes from the first study: a name, and a text for each other study.

    The score's interval is that of the paired difference where both studies scored the same images. A latency's is of
    the quotient of both shares of the baseline's, since milliseconds of two runs do not compare.
    """
    first, *others = views
    rows = [
        ("models on the front", [f"{len(first.front)} → {len(v.front)}" for v in others]),
        ("chosen model", [_models(first, v) for v in others]),
    ]
    for split in ("validation", "test"):
        axis = score_axis(first, split)
        rows.append((f"{split} {axis.label}, chosen model", [_score(first, v, axis, split) for v in others]))
    rows += [(f"{axis.label}, chosen model", [_cost(first, v, axis) for v in others]) for axis in axes]
    return [(name, cells) for name, cells in rows if any(cell != MISSING for cell in cells)]


def _models(first: StudyView, other: StudyView) -> str:
    """Both models' names, and at how many sites and groups they differ."""
    before, after = first.record(first.chosen), other.record(other.chosen)
    if before is None or after is None:
        return f"{first.chosen or MISSING} → {other.chosen or MISSING}"
    if before.digest == after.digest:
        return f"{before.digest}, the same"
    some, others = before.sites | before.groups, after.sites | after.groups
    differing = [name for name in {**some, **others} if some.get(name) != others.get(name)]
    return f"{before.digest} → {after.digest}: {len(differing)} choices differ"


def _score(first: StudyView, other: StudyView, axis: Axis, split: str) -> str:
    before, after = (r.score(split) if (r := v.record(v.chosen)) else None for v in (first, other))
    if before is None or after is None or before.metric != after.metric:
        return MISSING
    factor, unit = (100.0, " points") if before.metric in PERCENT else (1.0, "")
    same = all(first.config.get(name) == other.config.get(name) for name in SAME_IMAGES)
    low, high = compare(after, before, paired=same).interval
    change = f"{factor * (after.value - before.value):+.3g}{unit}"
    interval = "" if low == high and before.value != after.value else f" [{factor * low:+.3g}, {factor * high:+.3g}]"
    return f"{axis.text(before.value)} → {axis.text(after.value)}: {change}{interval}"


def _cost(first: StudyView, other: StudyView, axis: Axis) -> str:
    before, after = first.record(first.chosen), other.record(other.chosen)
    if before is None or after is None:
        return MISSING
    old, new = axis.value(before), axis.value(after)
    if not old or new is None:
        return MISSING
    if not axis.device:
        return f"{axis.text(old)} → {axis.text(new)}: × {new / old:.3g}"
    shares = axis.ratio(before, first.record("baseline")), axis.ratio(after, other.record("baseline"))
    if not all(shares):
        return f"{axis.text(old)} → {axis.text(new)}"
    quotient = (shares[1] or 0.0) / (shares[0] or 1.0)
    reach = hypot(*(_log_reach(r, axis.device) for r in (before, after)))
    interval = f" [{quotient * exp(-reach):.3g}, {quotient * exp(reach):.3g}]" if reach else ""
    both = " → ".join(f"{100 * (share or 0.0):.1f} %" for share in shares)
    return f"{both} of the baseline's: × {quotient:.3g}{interval}"


def _log_reach(record: Record, device: str) -> float:
    """Half the width of the interval of the logarithm of a latency's share; 0 where none was taken."""
    latency = record.latency(device)
    interval = latency.ratio_interval if latency else None
    return (log(interval[1]) - log(interval[0])) / 2 if interval and interval[0] > 0 else 0.0
