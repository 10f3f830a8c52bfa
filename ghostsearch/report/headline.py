"""What a study gained, in one sentence: the terminal, the page and the pull request say the same."""

from __future__ import annotations

from ghostsearch.records import Axis, Record, StudyView
from ghostsearch.report.outcome import (
    baseline_record,
    best_baseline,
    cost_axes,
    cost_cell,
    is_variant,
    score_axis,
    score_cell,
    shown_score,
    shown_split,
    variants,
)
from ghostsearch.study.choose import INT8
from ghostsearch.units import share_text


def headline(view: StudyView) -> str:
    """One sentence: the chosen model, what it saves, its score beside the better baseline's; a second one where the
    baseline in int8 beats it.
    """
    chosen, baseline = view.record(view.chosen), baseline_record(view)
    if chosen is None:
        return f"No model of {view.name} meets every limit yet; relax a limit or raise --trials."
    if chosen.digest == "baseline" or baseline is None:
        precision = " int8" * _in_int8(view)
        stays = f"The{precision} baseline of {view.name} stays the choice: no other model is a better trade."
        return stays + _beaten_by_int8(view, baseline)
    gain = f"Model {chosen.digest} {_savings(view, chosen, baseline)}{_score_change(view, chosen)}."
    return gain + _beaten_by_int8(view, chosen)


def _in_int8(view: StudyView) -> bool:
    return any((axis.device or "").endswith(":int8") for axis in cost_axes(view))


def _beaten_by_int8(view: StudyView, chosen: Record | None) -> str:
    """What the reader must know where the baseline in int8 is faster than the chosen model and scores no worse."""
    int8 = next((r for r in variants(view) if r.digest == INT8), None)
    timed = next((axis for axis in cost_axes(view) if axis.device), None)
    if int8 is None or timed is None or chosen is None:
        return ""
    mine, theirs = shown_score(view, chosen), shown_score(view, int8)
    ours, quick = timed.ratio(chosen), timed.ratio(int8)
    if mine is None or theirs is None or ours is None or quick is None or quick >= ours:
        return ""
    worse = theirs.value < mine.value if score_axis(view).maximize else theirs.value > mine.value
    if worse:
        return ""
    return (
        f" The baseline in int8 beats it: {share_text(quick)} of the latency at {score_cell(theirs)}; "
        f"search with --device {timed.device}:int8."
    )


def _savings(view: StudyView, chosen: Record, baseline: Record) -> str:
    timed = [a for a in cost_axes(view) if a.device]
    parts = [_time_part(axis, chosen, baseline) for axis in timed[:1]]
    shares = [
        f"{share_text(ratio)} of its {noun}"
        for column, noun in (("macs", "MACs"), ("params", "parameters"))
        if (ratio := Axis.of_cost(column).ratio(chosen, baseline)) is not None
    ]
    if not parts:
        return "has " + " and ".join(shares).replace("its", "the baseline's", 1)
    return ", with ".join([*parts, " and ".join(shares)] if shares else parts)


def _time_part(axis: Axis, chosen: Record, baseline: Record) -> str:
    ratio = axis.ratio(chosen, baseline)
    cell = cost_cell(chosen, baseline, axis)
    if ratio is None:
        return f"takes {axis.text(axis.value(chosen))} on {axis.device}"
    pace = f"{1 / ratio:.2f}× as fast as" if ratio < 0.995 else f"{ratio:.2f}× as slow as"
    if 0.995 <= ratio <= 1.005:
        pace = "as fast as"
    return f"is {pace} the baseline on {axis.device}, {cell}"


def _score_change(view: StudyView, chosen: Record) -> str:
    """The score on the one split that the whole report shows, beside that of the better baseline."""
    other = best_baseline(view, shown_split(view))
    mine, theirs = shown_score(view, chosen), shown_score(view, other) if other else None
    if mine is None or theirs is None or other is None:
        return ""
    trained = " with the same training" if is_variant(other) else ""
    score = f"{score_cell(mine)} {shown_split(view)} {mine.metric}"
    return f", at {score} against the baseline's {score_cell(theirs)}{trained}"
