"""Measures latency: candidates and the baseline, built several times, interleaved on one device until the ratio is
known well enough.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.base import Device, Prepared
from ghostsearch.measure.devices.table import DEFAULT_DEVICE, get_device
from ghostsearch.measure.inputs import batched
from ghostsearch.measure.intervals import builds_needed, interval, log_ratios
from ghostsearch.measure.setting import Setting
from ghostsearch.measure.threads import WaitClock, check_threads, preemptions
from ghostsearch.records import Latency
from ghostsearch.shown import Progress
from ghostsearch.units import counted

BASELINE = "baseline"
DEFAULT_SETTING = Setting()
WARM_UP_CALLS = 5
ROUNDS = 6
"""Rounds of visits to one build of each model."""
BUILDS, MAX_BUILDS = 4, 32
"""Builds of each model that the spread is known from, and at most."""
LEAST_BUILDS = 2
"""Builds even of models that take the whole time limit."""
VISIT_S = 0.004
"""A visit of a quick model times several calls, about this long in all: one call would be lost in the clock's
noise.
"""
MAX_CALLS = 20
VISIT_TRIES = 4
REFILL_BELOW_S = 0.02
"""Quicker models get one untimed call a visit, since the one timed before them has emptied the caches."""


@dataclass
class Series:
    """What was timed of one model: its builds, each with the seconds of every call by round."""

    name: str
    builds: list[list[list[float]]] = field(default_factory=list)
    wanted: int = MAX_BUILDS
    disturbed: int = 0
    waited_s: float = 0.0

    @property
    def done(self) -> bool:
        """Whether the interval is as narrow as asked for."""
        return len(self.builds) >= self.wanted

    def take(self, build: Contestant) -> None:
        """Keep what a build took."""
        self.builds.append(build.rounds)
        self.disturbed += build.disturbed
        self.waited_s += build.waited_s

    def times_s(self, builds: int | None = None) -> tuple[float, ...]:
        """Seconds of every call of the first `builds`, or of all."""
        return tuple(t for build in self.builds[:builds] for calls in build for t in calls)


@dataclass
class Contestant:
    """One build of a model in an interleaved run: the seconds of each call, by round."""

    name: str
    prepared: Prepared
    calls: int = 1
    refill: bool = False
    rounds: list[list[float]] = field(default_factory=list)
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
    prepared several times anew, warmed up and visited in rounds. From the spread of the first builds follows how many
    more make the 95 % interval of the ratio of medians to the baseline (without `baseline`: of its median) narrower
    than `setting.narrow` of it; all end at `setting.time_limit` seconds of timing, after two builds at the soonest.
    With one thread on Linux, CPU wait time is subtracted.
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
    """Like `measure_latency`, for models that each come with an input of their own (of `setting.batch` images).

    Raises GhostsearchError for the same reasons, and when there is no model.
    """
    threads = setting.threads
    if not pairs:
        raise GhostsearchError("there is no model to measure; give at least one")
    target = get_device(device) if isinstance(device, str) else device
    target.require_precision(setting.precision)
    everything = {**pairs, **({BASELINE: baseline} if baseline else {})}
    seconds = max(1, round(setting.time_limit))

    def tell(spent: float, text: str) -> None:
        if progress:
            progress(min(round(spent), seconds), seconds, text)

    with restored(), target.session(threads):
        everything = {name: (target.lowered(model, example), example) for name, (model, example) in everything.items()}
        series = {name: Series(name) for name in everything}
        reference = series[BASELINE] if baseline else None
        entries = [x for x in series.values() if x is not reference]
        rng = random.Random(setting.seed)  # noqa: S311
        spent, cores, cost = 0.0, None, 0.0
        while True:
            left = [x for x in entries if not x.done]
            wanted = [*left, *([reference] if reference else [])]
            tell(spent, f"preparing {counted(len(wanted), 'model')} for {target.name}")
            running = _prepare(target, {x.name: everything[x.name] for x in wanted}, setting, rng)
            try:
                for build in running.values():
                    build.warm_up(alone=target.limits_threads and threads == 1)
                if target.limits_threads and cores is None:
                    cores = check_threads(target, [b.prepared for b in running.values()], threads)
                cost = _race(list(running.values()), rng)
            finally:
                for build in running.values():
                    build.close()
            spent += cost
            for one in wanted:
                one.take(running[one.name])
            for one in left:
                if len(one.builds) == BUILDS:
                    one.wanted = builds_needed(_logs(one, reference), setting.narrow)
            tell(spent, f"timing {counted(len(left), 'model')} on {target.name}")
            enough = min(len(x.builds) for x in entries) >= LEAST_BUILDS
            most = max(len(x.builds) for x in entries) == MAX_BUILDS
            # Another round of builds is begun where it ends in time.
            if all(x.done for x in entries) or most or (enough and spent + cost > setting.time_limit):
                break
    return {one.name: _latency(one, reference, target, setting, cores) for one in entries}


def _logs(one: Series, reference: Series | None) -> list[float]:
    return log_ratios(one.builds, reference.builds if reference else None)


def _latency(one: Series, reference: Series | None, device: Device, setting: Setting, cores: float | None) -> Latency:
    """The record of a series beside the baseline's builds of the same rounds."""
    beside = reference.times_s(len(one.builds)) if reference else ()
    found = Latency(
        device=device.name, threads=setting.threads, batch=setting.batch, precision=device.computes_in(setting),
        times_s=one.times_s(), baseline_times_s=beside, cores_busy=cores, disturbed=one.disturbed,
        stopped="narrow" if one.done else f"{MAX_BUILDS} builds" if len(one.builds) == MAX_BUILDS else "time limit",
        waited_s=round(one.waited_s, 6),
    )  # fmt: skip
    if found.ratio is None:
        return found
    return found.model_copy(update={"ratio_interval": interval(_logs(one, reference), BUILDS, found.ratio)})


def _prepare(
    device: Device,
    pairs: Mapping[str, tuple[nn.Module, Any]],
    setting: Setting,
    rng: random.Random,
) -> dict[str, Contestant]:
    """One build of each model, made in a random order, since where the memory lies is part of the latency."""
    entries: dict[str, Contestant] = {}
    try:
        for name in rng.sample(list(pairs), len(pairs)):
            entries[name] = Contestant(name, device.prepare(*pairs[name], setting))
    except BaseException:
        for entry in entries.values():
            entry.close()
        raise
    return entries


def _race(running: list[Contestant], rng: random.Random) -> float:
    """A fixed number of rounds of visits in random order; the seconds that they took."""
    start = time.perf_counter()
    with _no_garbage_collection():
        for _ in range(ROUNDS):
            rng.shuffle(running)
            for entry in running:
                entry.visit()
    return time.perf_counter() - start


@contextmanager
def restored() -> Iterator[None]:
    """Put PyTorch's random state back, on GPUs too where they are in use."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        yield


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
