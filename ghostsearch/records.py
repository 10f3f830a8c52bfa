"""What a study keeps of every trial; plain data, no torch."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from ghostsearch.options import Frozen
from ghostsearch.shown import Shown, Table
from ghostsearch.space.architecture import Architecture
from ghostsearch.units import PERCENT, counted, milliseconds, score_text, with_prefix


class _Frozen(Frozen):
    model_config = ConfigDict(ser_json_inf_nan="constants")


OLD_KEYS = {
    "plain_times_s": "baseline_times_s", "plain_latencies": "baseline_latencies", "plain_s": "baseline_s",
}  # fmt: skip
OLD_DIGEST_KEYS = ("digest", "origin", "chosen", "front", "missed")


def upgraded(data: Any) -> Any:
    """Data of a study written before the baseline was called so (study version 1), in today's names."""
    if isinstance(data, dict):
        return {
            OLD_KEYS.get(key, key): _upgraded_digests(value) if key in OLD_DIGEST_KEYS else upgraded(value)
            for key, value in data.items()
        }
    return [upgraded(value) for value in data] if isinstance(data, list) else data


def _upgraded_digests(value: Any) -> Any:
    if isinstance(value, list):
        return [_upgraded_digests(x) for x in value]
    return "baseline" if value == "plain" else value


LATENCY = "latency_s"
COST_LABELS: Mapping[str, tuple[str, str]] = {
    "macs": ("MACs", "MACs"), "params": ("parameters", ""), "size_bytes": ("size", "B"),
    "peak_memory_bytes": ("peak memory", "B"),
}  # fmt: skip
"""Label and unit of each exact cost, by its column in the trials table."""


def latency_column(device: str, figure: str = LATENCY) -> str:
    """The column of a device's latency, or of another `figure` of it."""
    return f"{figure}[{device}]"


def device_of(column: str) -> str | None:
    """The device whose latency a column holds; None for other columns."""
    return column[len(LATENCY) + 1 : -1] if column.startswith(f"{LATENCY}[") else None


class Cost(_Frozen):
    """Exact, device-free numbers of a model on one image."""

    params: int
    macs: int
    """Multiply-adds of convolutions, linear layers and matrix products (one multiply-add = 1)."""
    size_bytes: int
    """Bytes of parameters and buffers as stored."""
    peak_memory_bytes: int | None = None
    """Largest sum of live activations at batch 1; None where it was not worked out."""


class Latency(_Frozen):
    """Raw seconds per forward of a batch, with the baseline's from the same interleaved run."""

    device: str
    threads: int
    batch: int
    precision: str = "float32"
    times_s: tuple[float, ...]
    baseline_times_s: tuple[float, ...] = ()
    ratio_interval: tuple[float, float] | None = None
    """95 % confidence interval of the ratio of medians, candidate over baseline."""
    stopped: str = ""
    """Why measuring ended: `narrow` (interval small enough), `time limit`, or `N builds` where no more are made."""
    cores_busy: float | None = None
    """Cores that the runtime kept busy, as checked before timing; None where the device is not this process's cores."""
    disturbed: int = 0
    """Visits taken again because another process held the core meanwhile; their times are not in `times_s`."""
    waited_s: float = 0.0
    """Seconds in all that the timed calls waited for a core, and that `times_s` leave out (one thread, Linux)."""
    runs: int | None = None
    """Forwards that were timed, where `times_s` are five figures of them; None in studies that did not count."""

    def __copy__(self) -> Latency:
        """Without the medians that it has worked out, since `model_copy` may give it other times."""
        return self.model_construct(self.model_fields_set, **{k: getattr(self, k) for k in type(self).model_fields})

    @cached_property
    def median_s(self) -> float:
        """Median seconds per forward."""
        return statistics.median(self.times_s)

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """First and third quartile in seconds."""
        low, _, high = _quarters(self.times_s)
        return low, high

    @cached_property
    def baseline_median_s(self) -> float | None:
        """Median seconds of the baseline in the same run; None when it was not timed."""
        return statistics.median(self.baseline_times_s) if self.baseline_times_s else None

    @property
    def ratio(self) -> float | None:
        """Median over the baseline's median; below 1 is faster than baseline."""
        return self.median_s / self.baseline_median_s if self.baseline_median_s else None

    def summarised(self) -> Latency:
        """The same with extremes, quartiles and medians in place of the raw seconds, so that all of these stay."""
        few = {"times_s": _summary(self.times_s), "baseline_times_s": _summary(self.baseline_times_s)}
        return self.model_copy(update={**few, "runs": self.runs or len(self.times_s)})

    @property
    def interval_s(self) -> tuple[float, float]:
        """95 % interval of the seconds: the ratio's times the baseline's median, else the median's."""
        if self.ratio_interval and self.baseline_median_s:
            return self.ratio_interval[0] * self.baseline_median_s, self.ratio_interval[1] * self.baseline_median_s
        return _median_interval(self.times_s)

    @property
    def noisy(self) -> bool:
        """Whether the interquartile range exceeds a tenth of the median: trust such a figure little."""
        low, high = self.quartiles_s
        return high - low > 0.1 * self.median_s


class Score(_Frozen):
    """How well a model did on one split."""

    metric: str
    value: float
    split: Literal["validation", "test"]
    epochs: float
    """Proxy epochs the weights have had after inheriting: 0 is closed form alone. This is the rung."""
    images: int
    seed: int
    stderr: float | None = None
    """Standard error of the value over the images; None where the task does not score images one by one."""
    right: str = ""
    """Which images were right, in the split's order: bits packed, base64; empty where the task does not say."""
    by_class: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Right and all images of each class; of the test split of tasks with one label per image."""

    def outcomes(self) -> NDArray[np.bool_] | None:
        """Which images were right, in the split's order (images,); None where that is not known."""
        if not self.right:
            return None
        bits = np.unpackbits(np.frombuffer(base64.b64decode(self.right), dtype=np.uint8))
        return bits[: self.images].astype(bool)


State = Literal["complete", "pruned", "failed"]


class Record(Shown, _Frozen):
    """One trial of a study: what was built, what it costs, how fast and how good it is."""

    number: int
    digest: str
    """Name of the architecture; `baseline` for the unchanged model."""
    sites: dict[str, str] = Field(default_factory=dict)
    groups: dict[str, str] = Field(default_factory=dict)
    origin: str
    """Who proposed it: `baseline`, `uniform`, `solver`, `sampler`."""
    state: State
    reason: str = ""
    """Why it was pruned or failed, or, when complete, stopped at a rung: it keeps the score it had there."""
    cost: Cost | None = None
    latencies: tuple[Latency, ...] = ()
    scores: tuple[Score, ...] = ()
    """One per rung reached, oldest first; the test split's comes from the final pass only."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall time by stage: fit, measure, train, evaluate."""
    started: str = ""
    """ISO 8601, UTC."""
    limits: dict[str, str] = Field(default_factory=dict)
    """The limits that it ran under, as they were given: axis and text."""

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, data: Any) -> Any:
        return upgraded(data)

    @property
    def architecture(self) -> Architecture:
        """The architecture of this trial."""
        return Architecture.of(self.sites, self.groups)

    def score(self, split: str = "validation") -> Score | None:
        """The newest score on a split."""
        return next((s for s in reversed(self.scores) if s.split == split), None)

    def summarised(self) -> Record:
        """The same with each latency's raw seconds replaced by five figures: a hundredth of the size."""
        return self.model_copy(update={"latencies": tuple(x.summarised() for x in self.latencies)})

    def axes(self) -> tuple[Axis, ...]:
        """The axes of every figure that it has."""
        splits = {s.split: s.metric for s in self.scores}
        scores = [Axis.of_score(metric, test=split == "test") for split, metric in splits.items()]
        costs = [a for a in map(Axis.of_cost, COST_LABELS) if a.value(self) is not None]
        return (*scores, *costs, *(Axis.of_latency(x.device) for x in self.latencies))

    def table(self) -> Table:
        """A row per figure, with its share of the baseline's where that was measured beside it."""
        rows = []
        for axis in self.axes():
            timed = self.latency(axis.device) if axis.device else None
            share = "" if timed is None or timed.ratio is None else f"{timed.ratio * 100:.1f} % of the baseline's"
            name = f"test {axis.label}" if axis.name == "test_score" else axis.label
            rows.append([name, axis.text(axis.value(self)), share])
        return f"model {self.digest}", ["figure", "value", ""], rows

    def latency(self, device: str) -> Latency | None:
        """The newest latency on a device."""
        return next((x for x in reversed(self.latencies) if x.device == device), None)


class Axis(_Frozen):
    """One figure that every model has, and the one reader of it: the score, a cost, or the latency on a device.

    `name` is its column in the trials table: `score`, `test_score`, `macs`, `params`, `size_bytes`,
    `peak_memory_bytes` or `latency_s[DEVICE]`.
    """

    name: str
    label: str
    """For a score the metric's name."""
    unit: str = ""
    maximize: bool = False
    limit: float | None = None
    """The bound, in the unit or, where `relative`, as a share of the baseline's figure; None where there is none."""
    relative: bool = False
    baseline: float | None = None
    """The baseline's figure in the unit, as the study first took it; None where it is not known."""

    @classmethod
    def of_score(cls, metric: str, *, maximize: bool = True, limit: float | None = None, test: bool = False) -> Axis:
        """The axis of a metric on the validation split, or on the test split."""
        return cls(name="test_score" if test else "score", label=metric, maximize=maximize, limit=limit)

    @classmethod
    def of_cost(cls, column: str, **more: Any) -> Axis:
        """The axis of an exact cost, by its column."""
        label, unit = COST_LABELS[column]
        return cls(name=column, label=label, unit=unit, **more)

    @classmethod
    def of_latency(cls, device: str, **more: Any) -> Axis:
        """The axis of the latency on a device, in seconds."""
        return cls(name=latency_column(device), label=f"latency on {device}", unit="s", **more)

    @classmethod
    def of_column(cls, column: str) -> Axis:
        """The axis of a cost's or latency's column."""
        device = device_of(column)
        return cls.of_latency(device) if device else cls.of_cost(column)

    @property
    def device(self) -> str | None:
        """The device of a latency axis; None for the others."""
        return device_of(self.name)

    @property
    def is_score(self) -> bool:
        """Whether it is the task's metric, on either split."""
        return self.name in ("score", "test_score")

    @property
    def split(self) -> str:
        """The split that a score's axis reads."""
        return "test" if self.name == "test_score" else "validation"

    @property
    def bound(self) -> float | None:
        """The limit in the unit, for pictures and predictions; None where there is none or the baseline is unknown."""
        if self.limit is None or not self.relative:
            return self.limit
        return None if self.baseline is None else self.limit * self.baseline

    @property
    def scale(self) -> tuple[float, str]:
        """Factor and unit for an axis of a picture."""
        if self.is_score:
            return (100.0, "%") if self.label in PERCENT else (1.0, self.label)
        if self.device:
            return 1e3, "ms"
        return 1e-6, {"macs": "M", "params": "M"}.get(self.name, "MB")

    def value(self, record: Record) -> float | None:
        """A record's figure in the unit, a latency as its median; None where it was not taken."""
        if self.is_score:
            score = record.score(self.split)
            return score.value if score else None
        if self.device:
            latency = record.latency(self.device)
            return latency.median_s if latency else None
        return getattr(record.cost, self.name) if record.cost else None

    def ratio(self, record: Record, baseline: Record | None = None) -> float | None:
        """A record's figure over the baseline's, a latency's over that in its own run; None where one is missing."""
        if record.digest == "baseline":
            return None if self.value(record) is None else 1.0
        if self.device and (latency := record.latency(self.device)) and latency.ratio is not None:
            return latency.ratio
        mine = self.value(record)
        theirs = self.baseline if baseline is None else self.value(baseline)
        return mine / theirs if mine is not None and theirs else None

    def minimised(self, record: Record) -> float:
        """The figure to compare records by, smaller being better; NaN where it was not taken.

        A latency is the ratio measured beside the baseline in the same run times the baseline's first figure, so that
        a machine that is slower today does not make a model worse.
        """
        value = self.value(record)
        if value is None:
            return math.nan
        if self.maximize:
            return -value
        if self.device and self.baseline is not None and (ratio := self.ratio(record)) is not None:
            return ratio * self.baseline
        return float(value)

    def text(self, value: float | None) -> str:
        """A value with its unit, as people read it; a dash for None."""
        if self.is_score:
            return score_text(value, self.label)
        return milliseconds(value) if self.device else with_prefix(value, "B" if self.unit == "B" else "")

    def breach(self, record: Record, *, surely: bool = False) -> str | None:
        """How a record breaks the limit, in words; None when it keeps it, or there is no limit or no figure.

        A latency is judged by its ratio to the baseline of the same run, against a limit in seconds times the
        baseline's first figure. With `surely`, its whole 95 % interval must lie over the limit.
        """
        value = self.value(record)
        if self.limit is None or value is None:
            return None
        if self.device and (latency := record.latency(self.device)):
            return self._latency_breach(record, latency, surely)
        bound = self.bound
        if bound is None or (value >= bound if self.maximize else value <= bound):
            return None
        return f"{self.label} {self.text(value)} {'below' if self.maximize else 'over'} the limit {self.text(bound)}"

    def _latency_breach(self, record: Record, latency: Latency, surely: bool) -> str | None:
        assert self.limit is not None
        if self.relative:
            ratio = self.ratio(record)
            low, high = latency.ratio_interval or (ratio, ratio)
            if ratio is None or low is None or high is None or (low if surely else ratio) <= self.limit:
                return None
            interval = f" [{low * 100:.1f}, {high * 100:.1f}]" if latency.ratio_interval else ""
            measured = f"{self.label} {ratio * 100:.1f}{interval} % of the baseline's"
            return f"{measured}, over the limit {self.limit * 100:.4g} %"
        value, low_s = self.minimised(record), latency.interval_s[0]
        if surely:
            low_s *= value / latency.median_s
        if (low_s if surely else value) <= self.limit:
            return None
        return f"{self.label} {self.text(value)} over the limit {self.text(self.limit)}"


class KeptLayer(_Frozen):
    """A layer of an int8 file, and what the file becomes with that one layer in float."""

    layer: str
    snr_db: float
    """Signal-to-noise of its output in int8, its input that of the float network."""
    latency_ratio: float
    """Latency of the file with the layer in float over that of the int8 file, interleaved."""
    ratio_interval: tuple[float, float] | None = None
    """95 % confidence interval of `latency_ratio`."""
    score: Score
    """Of the file with the layer in float, on the validation split."""


class Int8Model(_Frozen):
    """What int8 does within one model's file."""

    digest: str
    device: str
    """Where its layers' latencies were measured."""
    in_float: tuple[str, ...]
    """Layer and operator of what still computes in float."""
    noisiest: tuple[KeptLayer, ...]
    """The layers that int8 adds most noise to, worst first; none that the study keeps in float anyway."""


class StudyView(Shown, _Frozen):
    """A study as the report and other readers see it: everything on disk, nothing computed."""

    directory: str
    name: str
    config: dict[str, Any]
    """The run as in run.yaml."""
    width_multiple: int | None = None
    """What widths are rounded to; None in studies that did not keep it."""
    anatomy: dict[str, Any]
    """`dataclasses.asdict` of the baseline's Anatomy."""
    objectives: tuple[Axis, ...]
    records: tuple[Record, ...]
    """Finished trials, in order; the baseline is one of them (digest `baseline`)."""
    front: tuple[str, ...]
    """Digests of the non-dominated models that meet every limit, best score first."""
    chosen: str
    """Digest of the recommended model (`study.recommendation.recommended`); empty where there is none."""
    finalists: tuple[Record, ...] = ()
    """The baselines and the finalists after final training, measured in one run, with test scores."""
    missed: tuple[str, ...] = ()
    """Digests of finalists that broke a limit as measured at the end."""
    vetoed: tuple[dict[str, Any], ...] = ()
    """Choices that were not faster on the device: site, choice, device, ratio, interval."""
    candidates: str = ""
    """Path of the candidate table (parquet) relative to the directory; empty when there is none."""
    audit: tuple[dict[str, Any], ...] = ()
    """Rows of the latency model's audit over the trials: device, predictor, models, mape, tau, worst."""
    layers: tuple[dict[str, Any], ...] = ()
    """Each layer timed alone: device, layer, baseline_s, and seconds by digest for the finalists and uniform models."""
    int8_layers: tuple[Int8Model, ...] = ()
    """The baseline and the finalists in int8, layer by layer; empty for other studies and interrupted ones."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Versions, processor, cores, date, command."""
    notes: tuple[str, ...] = ()

    def record(self, digest: str) -> Record | None:
        """The record of a model as it was measured last."""
        return next((r for r in (*self.finalists, *reversed(self.records)) if r.digest == digest), None)

    @property
    def front_title(self) -> str:
        """How large the front is, and of how many trials."""
        return f"front of {self.name}: {counted(len(self.front), 'model')} from {counted(len(self.records), 'trial')}"

    def table(self) -> Table:
        """A row for the baseline and each model of the front."""
        rows = [
            [r.digest, *(axis.text(axis.value(r)) for axis in self.objectives), "chosen" * (r.digest == self.chosen)]
            for r in map(self.record, dict.fromkeys(["baseline", *self.front])) if r
        ]  # fmt: skip
        return self.front_title, ["model", *(axis.label for axis in self.objectives), ""], rows


def _quarters(values: Sequence[float]) -> Sequence[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (*values, *values, *values)


def _summary(values: Sequence[float]) -> tuple[float, ...]:
    """Least, quartiles with the median, and greatest: their own quartiles and median are the same."""
    return tuple(values) if len(values) < 5 else (min(values), *_quarters(values), max(values))


def _median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a median by order statistics (normal approximation of the binomial)."""
    ordered, n = sorted(values), len(values)
    reach = 0.98 * math.sqrt(n)
    return ordered[max(0, math.floor(n / 2 - reach))], ordered[min(n - 1, math.ceil(n / 2 + reach))]


def packed(right: NDArray[np.bool_]) -> str:
    """Outcomes (images,) as `Score.right` keeps them."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()
