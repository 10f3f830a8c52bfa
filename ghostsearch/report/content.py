"""What the page's scripts draw from: the study as plain JSON, compact enough for thousands of trials."""

from __future__ import annotations

import json
import math
from typing import Any

from ghostsearch.records import Axis, Record, StudyView
from ghostsearch.report.colours import choice_colours, short_name
from ghostsearch.report.headline import headline
from ghostsearch.report.history import hypervolume_history, rung_curves
from ghostsearch.report.outcome import (
    baseline_record,
    breaches,
    cost_axes,
    find_record,
    number,
    ratio_to_baseline,
    score_axis,
    table_axes,
)
from ghostsearch.report.widths import width_shares

MAX_MODELS_BYTES = 900_000
"""With plotly.js (4.8 MB) this keeps the page under 6 MB. Where the trials need more, the page leaves out the
oldest off the front, and says so; trials.csv has them all."""


def page_content(view: StudyView) -> dict[str, Any]:
    """The JSON that the page's scripts read; numbers are in SI units, choices are indices into `choices`."""
    axes = cost_axes(view)
    colours = choice_colours({t for r in (*view.records, *view.finalists) for t in r.sites.values()} | {"keep"})
    indices = {text: i for i, text in enumerate(colours)}
    models = _models(view, axes, indices)
    shown = {m["id"] for m in models}
    rungs = rung_curves(view)
    rungs["curves"] = [c for c in rungs["curves"] if c["id"] in shown]
    tabled = table_axes(view)
    content = {
        "name": view.name,
        "headline": headline(view),
        "chosen": view.chosen,
        "front": list(view.front),
        "missed": list(view.missed),
        "score": _axis(score_axis(view)),
        "axes": [{**_axis(a), "table": a in tabled} for a in axes],
        "sites": _sites(view),
        "choices": [{"text": t, "colour": c, "short": short_name(t)} for t, c in colours.items()],
        "models": models,
        "left_out": len(view.records) - len(shown),
        "history": hypervolume_history(view),
        "rungs": rungs,
    }
    finite: dict[str, Any] = _finite(content)
    return finite


def _models(view: StudyView, axes: list[Axis], indices: dict[str, int]) -> list[dict[str, Any]]:
    """The models on the page, one a digest, by trial: the front, the anchors, and the newest that there is room for."""
    latest: dict[str, Record] = {}
    for record in view.records:
        if record.digest not in latest or record.state == "complete":
            latest[record.digest] = record
    important = {"baseline", *view.front, *(r.digest for r in view.finalists)}
    newest_first = sorted(
        latest.values(), key=lambda r: (r.digest in important or r.origin == "uniform", r.number), reverse=True
    )
    models, size = [], 0
    for record in newest_first:
        model = _model(view, record, axes, indices)
        size += len(json.dumps(model))
        if size > MAX_MODELS_BYTES:
            break
        models.append(model)
    return sorted(models, key=lambda m: m["number"])


def _axis(axis: Axis) -> dict[str, Any]:
    factor, unit = axis.scale
    return {
        "key": axis.name, "label": axis.label, "unit": unit, "factor": factor,
        "maximize": axis.maximize, "limit": axis.bound,
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
        "values": _values(record, baseline_record(view), axes),
        "choices": [indices[record.sites.get(s["path"], "keep")] for s in view.anatomy.get("sites", ())],
        "groups": record.groups,
    }  # fmt: skip
    if widths:
        model["widths"] = [round(widths.get(s["path"], 1), 3) for s in view.anatomy.get("sites", ())]
    if was_trained:
        model["final"] = {
            "score": number(final, "test_score"), "validation": number(final, "score"),
            "values": _values(final, baseline_record(view), axes), "breaches": breaches(view, final),
        }  # fmt: skip
    return model


def _values(record: Record, baseline: Record | None, axes: list[Axis]) -> dict[str, list[float | None]]:
    """Per axis: value, share of the baseline, and for a latency its quartiles."""
    table: dict[str, list[float | None]] = {}
    for axis in axes:
        value = number(record, axis.name)
        if value is None:
            continue
        table[axis.name] = [value, _rounded(ratio_to_baseline(record, baseline, axis.name))]
        if axis.device:
            latency = record.latency(axis.device)
            table[axis.name] += [float(f"{q:.5g}") for q in latency.quartiles_s] if latency else []
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
