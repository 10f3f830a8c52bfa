"""What page, tables and pictures share: a study's axes, baselines, and scores and costs as text."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

from ghostsearch.records import COST_LABELS, Axis, Latency, Record, Score, StudyView
from ghostsearch.study.recommendation import (
    BASELINE,
    BASELINES,
    TRAINED,
    beaten_by,
    better_baseline,
    not_separable_from,
)
from ghostsearch.study.statistics import error_of
from ghostsearch.units import MISSING, interval_text, score_text, share_text
from ghostsearch.usercode import leave_for


def metric_name(view: StudyView) -> str:
    """The task's metric, as its scores call it."""
    return next((s.metric for r in (*view.records, *view.finalists) for s in r.scores), "accuracy")


def devices(view: StudyView) -> list[str]:
    """Every device that timed a model, those with a latency objective first."""
    wanted = [o.device for o in view.objectives if o.device]
    seen = sorted({x.device for r in (*view.records, *view.finalists) for x in r.latencies})
    return [*wanted, *(d for d in seen if d not in wanted)]


def timed_alike(view: StudyView, latency: Latency) -> bool:
    """Whether a latency was taken as the study's on that device: with its batch, threads and precision."""
    mine = next((x for r in (*view.finalists, *view.records) if (x := r.latency(latency.device))), None)
    conditions = attrgetter("batch", "threads", "precision")
    return mine is not None and conditions(mine) == conditions(latency)


def export_command(view: StudyView, digest: str) -> str:
    """What writes the file of one of the study's models: in int8 where that is what the search scored and timed."""
    place = shlex.quote((Path(view.directory) / "models" / digest).as_posix())
    wanted = [x for x in view.config.get("device", ()) if x.endswith(":int8")]
    kind = "executorch" if wanted and all(x.startswith("executorch") for x in wanted) else "onnx"
    leave = leave_for(str(view.config.get("model", "")))
    return f"ghostsearch export {place}{leave} --format {kind}{' --int8' * bool(wanted)}"


def score_axis(view: StudyView, split: str = "validation") -> Axis:
    """The score on a split; only the validation score has a limit."""
    found = next((o for o in view.objectives if o.name == "score"), None) or Axis.of_score("")
    if split == "test":
        return Axis.of_score(metric_name(view), maximize=found.maximize, test=True)
    return found.model_copy(update={"label": metric_name(view)})


def cost_axes(view: StudyView) -> list[Axis]:
    """The costs that some record has: latency by device, MACs, params, bytes; objectives first."""
    wanted = _cost_goals(view)
    known = [*map(Axis.of_latency, devices(view)), *map(Axis.of_cost, COST_LABELS)]
    axes = [*wanted, *(a for a in known if a.name not in {o.name for o in wanted})]
    return [a for a in axes if any(a.value(r) is not None for r in (*view.records, *view.finalists))]


def _cost_goals(view: StudyView) -> list[Axis]:
    """The objectives that are costs, with today's labels; they alone have limits."""
    goals = [o for o in view.objectives if o.device or o.name in COST_LABELS]
    labels = [(Axis.of_latency(o.device) if o.device else Axis.of_cost(o.name)).label for o in goals]
    return [o.model_copy(update={"label": label}) for o, label in zip(goals, labels, strict=True)]


def table_axes(view: StudyView) -> list[Axis]:
    """The costs that tables show: the objectives, latencies, MACs and parameters; pictures offer the rest too."""
    wanted = {"macs", "params", *(o.name for o in view.objectives)}
    return [a for a in cost_axes(view) if a.name in wanted or a.device]


def axis_title(axis: Axis) -> str:
    """Split, label and unit of an axis of a picture."""
    split = f"{axis.split} " if axis.is_score else ""
    unit = axis.scale[1]
    return f"{split}{axis.label} ({unit})" if unit and unit != axis.label else f"{split}{axis.label}"


def score_cell(score: Score | None) -> str:
    """A score with its standard error: `84.5 ± 0.4 %`."""
    return score_text(score.value, score.metric, error_of(score)) if score else MISSING


def cost_cell(record: Record, baseline: Record | None, axis: Axis, *, intervals: bool = True) -> str:
    """A cost with its share of the baseline's and, for a latency, that share's 95 % interval.

    The baseline's share is that of a copy of itself timed beside it: the noise of the measurement.
    """
    value = axis.value(record)
    latency = record.latency(axis.device) if axis.device else None
    known = latency.ratio_interval if latency else None
    interval = interval_text(known) if known and intervals else ""
    if value is None or (record.digest in (BASELINE, TRAINED) and not (known and record.digest == BASELINE)):
        return axis.text(value)
    itself = "a copy " * (record.digest == BASELINE)
    ratio = latency.ratio if latency and itself else axis.ratio(record, baseline)
    # No space inside the share, so that a narrow terminal breaks the line before it.
    return f"{axis.text(value)} ({itself}{share_text(ratio).replace(' ', '')}{interval})"


def shown_split(view: StudyView) -> str:
    """The split that headline, menu, strips and sliders speak of: test once the finalists have it."""
    return "test" if any(r.score("test") for r in view.finalists) else "validation"


def shown_score(view: StudyView, record: Record) -> Score | None:
    """The record's score on the split that is shown."""
    return record.score(shown_split(view))


def variants(view: StudyView) -> list[Record]:
    """The further baselines: with the finalists' training, or in the other precision."""
    return [r for r in (*view.records, *view.finalists) if is_variant(r)]


def is_variant(record: Record) -> bool:
    """Whether a record is a further baseline (see `variants`)."""
    return record.digest in BASELINES and record.digest != BASELINE


def model_id(record: Record) -> str:
    """What a model is called on the page: its digest, or the name of a further baseline."""
    return "trained baseline" if record.digest == TRAINED else record.origin if is_variant(record) else record.digest


def best_baseline(view: StudyView, split: str) -> Record | None:
    """The baseline to compare with on a split: as given or with the finalists' training, whichever scores better."""
    return better_baseline(view.finalists, score_axis(view, split)) or view.record("baseline")


def last_rung(view: StudyView) -> float:
    """The proxy epochs of the search's last rung that a trial reached; the baseline's weights are not from a rung."""
    reached = [s.epochs for r in view.records if r.digest != "baseline" and (s := r.score())]
    return max(reached, default=0.0)


def remark(view: StudyView, record: Record) -> str:
    """A model's remark in tables: `chosen`, missed limits, what of the front beats it or is not separable, noisy; of a
    finalist whose final training failed the reason."""
    if record.state == "failed":
        return f"failed: {record.reason}"
    axes = () if record.digest in BASELINES else (score_axis(view), *_cost_goals(view))
    broken = [text for axis in axes if (text := axis.breach(record))]
    if record.digest in view.missed and not broken:
        broken = ["a limit, as the search recorded it"]
    words = ["chosen"] * (record.digest == view.chosen and not is_variant(record))
    words += [f"missed: {text}" for text in broken]
    if record.digest not in BASELINES and not broken:
        words += _beside_front(view, record)
    return "; ".join([*words, *["noisy"] * any(x.noisy for x in record.latencies)])


def _beside_front(view: StudyView, record: Record) -> list[str]:
    """Which model of the front, or baseline with the same training, beats a finalist or is not separable from it."""
    mine = record.score()
    if mine is None or record.digest not in ([r.digest for r in view.finalists] or view.front):
        return []
    known = [view.record(d) for d in (*view.front, TRAINED) if d != BASELINE]
    front = [r for r in known if r and (s := r.score()) and s.epochs == mine.epochs]
    if better := beaten_by(record, front, view.objectives):
        return [f"beaten by {model_id(better)}"]
    rival = not_separable_from(record, front, view.objectives)
    return [f"not separable from {model_id(rival)}"] if rival else []


def by_digest(records: Iterable[Record]) -> dict[str, Record]:
    """The record of each architecture; of several the last complete one, since a failed trial may have been retried."""
    table: dict[str, Record] = {}
    for record in records:
        if not is_variant(record) and (record.digest not in table or record.state == "complete"):
            table[record.digest] = record
    return table
