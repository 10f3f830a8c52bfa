"""Several studies side by side on one page: their fronts, their figures, and what differs between the runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text
from ghostsearch.pareto import hypervolume
from ghostsearch.records import Axis, StudyView
from ghostsearch.report.changes import Row, change_rows
from ghostsearch.report.figures import comparison_figure
from ghostsearch.report.headline import headline
from ghostsearch.report.html import render
from ghostsearch.report.outcome import (
    cost_axes,
    cost_cell,
    metric_name,
    score_axis,
    score_cell,
)
from ghostsearch.report.points import STAGES, make_panel, stages
from ghostsearch.study.recommendation import FLOAT, INT8
from ghostsearch.units import MISSING, setting_text


class Comparison(NamedTuple):
    """The page, and what changed from the first study: a name and a text per other study."""

    page: Path
    changes: list[Row]


def write_comparison(views: Sequence[StudyView], directory: Path) -> Comparison:
    """Write compare.html, a self-contained page about two or more studies.

    Raises GhostsearchError when there are fewer than two, when they share no cost or score different metrics.
    """
    views = _distinct_names(views)
    axes = _shared_axes(views)
    metrics = sorted({metric_name(v) for v in views})
    if len(views) < 2 or not axes or len(metrics) > 1:
        raise GhostsearchError(
            "a comparison takes two or more studies with the same metric and a cost that all of them measured; "
            f"got {len(views)} with metrics {', '.join(metrics)} and {len(axes)} common costs"
        )
    shared = {s: words for s, words in STAGES.items() if all(s in stages(v) for v in views)}
    figures: dict[str, dict[str, Any]] = {}
    for axis in axes:
        figures[axis.name] = {}
        for stage in shared:
            panels = [make_panel(v, axis, stage) for v in views]
            figures[axis.name][stage] = {
                name: comparison_figure(views, panels, relative=name == "relative").to_plotly_json()
                for name in ("absolute", "relative")
            }
    page, changes = directory / "compare.html", change_rows(views, axes)
    html = render(
        "compare.html", ("common", "compare"), {"figures": figures}, views=views, axes=axes, stages=shared,
        headlines=[headline(v) for v in views], figures=figure_rows(views, axes), differences=different_settings(views),
        warnings=_warnings(views, axes), changes=changes,
    )  # fmt: skip
    write_text(page, html)
    return Comparison(page, changes)


def figure_rows(views: Sequence[StudyView], axes: Sequence[Axis]) -> list[tuple[str, list[str]]]:
    """Rows of the table of figures: a name and one text per study."""
    metric = metric_name(views[0])
    rows = [
        ("trials", [str(len(v.records)) for v in views]),
        ("models on the front", [str(len(v.front)) for v in views]),
        ("hypervolume", _hypervolumes(views, axes[0])),
    ]
    picks = (("baseline", "baseline"), ("chosen", ""))
    for split in ("validation", "test"):
        for label, pick in picks:
            rows.append((f"{split} {metric}, {label} model", [_score(v, pick or v.chosen, split) for v in views]))
    for axis in axes:
        for label, pick in picks:
            rows.append((f"{axis.label}, {label} model", [_cost(v, pick or v.chosen, axis) for v in views]))
    spent = [sum(sum(r.seconds.values()) for r in v.records) for v in views]
    rows.append(("minutes spent on trials", [f"{s / 60:.1f}" for s in spent]))
    return [(name, cells) for name, cells in rows if any(c != MISSING for c in cells)]


def different_settings(views: Sequence[StudyView]) -> list[tuple[str, list[str]]]:
    """Options and versions that are not the same in all studies."""
    tables = [{**v.environment, **{f"run: {k}": setting_text(x) for k, x in v.config.items()}} for v in views]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [(name, [table.get(name, MISSING) for table in tables]) for name in names]
    return [(name, cells) for name, cells in rows if len(set(cells)) > 1]


def _distinct_names(views: Sequence[StudyView]) -> list[StudyView]:
    """The views, with their directory as name where two are called the same."""
    names = [v.name for v in views]
    return [v.model_copy(update={"name": v.directory}) if names.count(v.name) > 1 else v for v in views]


def _shared_axes(views: Sequence[StudyView]) -> list[Axis]:
    """The first study's costs that every study has."""
    return [a for a in cost_axes(views[0]) if all(a.name in {b.name for b in cost_axes(v)} for v in views[1:])]


def _hypervolumes(views: Sequence[StudyView], axis: Axis) -> list[str]:
    """Each front's share of one box: from the costliest baseline and the worst finished score to no cost and the best.

    Models stand where they are on the front: finalists after their training, latencies by their ratio.
    """
    sign = -1.0 if score_axis(views[0]).maximize else 1.0
    seen = [(v, r) for v in views for r in (v.finalists or v.records) if r.state == "complete"]
    seen = [(v, r) for v, r in seen if r.digest not in (INT8, FLOAT)]
    scores = [sign * s for v, r in seen if (s := score_axis(v).value(r)) is not None]
    baselines = [c for v in views if (p := v.record("baseline")) and (c := axis.value(p))]
    if not scores or not baselines or max(scores) == min(scores):
        return [MISSING] * len(views)
    best, span, dearest = min(scores), max(scores) - min(scores), max(baselines)
    texts = []
    for view in views:
        front, baseline = [r for d in view.front if (r := view.record(d))], view.record("baseline")
        whole = baseline and axis.value(baseline)
        shares = [axis.ratio(r, baseline) for r in front]
        costs = [share * whole if share is not None and whole else None for share in shares]
        pairs = zip((score_axis(view).value(r) for r in front), costs, strict=True)
        points = [((sign * s - best) / span, c / dearest) for s, c in pairs if s is not None and c is not None]
        texts.append(f"{hypervolume(points, (1.0, 1.0)):.3f}")
    return texts


def _score(view: StudyView, digest: str, split: str) -> str:
    record = view.record(digest)
    return score_cell(record.score(split) if record else None)


def _cost(view: StudyView, digest: str, axis: Axis) -> str:
    record = view.record(digest)
    return cost_cell(record, view.record("baseline"), axis) if record else MISSING


def _warnings(views: Sequence[StudyView], axes: Sequence[Axis]) -> list[str]:
    """What keeps the figures from being compared one to one."""
    found = []
    for key, what in (("model", "start from different models"), ("data", "were scored on different data")):
        if len({str(v.config.get(key)) for v in views}) > 1:
            found.append(f"The studies {what}.")
    hosts = {v.environment.get("processor") for v in views}
    if len(hosts) > 1 and any(a.device for a in axes):
        found.append("Latency was measured on different processors: compare the shares, not the milliseconds.")
    return found
