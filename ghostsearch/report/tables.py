"""Terminal tables of a study, by rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghostsearch.records import Record, StudyView
from ghostsearch.report.outcome import (
    baseline_record,
    breaches,
    find_record,
    metric_name,
    number,
    ratio_to_baseline,
    table_axes,
)
from ghostsearch.units import score_text, share_text

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table


def front_rows(view: StudyView) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the front, baseline first: digest, scores, costs, with their share of baseline's, remark."""
    baseline, metric = baseline_record(view), metric_name(view)
    axes = table_axes(view)
    tested = any(r.score("test") for r in view.finalists)
    header = ["model", f"validation {metric}", *([f"test {metric}"] if tested else [])]
    header += [*(axis.label for axis in axes), "remark"]
    rows = []
    for digest in dict.fromkeys(["baseline", *view.front]):
        record = find_record(view, digest)
        if record is None:
            continue
        row = [digest, score_text(_validation(view, digest), metric)]
        if tested:
            row.append(score_text(number(record, "test_score"), metric))
        for axis in axes:
            if digest == "baseline":
                row.append(axis.text(number(record, axis.name)))
                continue
            # No space inside the brackets, so that a narrow terminal breaks the line before them.
            share = share_text(ratio_to_baseline(record, baseline, axis.name)).replace(" ", "")
            row.append(f"{axis.text(number(record, axis.name))} ({share})")
        rows.append([*row, remark(view, record)])
    return header, rows


def remark(view: StudyView, record: Record) -> str:
    """What to say of a model beside its figures: `chosen`, the limits it missed, noisy timing."""
    words = ["chosen"] if record.digest == view.chosen else []
    words += [f"missed: {text}" for text in breaches(view, record) if record.digest != "baseline"]
    words += ["noisy"] * any(x.noisy for x in record.latencies)
    return "; ".join(words)


def front_table(view: StudyView) -> Table:
    """The front beside the baseline as a rich table; the chosen model is set off."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    header, rows = front_rows(view)
    table = Table(
        title=f"front of {escape(view.name)}: {len(view.front)} models from {len(view.records)} trials",
        title_justify="left",
        caption="in brackets: share of the baseline's; noisy: quartiles more than a tenth of the median apart",
        caption_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    for number_of_column, name in enumerate(header):
        text = number_of_column in (0, len(header) - 1)
        justify: JustifyMethod = "left" if text else "right"
        # In two lines, so that 80 columns hold a device and the usual axes.
        heading = escape("\n".join(name.rsplit(" ", 1)))
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=not number_of_column)
    for row in rows:
        style = "bold green" if row[0] == view.chosen else "dim" if row[0] == "baseline" else ""
        table.add_row(*(escape(cell or "") for cell in row), style=style)
    return table


def _validation(view: StudyView, digest: str) -> float | None:
    """The search's own validation score; final training may have added no newer one."""
    record = find_record(view, digest)
    value = number(record, "score") if record else None
    if value is not None:
        return value
    trial = next((r for r in view.records if r.digest == digest), None)
    return number(trial, "score") if trial else None
