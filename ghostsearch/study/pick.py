"""Picks one of a study's measured models under limits that the user names once the front is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Axis, Record, StudyView
from ghostsearch.space.limits import Limit, Limits
from ghostsearch.study.baseline import COST_COLUMNS
from ghostsearch.study.directory import kept_model, load_study
from ghostsearch.study.recommendation import BASELINE, BASELINES, better_baseline, longest_training, recommended


@dataclass(frozen=True)
class Pick:
    """The model taken, the baseline that its score was compared with, and the axes with the limits that held."""

    record: Record
    baseline: Record | None
    axes: tuple[Axis, ...]

    def directory(self, study: Path) -> Path:
        """Where its study keeps the model; raises GhostsearchError where it was published without models."""
        return kept_model(study, self.record.digest)


def pick_from(folder: Path, wanted: Limits) -> Pick:
    """`pick` from the study in a directory; raises GhostsearchError where there is none."""
    return pick(load_study(folder), wanted)


def pick(view: StudyView, wanted: Limits) -> Pick:
    """The finalist that `study.recommendation.recommended` names under limits, judged on what was measured at the end.

    A limit of the search holds where `wanted` has no other for its axis. Raises GhostsearchError, naming the nearest
    model, when no finalist keeps them all.
    """
    if not view.objectives or not view.finalists:
        raise GhostsearchError(f"{view.directory} has no measured finalists yet; let 'ghostsearch search' finish")
    axes = limited_axes(view, wanted)
    score = next(axis for axis in axes if axis.is_score)
    wanted.check_score(score.label)
    drop = wanted.drop() if wanted.max_drop else Limits(max_drop=view.config.get("max_drop")).drop()
    models = _models(view)
    if not models:
        failed = any(r.state == "failed" for r in view.finalists)
        way = "rerun its search, whose finalists failed" if failed else "search with more --trials, or more time"
        raise GhostsearchError(f"{view.directory} has no finished model but the baseline; {way}")
    kept = [r for r in models if not any(axis.breach(r) for axis in axes)]
    baseline = better_baseline(view.finalists, score)
    digest = recommended(kept, view.finalists, axes, drop)
    found = next((r for r in kept if r.digest == digest), None)
    if found is None:
        raise GhostsearchError(_nearest(view, models, axes, baseline, drop))
    return Pick(found, baseline, axes)


def measured_within(view: StudyView, wanted: Limits) -> list[Record]:
    """The finalists that keep limits and those of the search, best score first; none where the search has not ended."""
    if not view.objectives or not view.finalists:
        return []
    axes = limited_axes(view, wanted)
    score = next(axis for axis in axes if axis.is_score)
    return sorted((r for r in _models(view) if not any(axis.breach(r) for axis in axes)), key=score.minimised)


def _models(view: StudyView) -> list[Record]:
    """The finalists that had the full training, without the baselines."""
    last = longest_training(view.finalists)
    return [r for r in view.finalists if r.digest not in BASELINES and (s := r.score()) and s.epochs == last]


def limited_axes(view: StudyView, wanted: Limits) -> tuple[Axis, ...]:
    """The study's axes under the limits wanted now, with those that only these bring in behind them."""
    axes = {axis.name: axis for axis in view.objectives}
    baseline = next((r for r in (*view.finalists, *view.records) if r.digest == BASELINE), None)
    for limit in wanted.limits():
        for fresh in _axes_of(limit, view.finalists):
            axis = axes.get(fresh.name, fresh)
            known = axis.baseline or (axis.value(baseline) if baseline else None)
            changed = {"limit": limit.value, "relative": limit.relative, "baseline": known}
            axes[axis.name] = axis.model_copy(update=changed)
    if wanted.min_accuracy is not None:
        score = next(axis for axis in view.objectives if axis.is_score)
        axes[score.name] = score.model_copy(update={"limit": wanted.min_accuracy})
    return tuple(axes.values())


def _axes_of(limit: Limit, finalists: Sequence[Record]) -> list[Axis]:
    """The axes that a limit bounds: the latency on every device, or one cost; raises where it was not taken."""
    if limit.axis == "latency":
        made = [Axis.of_latency(device) for device in dict.fromkeys(x.device for r in finalists for x in r.latencies)]
    else:
        made = [Axis.of_cost(COST_COLUMNS[limit.axis])]
    missing = [axis.label for axis in made if any(axis.value(r) is None for r in finalists if r.state != "failed")]
    if missing or not made:
        raise GhostsearchError(f"--max-{limit.axis}: this study did not measure it; search with --max-{limit.axis}")
    return made


def _nearest(
    view: StudyView, models: Sequence[Record], axes: Sequence[Axis], baseline: Record | None, drop: float | None
) -> str:
    """One line: which model comes nearest to the limits, and what it breaks."""
    score = next(axis for axis in axes if axis.is_score)

    def lost(record: Record) -> float:
        return 0.0 if baseline is None else score.minimised(record) - score.minimised(baseline)

    def excess(record: Record) -> float:
        over = [_over(axis, record) for axis in axes if axis.limit is not None]
        return max([*over, lost(record) - drop if drop is not None else 0.0])

    best = min(models, key=lambda r: (excess(r), score.minimised(r)))
    broken = [text for axis in axes if (text := axis.breach(best))]
    if drop is not None and lost(best) > drop:
        broken.append(f"{score.label} {score.text(lost(best))} below the baseline's, over the drop {score.text(drop)}")
    return f"no measured model of {view.directory} keeps the limits; the nearest is {best.digest}: {'; '.join(broken)}"


def _over(axis: Axis, record: Record) -> float:
    """By which share a record is over a limit; a score by how far it is below."""
    value, bound = axis.value(record), axis.bound
    assert axis.limit is not None
    if value is None:
        return 0.0
    if axis.device and axis.relative:
        return (axis.ratio(record) or 0.0) / axis.limit - 1
    if bound is None:
        return 0.0
    if axis.is_score:
        return bound - value if axis.maximize else value - bound
    return value / bound - 1
