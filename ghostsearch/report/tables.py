"""A study as rows of text: the terminal's front table, and the tables of report.md and of the page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostsearch.records import Record, StudyView
from ghostsearch.report.outcome import (
    cost_cell,
    devices,
    metric_name,
    model_id,
    remark,
    score_axis,
    score_cell,
    table_axes,
    variants,
)
from ghostsearch.study.candidates import FILE, failed_choices, read_candidates
from ghostsearch.study.recommendation import BASELINES
from ghostsearch.units import MISSING, counted, setting_text

if TYPE_CHECKING:
    from rich.table import Table

CIRCUMSTANCES = ("command", "begun by", "date", "processor", "cores", "system")
"""What a study's environment holds besides versions."""
AUDIT_TITLES = {
    "models": "measured models", "mape": "mean error (MAPE)", "tau": "rank correlation (Kendall τ)",
    "worst": "worst error",
}  # fmt: skip
SORTED = "best score first"


def front_rows(view: StudyView, *, intervals: bool = True) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the baselines, the front and the other finalists: digest, scores ± standard error and the
    epochs behind them, costs with their share of the baseline's and its 95 % interval, remark."""
    baseline, metric, axes = view.record("baseline"), metric_name(view), table_axes(view)
    tested = any(r.score("test") for r in view.finalists)
    header = ["model", f"validation {metric}", *([f"test {metric}"] if tested else []), "epochs"]
    header += [*(axis.label for axis in axes), "remark"]
    rows = []
    named = dict.fromkeys([*view.front, *view.missed, *(r.digest for r in view.finalists)])
    others = [r for d in named if d not in BASELINES and (r := view.record(d))]
    others.sort(key=lambda r: _place(view, r))
    for record in (*([baseline] if baseline else []), *variants(view), *others):
        score = _validation(view, record)
        row = [model_id(record), score_cell(score)] + [score_cell(record.score("test"))] * tested
        rows.append(
            [
                *row,
                f"{score.epochs:g}" if score else MISSING,
                *(cost_cell(record, baseline, axis, intervals=intervals) for axis in axes),
                remark(view, record),
            ]
        )
    return header, rows


def _place(view: StudyView, record: Record) -> float:
    """What a table is sorted by: the validation score, best first, models without one last."""
    score = _validation(view, record)
    return float("inf") if score is None else -score.value if score_axis(view).maximize else score.value


def _validation(view: StudyView, record: Record) -> Any:
    """The newest validation score; final training may have added none to the trial's."""
    return record.score() or next((r.score() for r in view.records if r.digest == record.digest), None)


def front_table(view: StudyView) -> Table:
    """The front beside the baseline as a rich table; the chosen model is set off."""
    header, rows = front_rows(view, intervals=False)
    header = [name.replace("validation", "val.").replace("latency on ", "latency ") for name in header]
    caption = (
        f"{SORTED}; ± standard error; in brackets: share of the baseline's; "
        "noisy: quartiles more than a tenth of the median apart"
    )
    styles = ["bold green" if row[0] == view.chosen else "dim" * row[0].endswith("baseline") for row in rows]
    return narrow_table(view.front_title, header, rows, caption, styles)


def narrow_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, styles: Sequence[str] = ()
) -> Table:
    """A rich table of a name, figures and perhaps a remark per row, narrow enough for 80 columns."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(title), title_justify="left", caption=escape(caption), caption_justify="left",
        header_style="bold", box=box.SIMPLE_HEAD, show_edge=False, padding=0,
    )  # fmt: skip
    for column, name in enumerate(header):
        left = column == 0 or name == "remark"
        heading = escape("\n".join(name.rsplit(" ", 1)))
        table.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=not column)
    for row, style in zip_longest(rows, styles, fillvalue=""):
        table.add_row(*map(escape, row), style=style)
    return table


def vetoed_rows(view: StudyView) -> list[dict[str, str]]:
    """The choices left out as text: the interval is of time over the baseline layer's, the reason that of a failure."""
    rows = []
    for veto in (*view.vetoed, *failed_choice_rows(view)):
        ratio, interval = veto.get("ratio"), veto.get("interval")
        texts = {key: str(veto.get(key) or "") for key in ("site", "choice", "device", "reason")}
        span = " – ".join(f"{x:.2f}" for x in interval) if interval else MISSING
        rows.append(texts | {"ratio": f"{ratio:.2f}" if isinstance(ratio, float) else MISSING, "interval": span})
    return rows


def failed_choice_rows(view: StudyView) -> list[dict[str, str]]:
    """What left the space because its row of the candidate table, kept in the study's folder, failed."""
    folder = Path(view.directory)
    failed = failed_choices(read_candidates(folder)) if (folder / FILE).is_file() else {}
    return [{"site": name, "choice": choice, "reason": reason} for (_, name, choice), reason in failed.items()]


def failed_rows(view: StudyView) -> list[tuple[str, str, str]]:
    """Trials that failed, then finalists that did after their trial: number, name and reason."""
    tried = [(str(r.number), r.digest, r.reason) for r in view.records if r.state == "failed"]
    ended = [r for r in view.finalists if r.state == "failed"]
    return [*tried, *((str(r.number), model_id(r), f"in the final training: {r.reason}") for r in ended)]


def audit_table(view: StudyView) -> tuple[list[str], list[list[str]]]:
    """The audit of the latency model as header and rows of text; errors in percent."""
    keys = list(dict.fromkeys(key for row in view.audit for key in row))

    def text(key: str, value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.1%}" if key in ("mape", "worst") else f"{value:.2f}"
        return str(value)

    return [AUDIT_TITLES.get(k, k) for k in keys], [[text(k, row.get(k, "")) for k in keys] for row in view.audit]


def measured_rows(view: StudyView) -> list[tuple[str, str]]:
    """How it was measured: device, threads, batch, timing, scores, versions, seed and command, as name and text."""
    rows = [(f"device {device}", text) for device in devices(view) if (text := _timing(view, device))]
    sample = next((r for r in (*view.records, *view.finalists) if r.scores), None)
    if sample and (score := sample.score()):
        rows.append(("search score", f"{score.metric} on {score.images} {score.split} images, seed {score.seed}"))
    # The baseline may have had no further epoch, so the longest trained finalist speaks for all.
    final = max((s for r in view.finalists if (s := r.score("test"))), key=lambda s: s.epochs, default=None)
    if final:
        text = f"{final.metric} on {final.images} test images, read once, after {final.epochs:g} epochs"
        rows.append(("final score", text))
    circumstances = {key: view.environment[key] for key in CIRCUMSTANCES if key in view.environment}
    rows += circumstances.items()
    rows.append(("versions", ", ".join(f"{k} {v}" for k, v in view.environment.items() if k not in circumstances)))
    given = {key: value for key, value in view.config.items() if value not in (None, (), [], {})}
    rows.append(("options", "; ".join(f"{key} {setting_text(value)}" for key, value in given.items())))
    return [(name, text) for name, text in rows if text]


def _timing(view: StudyView, device: str) -> str:
    """How a device was timed, from the record that was timed last."""
    record = next((r for r in reversed((*view.records, *view.finalists)) if r.latency(device)), None)
    latency = record.latency(device) if record else None
    if latency is None:
        return ""
    threads = counted(latency.threads, "thread")
    # Five figures without a count are the summary of an older study, which does not say how many there were.
    runs = latency.runs or (None if len(latency.times_s) == 5 else len(latency.times_s))
    forwards = "forwards" if runs is None else counted(runs, "forward")
    text = f"batch {latency.batch}, {threads}, {latency.precision}; median of {forwards} after warm-up"
    text += ", interleaved with the baseline" if latency.baseline_times_s else ""
    return f"{text}; CPU wait time is subtracted" if latency.waited_s else text
