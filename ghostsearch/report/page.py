"""The report: report.html, one file with figures, scripts and plotly.js inside, and report.md with static pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text
from ghostsearch.records import StudyView
from ghostsearch.report.classes import class_table
from ghostsearch.report.compact import ComparedModel, compact_rows, conditions, read_compact, table_note
from ghostsearch.report.content import menu, page_content, slider_ends, study_links
from ghostsearch.report.headline import cautions, headline
from ghostsearch.report.history import hypervolume_history, rung_curves
from ghostsearch.report.html import render
from ghostsearch.report.int8_layers import float_islands, gain, int8_caption, int8_table
from ghostsearch.report.live import SERVED
from ghostsearch.report.outcome import by_digest, cost_cell, score_cell, table_axes, timed_alike
from ghostsearch.report.summary import write_markdown
from ghostsearch.report.tables import (
    SORTED,
    audit_table,
    failed_rows,
    front_rows,
    measured_rows,
    vetoed_rows,
)
from ghostsearch.study.directory import RECORDS
from ghostsearch.study.store import DATABASE

SCRIPTS = ("common", "study")


def write_report(view: StudyView, directory: Path, *, live: bool = False) -> Path:
    """Write report.html, report.md and its pictures into a directory; returns the page's path.

    The page is self-contained: it needs no network and, download links apart, no file beside it. live: it links to
    those alone that `search --watch` serves.
    Raises GhostsearchError when they cannot be written, or where trials stand in the directory that the study lacks.
    """
    _check_trials(view, directory / "trials.csv")
    write_markdown(view, directory)
    page = directory / "report.html"
    write_text(page, render_page(view, directory, live=live))
    return page


def _check_trials(view: StudyView, table: Path) -> None:
    """Raise GhostsearchError for a published study without its storage: the report that it has knows every trial."""
    if view.records or not table.is_file():
        return
    with table.open(encoding="utf-8") as lines:
        known = sum(1 for _ in lines) > 1
    if known:
        raise GhostsearchError(
            f"{table} has trials whose records are not kept beside it ({DATABASE} or {RECORDS}), so the report would "
            "lose them; put one of these there, or keep the report as it is"
        )


def render_page(view: StudyView, directory: Path, *, live: bool = False) -> str:
    """The page's HTML; `directory` is where it will stand, for its download links, `live` as in `write_report`."""
    compact, files = read_compact(directory), study_links(directory, view.candidates)
    content = page_content(view, directory, compact)
    if live:
        content["files"], files = {}, [file for file in files if file["name"] in SERVED]
    named = {"axes": content["axes"], "stages": content["stages"]}
    return render(
        "study.html", SCRIPTS, content, view=view, headline=headline(view), cautions=cautions(view), named=named,
        sorted_by=SORTED,
        slider=slider_ends(view, content),
        front=front_rows(view), table_axes=[a.label for a in table_axes(view)],
        trials=_trial_rows(view, {m["id"] for m in content["models"]}), left_out=content["left_out"],
        menu=menu(view, content), layer_devices=list(content["layers"]), history=hypervolume_history(view),
        rungs=rung_curves(view), vetoed=vetoed_rows(view), failed=failed_rows(view), audit=audit_table(view),
        int8=int8_table(view), int8_caption=int8_caption(view), islands=float_islands(view), gain=gain(view),
        classes=class_table(view), measured=measured_rows(view), files=files,
        compact=compact_rows(compact) if compact else None,
        compact_note=_compact_note(view, compact) if compact else "",
    )  # fmt: skip


def _compact_note(view: StudyView, compact: Sequence[ComparedModel]) -> str:
    told = f"Measured alike: {conditions(compact)}. {table_note(compact)}"
    return told if timed_alike(view, compact[0].latency) else f"{told} The study was timed otherwise: no latency marks."


def _trial_rows(view: StudyView, shown: set[str]) -> list[dict[str, Any]]:
    """The trials table: a row for each model, cells with text and, for numbers, the value that sorts."""
    baseline, axes = view.record("baseline"), table_axes(view)
    rows = []
    for record in by_digest(view.records).values():
        if record.digest not in shown:
            continue
        score = record.score()
        on_front = "on the front" + " (chosen)" * (record.digest == view.chosen) if record.digest in view.front else ""
        cells: list[tuple[str, float | None]] = [
            (score_cell(score), score.value if score else None),
            (f"{score.epochs:g}" if score else "", score.epochs if score else None),
        ]
        cells += [(cost_cell(record, baseline, a), a.value(record)) for a in axes]
        seconds = sum(record.seconds.values())
        rows.append({
            "number": record.number, "id": record.digest, "origin": record.origin, "state": record.state,
            "front": record.digest in view.front, "cells": [*cells, (f"{seconds:.3g}", seconds)],
            "remark": on_front or record.reason,
        })  # fmt: skip
    return rows
