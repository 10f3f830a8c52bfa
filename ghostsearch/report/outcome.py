"""Questions about a study that the page, the tables and the pictures all ask, answered from its view."""

from __future__ import annotations

from collections.abc import Iterable

from ghostsearch.records import COST_LABELS, Axis, Record, StudyView


def metric_name(view: StudyView) -> str:
    """The task's metric, as its scores call it."""
    return next((s.metric for r in view.records for s in r.scores), "accuracy")


def devices(view: StudyView) -> list[str]:
    """Every device that timed a model, those with a latency objective first."""
    wanted = [o.device for o in view.objectives if o.device]
    seen = sorted({x.device for r in (*view.records, *view.finalists) for x in r.latencies})
    return [*wanted, *(d for d in seen if d not in wanted)]


def score_axis(view: StudyView) -> Axis:
    """The validation score."""
    found = next((o for o in view.objectives if o.name == "score"), None)
    return (found or Axis.of_score("")).model_copy(update={"label": metric_name(view)})


def cost_axes(view: StudyView) -> list[Axis]:
    """What may be paid for the score: latency by device, MACs, params, bytes; objectives first."""
    known = [*map(Axis.of_latency, devices(view)), *map(Axis.of_cost, COST_LABELS)]
    goals, labels = {o.name: o for o in view.objectives}, {a.name: a.label for a in known}
    wanted = [o.model_copy(update={"label": labels[o.name]}) for o in view.objectives if o.name in labels]
    axes = [*wanted, *(a for a in known if a.name not in goals)]
    return [a for a in axes if any(a.value(r) is not None for r in view.records)]


def table_axes(view: StudyView) -> list[Axis]:
    """The costs that tables show: the objectives, latencies, MACs and parameters; pictures offer the rest too."""
    wanted = {"macs", "params", *(o.name for o in view.objectives)}
    return [a for a in cost_axes(view) if a.name in wanted or a.device]


def number(record: Record, column: str) -> float | None:
    """A figure of a record by its column in the trials table; None where it was not taken."""
    return _axis(column).value(record)


def ratio_to_baseline(record: Record, baseline: Record | None, column: str) -> float | None:
    """A figure over the baseline's; for latency, over the baseline timed in the same run."""
    return _axis(column).ratio(record, baseline)


def _axis(column: str) -> Axis:
    return Axis(name=column, label=column)


def find_record(view: StudyView, digest: str) -> Record | None:
    """The model's record after final training where it has one, else its trial."""
    return _by_digest(view.finalists).get(digest) or _by_digest(view.records).get(digest)


def baseline_record(view: StudyView) -> Record | None:
    """The baseline's record, after final training where it took part in it."""
    return find_record(view, "baseline")


def breaches(view: StudyView, record: Record) -> list[str]:
    """Each limit that a record's newest figures break, in words; empty when it keeps them all."""
    return [broken for axis in (score_axis(view), *cost_axes(view)) if (broken := axis.breach(record))]


def _by_digest(records: Iterable[Record]) -> dict[str, Record]:
    """Newest last wins: a digest is evaluated once, but a failed trial may have been tried again."""
    table: dict[str, Record] = {}
    for record in records:
        if record.digest not in table or record.state == "complete":
            table[record.digest] = record
    return table
