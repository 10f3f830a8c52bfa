"""One trial: build, count, time, then score and train rung by rung while it is worth it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from torch import nn

from ghostsearch.errors import failure_reason, release_memory
from ghostsearch.measure.cost import measure_cost
from ghostsearch.pareto import dominates, standings
from ghostsearch.records import Axis, Cost, Latency, Record, Score
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import KEEP
from ghostsearch.study.bench import Bench, latencies, timed
from ghostsearch.study.ledger import minimised

Progress = Callable[[int, int, str], None]
Stopped = Callable[[Record, float], str]

RIVALS = 1000


@dataclass
class Draft:
    """A record in the making."""

    number: int
    architecture: Architecture
    origin: str
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    cost: Cost | None = None
    latencies: tuple[Latency, ...] = ()
    scores: list[Score] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def record(self, state: Any, reason: str = "") -> Record:
        """The record as it stands."""
        a = self.architecture
        return Record(
            number=self.number, digest=a.digest, origin=self.origin, state=state, reason=reason, cost=self.cost,
            sites={k: str(v) for k, v in a.sites.items() if v != KEEP}, groups={k: str(v) for k, v in a.groups.items()},
            latencies=self.latencies, scores=tuple(self.scores), seconds=self.seconds, started=self.started,
        )  # fmt: skip


def run_trial(
    bench: Bench, draft: Draft, stopped: Stopped, progress: Progress | None = None
) -> tuple[Record, nn.Module | None]:
    """Evaluate an architecture; returns its record and, when it completed, the model.

    `stopped` says of the record as it stands at a rung why the trial ends there, or nothing.
    Whatever goes wrong inside is a recorded failure with its reason; only an interrupt passes through.
    """
    try:
        return _run(bench, draft, stopped, progress)
    except Exception as error:  # noqa: BLE001 - a trial that fails is a recorded trial, not a dead study
        release_memory()
        return draft.record("failed", failure_reason(error)), None


def _run(bench: Bench, draft: Draft, stopped: Stopped, progress: Progress | None) -> tuple[Record, nn.Module | None]:
    if draft.architecture.is_baseline:
        return _run_baseline(bench, draft)
    with timed(draft.seconds, "fit"):
        model = bench.convert(draft.architecture)
    with timed(draft.seconds, "measure"):
        draft.cost = measure_cost(model, bench.example)
        draft.latencies = latencies(bench, {"trial": model}, bench.config.time_limit)["trial"]
    if broken := bench.breaches(draft.record("pruned")):
        return draft.record("pruned", "; ".join(broken)), None
    done, rungs, reason = 0, bench.config.rungs(), ""
    for rung in rungs:
        if rung > done:
            with timed(draft.seconds, "train"):
                bench.train(model, rung - done, progress)
            done = rung
        with timed(draft.seconds, "evaluate"):
            draft.scores.append(bench.score(model, "validation", rung))
        reason = "" if rung == rungs[-1] else stopped(draft.record("complete"), rung)
        if reason:
            break
    if broken := bench.breaches(draft.record("complete")):
        return draft.record("pruned", "; ".join(broken)), None
    return draft.record("complete", reason), model


def _run_baseline(bench: Bench, draft: Draft) -> tuple[Record, nn.Module | None]:
    """The baseline needs no building; its latency is the yardstick and no limit applies to it."""
    draft.cost, draft.latencies = bench.baseline_cost, bench.baseline_latencies
    with timed(draft.seconds, "evaluate"):
        draft.scores.append(bench.score(bench.baseline.module, "validation", 0))
    return draft.record("complete"), bench.baseline.module


def stops(record: Record, finished: Sequence[Record], rung: float, objectives: Sequence[Axis]) -> str:
    """Why a trial is not trained on from a rung, or nothing when it is.

    It goes on when nothing that was scored there dominates it and it is in the better half by non-dominated rank, then
    crowding (the rule of multi-objective ASHA, Schmucker et al. 2021), among the newest RIVALS. The baseline is left
    out, as its weights were never replaced. A stopped trial keeps the score that it has: the sampler learns from it,
    and the front may hold it.
    """
    rivals = [at for r in finished if r.digest != "baseline" and (at := at_rung(r, rung))][-RIVALS:]
    points = [[x if isfinite(x) else float("1e300") for x in minimised(r, objectives)] for r in (*rivals, record)]
    better = next((r for r, p in zip(rivals, points, strict=False) if dominates(p, points[-1])), None)
    if better:
        return f"stopped at rung {rung:g}: {better.digest} is better there"
    found = standings(points)
    place = sum(other < found[-1] for other in found)
    return "" if place < (len(points) + 1) // 2 else f"stopped at rung {rung:g}: in a crowd"


def at_rung(record: Record, rung: float) -> Record | None:
    """The record as it stood at a rung; None when it did not get there."""
    until = tuple(s for s in record.scores if s.split == "validation" and s.epochs <= rung)
    return record.model_copy(update={"scores": until}) if until and until[-1].epochs == rung else None
