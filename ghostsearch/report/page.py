"""The report page: one HTML file with data, scripts and plotly.js inside, which fetches nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ghostsearch.files import write_text
from ghostsearch.records import StudyView, latency_column
from ghostsearch.report.compact import ComparedModel, compact_rows, conditions, read_compact, table_note
from ghostsearch.report.conditions import measured
from ghostsearch.report.content import page_content
from ghostsearch.report.html import render
from ghostsearch.report.layer_times import layer_times
from ghostsearch.report.links import model_links, study_links
from ghostsearch.report.markdown import write_markdown
from ghostsearch.report.outcome import breaches, metric_name, number, table_axes
from ghostsearch.units import score_text

SCRIPTS = ("format", "base", "theme", "front", "strips", "layers", "charts", "trials", "main")


def write_report(view: StudyView, directory: Path) -> Path:
    """Write report.html, report.md and its pictures into a directory; returns the page's path.

    The page is self-contained: it needs no network and, download links apart, no file beside it.
    Raises GhostsearchError when they cannot be written.
    """
    write_markdown(view, directory)
    page = directory / "report.html"
    write_text(page, render_page(view, directory))
    return page


def render_page(view: StudyView, directory: Path) -> str:
    """The page's HTML; `directory` is where it will stand, for its download links."""
    digests = [*view.front, *(r.digest for r in view.finalists)]
    content = page_content(view)
    compact = read_compact(directory)
    content["layer_times"] = layer_times(view)
    content["compact"] = [_compact_mark(model) for model in compact]
    content["files"] = {d: links for d in dict.fromkeys(digests) if (links := model_links(directory, d))}
    return render(
        "study.html",
        SCRIPTS,
        view=view,
        content=content,
        headline=content["headline"],
        measured=measured(view),
        rungs=content["rungs"],
        vetoed=vetoed_rows(view),
        audit=audit_table(view),
        finalists=finalist_rows(view),
        compact=compact_rows(compact) if compact else None,
        compact_conditions=conditions(compact) if compact else "",
        compact_note=table_note(compact) if compact else "",
        files=study_links(directory, view.candidates),
    )


def finalist_rows(view: StudyView) -> list[dict[str, Any]]:
    """The finalists with test score and latency as measured at the end, and each limit they missed."""
    axes, metric = table_axes(view), metric_name(view)
    rows = []
    for record in view.finalists:
        score = record.score("test")
        missed = [] if record.digest == "baseline" else breaches(view, record)
        if record.digest in view.missed and not missed:
            missed = ["a limit, as the search recorded it"]
        rows.append(
            {
                "id": record.digest,
                "score": score,
                "missed": missed,
                "score_text": score_text(score.value if score else None, metric),
                "costs": [axis.text(number(record, axis.name)) for axis in axes],
                "noisy": any(x.noisy for x in record.latencies),
            }
        )
    return rows


def _compact_mark(model: ComparedModel) -> dict[str, Any]:
    """A compact network on the front's cost axes; its published accuracy has no place on the study's own score."""
    values = {"params": model.cost.params, "macs": model.cost.macs, "size_bytes": model.cost.size_bytes}
    return {"name": model.name, "values": {**values, latency_column(model.latency.device): model.latency.median_s}}


def vetoed_rows(view: StudyView) -> list[dict[str, str]]:
    """The vetoed choices as text: the interval is of time over the baseline layer's."""
    rows = []
    for veto in view.vetoed:
        ratio, interval = veto.get("ratio"), veto.get("interval")
        rows.append(
            {
                **{key: str(veto.get(key, "")) for key in ("site", "choice", "device")},
                "ratio": f"{ratio:.2f}" if isinstance(ratio, float) else "–",
                "interval": " – ".join(f"{x:.2f}" for x in interval) if interval else "–",
            }
        )
    return rows


def audit_table(view: StudyView) -> dict[str, list[Any]]:
    """The audit of the latency model as header and rows of text; errors in percent."""
    titles = {
        "models": "measured models",
        "mape": "mean error (MAPE)",
        "tau": "rank correlation (Kendall τ)",
        "worst": "worst error",
    }
    keys = list(dict.fromkeys(key for row in view.audit for key in row))
    percent = {"mape", "worst"}
    rows = [
        [
            f"{row[key]:.1%}" if key in percent and isinstance(row.get(key), float)
            else f"{row[key]:.2f}" if isinstance(row.get(key), float) else str(row.get(key, ""))
            for key in keys
        ]
        for row in view.audit
    ]  # fmt: skip
    return {"header": [titles.get(key, key) for key in keys], "rows": rows}
