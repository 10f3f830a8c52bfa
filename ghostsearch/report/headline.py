"""What a study gained, in one sentence: the terminal, the page and the pull request say the same."""

from __future__ import annotations

from ghostsearch.records import Axis, Record, StudyView
from ghostsearch.report.outcome import (
    baseline_record,
    cost_axes,
    find_record,
    metric_name,
    number,
    ratio_to_baseline,
)
from ghostsearch.units import score_text, share_text


def headline(view: StudyView) -> str:
    """One sentence: the chosen model (the knee of the front), what it saves and what its score becomes."""
    chosen, baseline = find_record(view, view.chosen), baseline_record(view)
    if chosen is None:
        return f"No model of {view.name} meets every limit yet; raise a limit or --trials."
    if chosen.digest == "baseline" or baseline is None:
        return f"The baseline of {view.name} stays the choice: no other gives a better trade."
    savings = _savings(view, chosen, baseline)
    return f"Model {chosen.digest}, the knee of the front, {savings}{_score_change(view, chosen, baseline)}."


def _savings(view: StudyView, chosen: Record, baseline: Record) -> str:
    timed = [a for a in cost_axes(view) if a.device]
    parts = [_time_part(axis, chosen, baseline) for axis in timed[:1]]
    shares = [
        f"{share_text(ratio)} of its {noun}"
        for column, noun in (("macs", "MACs"), ("params", "parameters"))
        if (ratio := ratio_to_baseline(chosen, baseline, column)) is not None
    ]
    if not parts:
        return "has " + " and ".join(shares).replace("its", "the baseline's", 1)
    return ", with ".join([*parts, " and ".join(shares)] if shares else parts)


def _time_part(axis: Axis, chosen: Record, baseline: Record) -> str:
    ratio = ratio_to_baseline(chosen, baseline, axis.name)
    mine, device = number(chosen, axis.name), axis.device
    if ratio is None or mine is None:
        return f"takes {axis.text(mine)} on {device}"
    beside = axis.text(mine / ratio)
    pace = f"{1 / ratio:.2f}× as fast as" if ratio < 0.995 else f"{ratio:.2f}× as slow as"
    if 0.995 <= ratio <= 1.005:
        pace = "as fast as"
    return f"is {pace} the baseline on {device} ({axis.text(mine)} against {beside})"


def _score_change(view: StudyView, chosen: Record, baseline: Record) -> str:
    metric = metric_name(view)
    for split in ("test", "validation"):
        mine, theirs = chosen.score(split), baseline.score(split)
        if mine and theirs:
            return (
                f", at {score_text(mine.value, metric)} {split} {metric} "
                f"against the baseline's {score_text(theirs.value, metric)}"
            )
    return ""
