"""A study's result in one sentence, the same in the terminal, on the page and in report.md."""

from __future__ import annotations

from ghostsearch.records import Axis, Record, Score, StudyView
from ghostsearch.report.int8_layers import gain
from ghostsearch.report.outcome import (
    best_baseline,
    cost_axes,
    cost_cell,
    is_variant,
    metric_name,
    score_axis,
    score_cell,
    shown_score,
    shown_split,
    variants,
)
from ghostsearch.space.limits import Limits
from ghostsearch.study.recommendation import BASELINE, BASELINES, INT8, TRAINED
from ghostsearch.study.statistics import compare, on_same_images
from ghostsearch.units import AGAINST_BASELINE, AGREEMENT, SHARES, share_text


def sentences(view: StudyView) -> list[str]:
    """What the terminal says of a study: the headline, its cautions, and the layer that should stay in float."""
    return [headline(view), *cautions(view), *filter(None, [gain(view)])]


def headline(view: StudyView) -> str:
    """One sentence: the chosen model, what it saves, its score beside the better baseline's."""
    chosen, baseline = view.record(view.chosen), view.record(BASELINE)
    if view.records and all(r.digest == BASELINE for r in view.records):
        return _nothing_tried(view)
    if (chosen is None or chosen.digest == BASELINE) and (failed := _failures(view)):
        return failed
    if chosen is None:
        return _none_chosen(view)
    if chosen.digest == BASELINE or baseline is None:
        precision = " int8" * any((axis.device or "").endswith(":int8") for axis in cost_axes(view))
        return f"The{precision} baseline of {view.name} stays the choice: no other model is a better trade."
    told = f"odel {chosen.digest} {_savings(view, chosen, baseline)}{_score_change(view, chosen)}"
    return f"M{told}." if view.finalists else f"So far m{told}; rerun the same command to finish."


def _nothing_tried(view: StudyView) -> str:
    """What is told where a stop, the time budget or the number of trials left room for the baseline alone."""
    budget, told = view.config.get("time_budget"), f"Only the baseline of {view.name} was tried"
    if view.config.get("trials", 2) <= len(view.records):
        return f"{told}; raise --trials."
    if budget is None and any(view.config.get(f"max_{cost}") for cost in ("latency", "macs", "params", "memory")):
        return (
            f"{told}: the run was stopped, or nothing else was found that keeps the limits; rerun the same command to "
            "go on, or widen them."
        )
    if budget is None:
        return f"{told} before the run was stopped; rerun the same command to go on."
    return (
        f"{told}: the time budget of {budget} was over before any other trial, or the run was stopped; rerun the same "
        "command, with a longer --time-budget or without one."
    )


def _failures(view: StudyView) -> str:
    """What is told where every trial but the baseline's, or every finalist, failed; else nothing."""
    for what, records in (("trial", view.records), ("finalist", view.finalists)):
        others = [r for r in records if r.digest not in BASELINES]
        if others and all(r.state == "failed" for r in others):
            every = f"The only other {what}" if len(others) == 1 else f"All {len(others)} other {what}s"
            then = "raise --trials" if what == "trial" else "rerun the same command"
            reason = others[0].reason.rstrip(".")
            return f"{every} of {view.name} failed, the first with: {reason}; fix the cause and {then}."
    return ""


def _none_chosen(view: StudyView) -> str:
    """What is told where no model is chosen: the search has not ended, or no model keeps its limits."""
    if not view.finalists:
        return f"The search of {view.name} has not ended and chose no model yet; rerun the same command to go on."
    if any(view.config.get(name) is not None for name in Limits.model_fields):
        return f"No model of {view.name} meets every limit yet; relax a limit or raise --trials."
    return f"No model of {view.name} was chosen; raise --trials."


def cautions(view: StudyView) -> list[str]:
    """Warnings beside the headline, one sentence each: the chosen model is hardly usable, the images have no labels, or
    the baseline in int8 is better.
    """
    chosen = view.record(view.chosen)
    return [text for told in (_hardly_usable, _label_free, _beaten_by_int8) if chosen and (text := told(view, chosen))]


def _hardly_usable(view: StudyView, chosen: Record) -> str:
    """A warning where a score that is a share is less than half of the better baseline's."""
    mine, theirs = _both_scores(view, chosen)
    if mine is None or theirs is None or mine.metric.removesuffix(AGAINST_BASELINE) not in SHARES:
        return ""
    if not score_axis(view).maximize or mine.value >= theirs.value / 2:
        return ""
    return (
        f"Careful: {score_cell(mine)} is less than half of the baseline's {mine.metric}, so the model is hardly usable "
        "as it is; relax the limits, or give it more --calibration-images, --distill-steps or --final-epochs."
    )


def _label_free(view: StudyView, chosen: Record) -> str:  # noqa: ARG001
    """A warning that the score is only agreement with the baseline."""
    metric = metric_name(view)
    if metric != AGREEMENT and not metric.endswith(AGAINST_BASELINE):
        return ""
    return f"The images have no labels: {metric} says how closely a model follows the baseline, not which is right."


def _beaten_by_int8(view: StudyView, chosen: Record) -> str:
    """A warning where the baseline in int8 is faster than the chosen model and not proven worse."""
    int8 = next((r for r in variants(view) if r.digest == INT8), None)
    timed = next((axis for axis in cost_axes(view) if axis.device), None)
    if int8 is None or timed is None:
        return ""
    mine, theirs = shown_score(view, chosen), shown_score(view, int8)
    ours, quick = timed.ratio(chosen), timed.ratio(int8)
    if mine is None or theirs is None or ours is None or quick is None or quick >= ours:
        return ""
    lead = compare(theirs, mine, maximize=score_axis(view).maximize)
    if lead.worse:
        return ""
    verdict = "scores no worse" if lead.value >= 0 else "is not proven worse"
    return (
        f"The baseline in int8 is faster and {verdict}: {share_text(quick)} of the latency at {score_cell(theirs)}; "
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
    mine, theirs = _both_scores(view, chosen)
    if mine is None or theirs is None or other is None:
        return ""
    both = f", at {score_cell(mine)} {shown_split(view)} {mine.metric} against the baseline's {score_cell(theirs)}"
    if mine.epochs > theirs.epochs and view.record(TRAINED) is None:
        # Until the final training, which the baseline has too: the difference would be that of the training.
        return f"{both} without that training"
    return f"{both}{' with the same training' if is_variant(other) else ''}{_paired(mine, theirs)}"


def _paired(mine: Score, theirs: Score) -> str:
    """The difference on the images that both were scored on, with its 95 % interval; empty where they are not known."""
    if on_same_images(mine, theirs) is None:
        return ""
    found = compare(mine, theirs)
    change, low, high = (f"{100 * x:+.1f}" for x in (found.value, *found.interval))
    return f" ({change} [{low}, {high}] points on the same images)"


def _both_scores(view: StudyView, chosen: Record) -> tuple[Score | None, Score | None]:
    """The chosen model's score and the better baseline's, on the split that the report shows."""
    other = best_baseline(view, shown_split(view))
    return shown_score(view, chosen), shown_score(view, other) if other else None
