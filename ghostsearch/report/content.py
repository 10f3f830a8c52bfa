"""What the page's scripts draw from: the study as plain JSON, compact enough for thousands of trials."""

from __future__ import annotations

import math
from typing import Any

from ghostsearch.records import Record, StudyView
from ghostsearch.report.colours import choice_colours, short_name
from ghostsearch.report.headline import headline
from ghostsearch.report.history import hypervolume_history, rung_curves
from ghostsearch.report.outcome import (
    Axis,
    breaches,
    cost_axes,
    find_record,
    number,
    plain_record,
    ratio_to_plain,
    score_axis,
)
from ghostsearch.report.widths import width_shares

MAX_TRIALS = 1500
"""Above this the page leaves out the oldest trials off the front, and says so; trials.csv has them all."""


def page_content(view: StudyView) -> dict[str, Any]:
    """The JSON that the page's scripts read; numbers are in SI units, choices are indices into `choices`."""
    shown = _shown(view)
    texts = {t for r in (*shown, *view.finalists) for t in r.sites.values()} | {"keep"}
    colours = choice_colours(texts)
    axes, score = cost_axes(view), score_axis(view)
    indices = {text: i for i, text in enumerate(colours)}
    models = [_model(view, r, axes, indices) for r in shown]
    return _finite(
        {
            "name": view.name, "headline": headline(view), "chosen": view.chosen, "front": list(view.front),
            "missed": list(view.missed), "score": _axis(score), "axes": [_axis(a) for a in axes],
            "sites": _sites(view),
            "choices": [{"text": t, "colour": c, "short": short_name(t)} for t, c in colours.items()],
            "models": models, "left_out": len(view.records) - len(shown),
            "history": hypervolume_history(view), "rungs": rung_curves(view),
        }
    )  # fmt: skip


def _shown(view: StudyView) -> list[Record]:
    """The trials on the page, one a digest: all, or of very many the newest, the front and the anchors."""
    latest: dict[str, Record] = {}
    for record in view.records:
        if record.digest not in latest or record.state == "complete":
            latest[record.digest] = record
    important = {*view.front, *(r.digest for r in view.finalists), "plain"}
    room = MAX_TRIALS - len(important)
    newest = set(list(latest)[-room:]) if room > 0 else set()
    return [r for d, r in latest.items() if d in important or d in newest or r.origin == "uniform"]


def _axis(axis: Axis) -> dict[str, Any]:
    factor, unit = axis.scale
    return {
        "key": axis.column, "label": axis.label, "unit": unit, "factor": factor,
        "maximize": axis.maximize, "limit": axis.limit,
    }  # fmt: skip


def _sites(view: StudyView) -> list[dict[str, Any]]:
    return [
        {
            "path": s["path"], "kind": s["kind"], "in": s["in_channels"], "out": s["out_channels"],
            "macs": s["macs"],
        }
        for s in view.anatomy.get("sites", ())
    ]  # fmt: skip


def _model(view: StudyView, record: Record, axes: list[Axis], indices: dict[str, int]) -> dict[str, Any]:
    final = find_record(view, record.digest)
    assert final is not None
    was_trained = final is not record and bool(final.score("test"))
    score = record.score()
    widths = width_shares(view, record.groups)
    model: dict[str, Any] = {
        "number": record.number, "id": record.digest, "origin": record.origin, "state": record.state,
        "reason": record.reason, "seconds": sum(record.seconds.values()), "started": record.started,
        "score": score.value if score else None, "rung": score.epochs if score else None,
        "values": _values(record, plain_record(view), axes),
        "choices": [indices[record.sites.get(s["path"], "keep")] for s in view.anatomy.get("sites", ())],
        "groups": record.groups,
    }  # fmt: skip
    if widths:
        model["widths"] = [widths.get(s["path"], 1) for s in view.anatomy.get("sites", ())]
    if was_trained:
        model["final"] = {
            "score": number(final, "test_score"), "values": _values(final, plain_record(view), axes),
            "breaches": breaches(view, final),
        }  # fmt: skip
    return model


def _values(record: Record, plain: Record | None, axes: list[Axis]) -> dict[str, list[float | None]]:
    """Per axis: value, share of the plain model, and for a latency its quartiles."""
    table: dict[str, list[float | None]] = {}
    for axis in axes:
        value = number(record, axis.column)
        if value is None:
            continue
        table[axis.column] = [value, _rounded(ratio_to_plain(record, plain, axis.column))]
        if axis.column.startswith("latency_s["):
            latency = record.latency(axis.column[len("latency_s[") : -1])
            table[axis.column] += [float(f"{q:.5g}") for q in latency.quartiles_s] if latency else []
    return table


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _finite(data: Any) -> Any:
    """The data with NaN and infinities as null, which JSON has no words for."""
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
