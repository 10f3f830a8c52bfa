"""Measures latency: candidates and the baseline interleaved on one device until the ratio is known well
enough.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn

from ghostsearch.busy import timing
from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.base import Device, Prepared
from ghostsearch.measure.devices.table import DEFAULT_DEVICE, get_device
from ghostsearch.measure.inputs import batched
from ghostsearch.measure.intervals import median_interval, ratio_interval
from ghostsearch.measure.setting import Setting
from ghostsearch.measure.threads import WaitClock, check_threads, preemptions
from ghostsearch.records import Latency

Progress = Callable[[int, int, str], None]

BASELINE = "baseline"
DEFAULT_SETTING = Setting()
WARM_UP_CALLS = 5
MIN_ROUNDS = 5
MAX_ROUNDS = 400
VISIT_S = 0.004
"""A visit of a quick model times several calls, about this long in all: one call would be lost in the clock's
noise.
"""
MAX_CALLS = 20
VISIT_TRIES = 4
REFILL_BELOW_S = 0.02
"""Quicker models get one untimed call a visit, since the one timed before them has emptied the caches."""


@dataclass
class Contestant:
    """One model in an interleaved run: the seconds of each call, by round."""

    name: str
    prepared: Prepared
    calls: int = 1
    refill: bool = False
    rounds: list[list[float]] = field(default_factory=list)
    interval: tuple[float, float] | None = None
    narrow: bool = False
    disturbed: int = 0
    waits: WaitClock | None = None
    waited_s: float = 0.0

    def visit(self) -> None:
        """Time a few calls; again when another process took a core from this one meanwhile, unless that is the rule."""
        hopeless = self.disturbed > VISIT_TRIES * (1 + len(self.rounds)) // 2
        for _ in range(1 if hopeless else VISIT_TRIES):
            if self.refill:
                self.prepared.run()
            before = preemptions()
            times, waited = self._timed()
            if preemptions() == before:
                break
            self.disturbed += 1
        self.rounds.append(times)
        self.waited_s += waited

    def _timed(self) -> tuple[list[float], float]:
        """Seconds of each call of a visit less what its thread waited for a core, and the seconds waited in all."""
        if self.waits is None:
            return self.prepared.seconds(self.calls), 0.0
        times, total = list[float](), 0.0
        for _ in range(self.calls):
            for _ in range(VISIT_TRIES):
                before = self.waits.seconds()
                (wall,) = self.prepared.seconds(1)
                waited = max(0.0, self.waits.seconds() - before)
                if waited < wall:
                    break
            else:
                # The core was taken between the two clocks again and again: then nothing is known to be waiting.
                waited = 0.0
            times.append(wall - waited)
            total += waited
        return times, total

    def warm_up(self, *, alone: bool) -> None:
        """Run untimed until caches and allocators are settled, then decide how many calls a visit takes.

        `alone`: one thread does the work, so that its CPU wait time can be separated from its work.
        """
        first = self.prepared.seconds(1)[0]
        times: list[float] = []

        def work() -> None:
            times.extend(self.prepared.seconds(WARM_UP_CALLS if first < 1.0 else 1))

        if alone:
            self.waits = WaitClock.of_thread_busy_in(work)
        else:
            work()
        typical = max(median(times), 1e-9)
        self.calls = min(MAX_CALLS, max(1, round(VISIT_S / typical)))
        self.refill = typical < REFILL_BELOW_S

    def close(self) -> None:
        """Free the prepared model and the clock."""
        self.prepared.close()
        if self.waits is not None:
            self.waits.close()


def measure_latency(
    models: Mapping[str, nn.Module],
    example: Any,
    *,
    device: str | Device = DEFAULT_DEVICE,
    baseline: nn.Module | None = None,
    setting: Setting = DEFAULT_SETTING,
    progress: Progress | None = None,
) -> dict[str, Latency]:
    """Seconds per forward of each model, interleaved with the baseline in a random order.

    example: (N, C, H, W) or any forward input; its first image is repeated to the setting's batch. Every model is
    warmed up and visited once per round. A model is done when the 95 % interval of the ratio of medians to the baseline
    (without `baseline`: of its median) is narrower than `setting.narrow` of it; all end at `setting.time_limit` seconds
    of timing, after five rounds at the soonest. With one thread on Linux, CPU wait time is subtracted.
    The models, the random state and the thread settings stay as they are. Raises GhostsearchError when the device
    cannot run a model or does not keep to `threads`.
    """
    repeated = batched(example, setting.batch)
    pairs = {name: (model, repeated) for name, model in models.items()}
    beside = None if baseline is None else (baseline, repeated)
    return measure_pairs(pairs, beside, device=device, setting=setting, progress=progress)


def measure_pairs(
    pairs: Mapping[str, tuple[nn.Module, Any]],
    baseline: tuple[nn.Module, Any] | None,
    *,
    device: str | Device,
    setting: Setting,
    progress: Progress | None = None,
) -> dict[str, Latency]:
    """Like `measure_latency`, for models that each come with an input of their own (of `setting.batch` images)."""
    threads = setting.threads
    if not pairs:
        raise GhostsearchError("there is no model to measure; give at least one")
    target = get_device(device) if isinstance(device, str) else device
    target.require_precision(setting.precision)
    everything = {**pairs, **({BASELINE: baseline} if baseline else {})}
    with timing(), restored(), target.session(threads):
        running = _prepare(target, everything, setting, progress)
        entries, reference = (running[:-1], running[-1]) if baseline else (running, None)
        try:
            for entry in running:
                entry.warm_up(alone=target.limits_threads and threads == 1)
            cores = None
            if target.limits_threads:
                cores = check_threads(target, [e.prepared for e in running], threads)
            stopped = _race(entries, reference, setting, progress)
        finally:
            for entry in running:
                entry.close()
    return {
        entry.name: Latency(
            device=target.name,
            threads=threads,
            batch=setting.batch,
            precision=setting.precision,
            times_s=_flat(entry.rounds),
            baseline_times_s=_flat(reference.rounds[: len(entry.rounds)]) if reference else (),
            ratio_interval=entry.interval if reference else None,
            stopped="narrow" if entry.narrow else stopped,
            cores_busy=cores,
            disturbed=entry.disturbed,
            waited_s=round(entry.waited_s, 6),
        )
        for entry in entries
    }


def _prepare(
    device: Device,
    pairs: Mapping[str, tuple[nn.Module, Any]],
    setting: Setting,
    progress: Progress | None,
) -> list[Contestant]:
    entries = []
    for i, (name, (model, example)) in enumerate(pairs.items()):
        if progress:
            progress(i, len(pairs), f"preparing {name} for {device.name}")
        entries.append(Contestant(name, device.prepare(model, example, setting)))
    return entries


def _race(
    entries: list[Contestant],
    reference: Contestant | None,
    setting: Setting,
    progress: Progress | None,
) -> str:
    """Rounds of visits in random order until every interval is narrow or the time is up; returns which."""
    rng, limit_s = random.Random(setting.seed), setting.time_limit  # noqa: S311
    start, rounds, next_look = time.perf_counter(), 0, 2 * MIN_ROUNDS
    with _no_garbage_collection():
        while True:
            running = [e for e in entries if not e.narrow]
            turn = [*running, *([reference] if reference else [])]
            rng.shuffle(turn)
            for entry in turn:
                entry.visit()
            rounds += 1
            spent = time.perf_counter() - start
            out_of_time = spent >= limit_s and rounds >= MIN_ROUNDS
            last = out_of_time or rounds >= MAX_ROUNDS
            if last or rounds >= next_look:
                # Resampling takes time too, so the looks get rarer as the rounds get many.
                next_look = rounds + max(MIN_ROUNDS, rounds // 4)
                for entry in running:
                    _judge(entry, reference, setting.narrow)
            if progress:
                progress(min(int(spent), int(limit_s)), int(limit_s), f"timing {len(running)} models")
            if all(e.narrow for e in entries):
                return "narrow"
            if last:
                return "time limit" if out_of_time else f"{MAX_ROUNDS} rounds"


def _judge(entry: Contestant, reference: Contestant | None, narrow: float) -> None:
    if reference:
        low, high = ratio_interval(entry.rounds, reference.rounds[: len(entry.rounds)])
    else:
        low, high = median_interval(entry.rounds)
    entry.interval = (low, high)
    entry.narrow = high - low <= narrow * (low + high) / 2


@contextmanager
def restored() -> Iterator[None]:
    """Put PyTorch's random state back, on GPUs too where they are in use."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        yield


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _flat(rounds: list[list[float]]) -> tuple[float, ...]:
    return tuple(t for calls in rounds for t in calls)
