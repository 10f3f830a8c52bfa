"""The data of the report page's scripts: plotly figures, each model's texts, the sliders' options, download links."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ghostsearch.records import Axis, Record, StudyView
from ghostsearch.report.compact import ComparedModel
from ghostsearch.report.figures import front_figure, layer_figures, progress_figures, strips_figure
from ghostsearch.report.outcome import (
    best_baseline,
    by_digest,
    cost_axes,
    cost_cell,
    export_command,
    is_variant,
    metric_name,
    model_id,
    remark,
    score_axis,
    score_cell,
    shown_score,
    shown_split,
    table_axes,
    variants,
)
from ghostsearch.report.points import MARKS, NAMED_KINDS, STAGES, kinds, make_panel, stages, untried
from ghostsearch.space.limits import parse_drop
from ghostsearch.study.recommendation import BASELINES, longest_training
from ghostsearch.study.statistics import error_of_difference
from ghostsearch.units import with_prefix

MAX_MODELS_BYTES = 250_000
"""With plotly.js (4.8 MB), table rows and figures this keeps the page under 6 MB. Where the trials need more, the
page leaves out the oldest off the front, and says so; trials.csv has them all."""
MAX_STRIPS = 24
FILES = {
    "run.yaml": "everything needed to run it again: ghostsearch search --config run.yaml",
    "front.csv": "the front",
    "trials.csv": "every trial, one row each",
    "trials.parquet": "every trial, for pandas",
    "study.db": "the Optuna study, opens in optuna-dashboard",
    "report.md": "this report for a pull request",
    "front.png": "picture of the front",
    "layers.png": "picture of what each layer became",
    "latency.png": "picture of each layer's latency, before and after",
}


def page_content(view: StudyView, directory: Path, compact: Sequence[ComparedModel] = ()) -> dict[str, Any]:
    """The data of the page's scripts: plotly figures, each model's texts, and the sliders' options."""
    axes = cost_axes(view)
    reached = stages(view)
    panels = {(a.name, s): make_panel(view, a, s) for a in axes for s in reached}
    kind_of = kinds(view, panels[axes[0].name, reached[0]] if axes else None)
    models = _models(view, kind_of)
    shown = {m["id"] for m in models}
    for key, panel in panels.items():
        points = tuple(p for p in panel.points if p.model in shown)
        panels[key] = replace(panel, points=points)
    strips = _strip_records(view, kind_of)
    return {
        "chosen": view.chosen, "models": models, "left_out": len({r.digest for r in view.records} - shown),
        "axes": [
            {"name": a.name, "label": a.label, "baseline": {s: _baseline(panels[a.name, s].cost) for s in reached}}
            for a in axes
        ],
        "stages": {s: STAGES[s] for s in reached},
        "front": {
            a.name: {s: front_figure(panels[a.name, s], view, compact).to_plotly_json() for s in reached}
            for a in axes
        },
        "strips": strips_figure(view, strips, kind_of).to_plotly_json(),
        "layers": {d: {k: f.to_plotly_json() for k, f in m.items()} for d, m in layer_figures(view).items()},
        "progress": {name: f.to_plotly_json() for name, f in progress_figures(view, shown).items()},
        "options": _options(view, axes), "drop_unit": "points" if score_axis(view).scale[1] == "%" else "",
        "files": {d: found for d in _finished(view) if (found := model_links(directory, d))},
    }  # fmt: skip


def _baseline(cost: Axis) -> float | None:
    """The figure that a panel's shares are of, in the picture's unit."""
    return None if cost.baseline is None else cost.baseline * cost.scale[0]


def _finished(view: StudyView) -> list[str]:
    return list(dict.fromkeys([*view.front, *(r.digest for r in view.finalists)]))


def _models(view: StudyView, kind_of: Mapping[str, str]) -> list[dict[str, Any]]:
    """The models on the page, by trial: the front, the anchors, and the newest that there is room for."""
    latest = [*by_digest((*view.records, *untried(view))).values(), *variants(view)]
    important = {"baseline", *_finished(view), *(r.digest for r in latest if r.origin == "uniform")}
    models, size, axes = [], 0, cost_axes(view)
    for record in sorted(latest, key=lambda r: (r.digest in important, r.number), reverse=True):
        model = _model(view, record, axes, kind_of[model_id(record)], record.digest in important)
        size += len(json.dumps(model))
        if size > MAX_MODELS_BYTES and record.digest not in important:
            break
        models.append(model)
    return sorted(models, key=lambda m: m["number"])


def _model(view: StudyView, record: Record, axes: list[Axis], kind: str, important: bool) -> dict[str, Any]:
    """A model's texts: choices with their sites, figures as in the tables, origin."""
    final, baseline = record if is_variant(record) else view.record(record.digest), view.record("baseline")
    assert final is not None
    counted = Counter([*record.sites.values(), *record.groups.values()])
    sites = {text: [n for n, t in (record.sites | record.groups).items() if t == text] for text in counted}
    # The baselines have one training, and a finalist whose trial is not here its final one.
    trained = "" if record.digest in BASELINES else ", after final training"
    tested, facts = final.score("test") is not None, list[list[str]]()
    if trained and not (tested and record is final):
        facts.append(["validation, as searched", score_cell(record.score())])
    if tested or not trained:
        facts.append([f"validation{trained}", score_cell(final.score())])
    if tested:
        facts.append([f"test{trained}", score_cell(final.score("test"))])
    facts += [[a.label, cost_cell(final, baseline, a)] for a in axes if a.value(final) is not None]
    origin = f"trial {record.number} · proposed by {record.origin}"
    said = remark(view, final).removeprefix(kind).lstrip(";: ")
    words = [kind, origin, *filter(None, (record.reason if record.reason not in said else "", said))]
    score = shown_score(view, final) or record.score()
    shown = f"{score_cell(score)} {score.split}" if score else "no score"
    lines = [f"<b>{escape(model_id(record))}</b> {shown}", *(escape(f"{text} × {n}") for text, n in counted.items())]
    return {
        "number": record.number, "id": model_id(record), "note": " · ".join(words), "facts": facts,
        "about": [[text, n, ", ".join(sites[text]) if important else ""] for text, n in counted.items()],
        "hover": "<br>".join(lines),
    }  # fmt: skip


def _options(view: StudyView, axes: list[Axis]) -> list[dict[str, Any]]:
    """What the sliders choose from, as `study.pick` does: the finalists that had the full training, none before it.

    Of each its costs as shares of the baseline's, its drop in the validation score from the better baseline (accuracy
    in points), the standard error of that drop, and the axes whose limits it misses.
    """
    baseline, axis, tables = view.record("baseline"), score_axis(view), table_axes(view)
    best, options = best_baseline(view, "validation"), []
    last = longest_training(view.finalists)
    for digest in _finished(view) if view.finalists else ():
        record = view.record(digest)
        if record is None or best is None or digest in BASELINES or None in (axis.value(record), axis.value(best)):
            continue
        if (score := record.score()) and score.epochs != last:
            continue
        error = error_of_difference(record.score(), best.score())
        drop = axis.minimised(record) - axis.minimised(best)
        shares = {a.name: share for a in axes if (share := a.ratio(record, baseline)) is not None}
        splits = [f"{score_cell(s)} {s.split}" for s in (record.score(), record.score("test")) if s]
        words = [*splits, *(cost_cell(record, baseline, a) for a in tables)]
        options.append({
            "id": digest, "drop": drop * axis.scale[0], "error": error * axis.scale[0], "shares": shares,
            "missed": [a.name for a in view.objectives if a.breach(record)], "text": " · ".join(words),
            "command": export_command(view, digest),
        })  # fmt: skip
    return options


def slider_ends(view: StudyView, content: Mapping[str, Any]) -> dict[str, Any]:
    """Ranges and start values of the sliders, in percent of the baseline's cost and in units of the score."""
    options, axes, given = content["options"], cost_axes(view), view.config.get("max_drop")
    shares = [share for option in options for share in option["shares"].values()]
    # As limits are judged: shares of the baseline of the same run, of its first figure where the limit is absolute.
    limit, whole = (axes[0].bound, axes[0].baseline) if axes else (None, None)
    cost = max(100, ceil(100 * max(shares, default=1.0)))
    asked = None if given is None else parse_drop(str(given)) * score_axis(view).scale[0]
    largest = max([asked or 0.0, *(o["drop"] for o in options)])
    # In percent by tenths, else by a power of ten that makes fifty places or more.
    step = 0.1 if content["drop_unit"] or largest <= 0 else 10.0 ** floor(log10(largest / 50))
    finest = step / 1000
    while asked and step > 1.5 * finest and abs(asked / step - round(asked / step)) > 1e-6:
        step /= 10
    # The end of the slider stands for no drop asked for.
    most = float(f"{step * ceil(round(max(largest, 0.0) / step, 4) + 1):.6g}")
    return {
        "cost": cost, "budget": min(cost, ceil(round(1000 * limit / whole, 6)) / 10) if limit and whole else cost,
        "step": float(f"{step:.6g}"), "drop": most, "asked": most if asked is None else float(f"{asked:.6g}"),
        "score": metric_name(view), "split": shown_split(view), "strips": 200 + 7 * len(view.anatomy.get("sites", ())),
    }  # fmt: skip


def menu(view: StudyView, content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The models that the menu names, best kind first, with the score that headline and strips show."""
    named = [(m["note"].partition(" · ")[0], m["id"]) for m in content["models"]]
    order = list(MARKS)
    found = sorted((order.index(kind), digest) for kind, digest in named if kind in NAMED_KINDS or digest in view.front)
    records = {digest: view.record(digest) for _, digest in found}
    return [(d, f"{d} – {order[k]}, {score_cell(shown_score(view, r))}") for k, d in found if (r := records[d])]


def _strip_records(view: StudyView, kind_of: Mapping[str, str]) -> list[Record]:
    """The models whose layers are drawn, best first by the score that is shown."""
    sign = -1 if score_axis(view).maximize else 1
    wanted = [d for d, kind in kind_of.items() if kind in NAMED_KINDS]
    wanted = list(dict.fromkeys(["baseline", *view.front, *(r.digest for r in view.finalists), *wanted]))
    records = [r for d in wanted if (r := view.record(d)) and not is_variant(r)]
    scored = [(sign * s.value, r) for r in records if (s := shown_score(view, r))]
    return [r for _, r in sorted(scored, key=lambda pair: pair[0])][:MAX_STRIPS]


def study_links(directory: Path, candidates: str = "") -> list[dict[str, str]]:
    """Links to the study's tables and files that exist."""
    names = dict(FILES) | ({candidates: "the candidate table: every site × choice alone"} if candidates else {})
    return [link | {"what": what} for name, what in names.items() if (link := _link(directory, name))]


def model_links(directory: Path, digest: str) -> list[dict[str, str]]:
    """Links to a model's files under models/DIGEST."""
    folder = directory / "models" / digest
    if not digest.isalnum() or not folder.is_dir():
        return []
    found = (_link(directory, f"models/{digest}/{p.name}") for p in sorted(folder.iterdir()) if p.is_file())
    return [link | {"name": link["name"].rpartition("/")[2]} for link in found if link]


def _link(directory: Path, name: str) -> dict[str, str] | None:
    """None for what does not exist or, by `..` or a symbolic link, lies outside the directory."""
    root, path = directory.resolve(), (directory / name).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        return None
    return {"href": quote(Path(name).as_posix()), "name": name, "size": with_prefix(path.stat().st_size, "B")}
