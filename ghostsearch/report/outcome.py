"""Questions about a study that the page, the tables and the pictures all ask, answered from its view."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ghostsearch.records import Objective, Record, StudyView
from ghostsearch.report.units import milliseconds, score_text, with_prefix


@dataclass(frozen=True)
class Axis:
    """A figure every model has: where it stands in the trials table, and how people read it."""

    column: str
    label: str
    maximize: bool = False
    limit: float | None = None
    metric: str = ""

    @property
    def scale(self) -> tuple[float, str]:
        """Factor and unit for an axis of a picture."""
        if self.column in ("score", "test_score"):
            return (100.0, "%") if self.metric == "accuracy" else (1.0, self.metric)
        if self.column.startswith("latency_s["):
            return 1e3, "ms"
        return 1e-6, {"macs": "M", "params": "M"}.get(self.column, "MB")

    def text(self, value: float | None) -> str:
        """A value with its unit."""
        if self.column in ("score", "test_score"):
            return score_text(value, self.metric)
        if self.column.startswith("latency_s["):
            return milliseconds(value)
        return with_prefix(value, {"macs": "", "params": ""}.get(self.column, "B"))

    def breaks_limit(self, value: float | None) -> bool:
        """Whether a value is known and on the wrong side of the limit."""
        if value is None or self.limit is None:
            return False
        return value < self.limit if self.maximize else value > self.limit


def metric_name(view: StudyView) -> str:
    """The task's metric, as its scores call it."""
    return next((s.metric for r in view.records for s in r.scores), "accuracy")


def devices(view: StudyView) -> list[str]:
    """Every device that timed a model, those with a latency objective first."""
    wanted = [o.name[len("latency_s[") : -1] for o in view.objectives if o.name.startswith("latency_s[")]
    seen = sorted({x.device for r in (*view.records, *view.finalists) for x in r.latencies})
    return [*wanted, *(d for d in seen if d not in wanted)]


def score_axis(view: StudyView) -> Axis:
    """The validation score."""
    objective = next((o for o in view.objectives if o.name == "score"), None)
    metric = metric_name(view)
    if objective is None:
        return Axis("score", metric, maximize=True, metric=metric)
    return Axis("score", metric, objective.maximize, objective.limit, metric)


def cost_axes(view: StudyView) -> list[Axis]:
    """What may be paid for the score: latency by device, MACs, params, bytes; objectives first."""
    labels = {f"latency_s[{d}]": f"latency on {d}" for d in devices(view)}
    labels |= {
        "macs": "MACs", "params": "parameters", "size_bytes": "size", "peak_memory_bytes": "peak memory"
    }  # fmt: skip
    goals: dict[str, Objective] = {o.name: o for o in view.objectives}
    order = [*(n for n in goals if n in labels), *(n for n in labels if n not in goals)]
    axes = [Axis(name, labels[name], limit=goals[name].limit if name in goals else None) for name in order]
    return [a for a in axes if any(number(r, a.column) is not None for r in view.records)]


def table_axes(view: StudyView) -> list[Axis]:
    """The costs that tables show: the objectives, latencies, MACs and parameters; pictures offer the rest too."""
    wanted = {"macs", "params", *(o.name for o in view.objectives)}
    return [a for a in cost_axes(view) if a.column in wanted or a.column.startswith("latency_s[")]


def number(record: Record, column: str) -> float | None:
    """A figure of a record by its column in the trials table; None where it was not taken."""
    if column.startswith("latency_s["):
        latency = record.latency(column[len("latency_s[") : -1])
        return latency.median_s if latency else None
    if column in ("score", "test_score"):
        score = record.score("test" if column == "test_score" else "validation")
        return score.value if score else None
    return getattr(record.cost, column) if record.cost else None


def ratio_to_baseline(record: Record, baseline: Record | None, column: str) -> float | None:
    """A figure over the baseline's; for latency, over the baseline timed in the same run."""
    if record.digest == "baseline":
        return None if number(record, column) is None else 1.0
    if column.startswith("latency_s["):
        latency = record.latency(column[len("latency_s[") : -1])
        if latency and latency.ratio is not None:
            return latency.ratio
    mine, theirs = number(record, column), baseline and number(baseline, column)
    return mine / theirs if mine is not None and theirs else None


def find_record(view: StudyView, digest: str) -> Record | None:
    """The model's record after final training where it has one, else its trial."""
    return _by_digest(view.finalists).get(digest) or _by_digest(view.records).get(digest)


def baseline_record(view: StudyView) -> Record | None:
    """The baseline's record, after final training where it took part in it."""
    return find_record(view, "baseline")


def breaches(view: StudyView, record: Record) -> list[str]:
    """Each limit that a record's newest figures break, in words; empty when it keeps them all."""
    found = []
    for axis in (score_axis(view), *cost_axes(view)):
        value = number(record, axis.column)
        if axis.breaks_limit(value):
            sign = "<" if axis.maximize else ">"
            found.append(f"{axis.label} {axis.text(value)} {sign} {axis.text(axis.limit)}")
    return found


def _by_digest(records: Iterable[Record]) -> dict[str, Record]:
    """Newest last wins: a digest is evaluated once, but a failed trial may have been tried again."""
    table: dict[str, Record] = {}
    for record in records:
        if record.digest not in table or record.state == "complete":
            table[record.digest] = record
    return table
