"""The fourth stage, once for each proposal: count, time, fit, score, train on; the cheapest test comes first.

What breaks a limit ends the trial at once: nothing is fitted that its cost or its latency has ruled out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from torch import nn

from ghostsearch.errors import failure_reason, release_memory
from ghostsearch.measure.cost import measure_cost
from ghostsearch.records import Cost, Latency, Record, Score
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import KEEP
from ghostsearch.study.plan import Plan
from ghostsearch.study.watch import timed

Stopped = Callable[[Record, float], str]
"""Says of the record as it stands at a rung why the trial ends there, or nothing."""


@dataclass(frozen=True)
class Trial:
    """One proposal under way; each step makes the next one."""

    plan: Plan
    number: int
    architecture: Architecture
    origin: str
    model: nn.Module | None = None
    cost: Cost | None = None
    latencies: tuple[Latency, ...] = ()
    scores: tuple[Score, ...] = ()
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by step; the one thing the steps add to."""

    def record(self, state: Any, reason: str = "") -> Record:
        """The record as the trial stands."""
        a = self.architecture
        return Record(
            number=self.number, digest=a.digest, origin=self.origin, state=state, reason=reason, cost=self.cost,
            sites={k: str(v) for k, v in a.sites.items() if v != KEEP}, groups={k: str(v) for k, v in a.groups.items()},
            latencies=self.latencies, scores=self.scores, seconds=dict(self.seconds), started=self.started,
            limits=self.plan.config.limit_texts(),
        )  # fmt: skip

    def counted(self) -> Trial:
        """With its exact cost, of a model with copied weights that can be timed."""
        with timed(self.seconds, "measure"):
            model = self.plan.setup.copied(self.architecture)
            return replace(self, model=model, cost=measure_cost(model, self.plan.setup.example))

    def timed(self) -> Trial:
        """With its latency on each device of the run, interleaved with the baseline."""
        assert self.model is not None
        with timed(self.seconds, "measure"):
            found = self.plan.setup.latencies({"trial": self.model}, self.plan.config.time_limit)
        return replace(self, latencies=found["trial"])

    def fitted(self) -> Trial:
        """With inherited weights."""
        if not self.plan.setup.calibration:
            return self
        with timed(self.seconds, "fit"):
            return replace(self, model=self.plan.setup.convert(self.architecture))

    def scored(self, rung: float) -> Trial:
        """With its score at a rung."""
        assert self.model is not None
        with timed(self.seconds, "evaluate"):
            score = self.plan.setup.score(self.model, "validation", rung)
        return replace(self, scores=(*self.scores, score))

    def trained(self, epochs: float) -> Trial:
        """The same, its model trained on."""
        assert self.model is not None
        with timed(self.seconds, "train"):
            self.plan.setup.train(self.model, epochs)
        return self


def run_trial(trial: Trial, stopped: Stopped) -> tuple[Record, nn.Module | None]:
    """Evaluate an architecture; returns its record and, when it completed, the model.

    Whatever goes wrong inside is a recorded failure with its reason; only an interrupt passes through.
    """
    plan = trial.plan
    try:
        if trial.architecture.is_baseline:
            return _run_baseline(trial)
        for step in (Trial.counted, Trial.timed, Trial.fitted):
            trial = step(trial)
            if broken := plan.breaches(trial.record("pruned"), surely=True):
                return trial.record("pruned", "; ".join(broken)), None
        done, rungs, reason = 0, plan.config.rungs(), ""
        for rung in rungs:
            trial = (trial.trained(rung - done) if rung > done else trial).scored(rung)
            done, reason = rung, "" if rung == rungs[-1] else stopped(trial.record("complete"), rung)
            if reason:
                break
    except Exception as error:  # noqa: BLE001 - a trial that fails is a recorded trial, not a dead study
        release_memory()
        return trial.record("failed", failure_reason(error)), None
    if broken := plan.breaches(trial.record("complete"), surely=True):
        return trial.record("pruned", "; ".join(broken)), None
    return trial.record("complete", reason), trial.model


def _run_baseline(trial: Trial) -> tuple[Record, nn.Module]:
    """The baseline needs no building; its latency is the reference and no limit applies to it."""
    baseline, setup = trial.plan.baseline, trial.plan.setup
    known = replace(trial, model=setup.baseline.module, cost=setup.baseline_cost, latencies=baseline.latencies)
    return known.scored(0).record("complete"), setup.baseline.module
