"""Checks that a runtime keeps to the threads it was given, by the processor time that this process spends."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.base import Device, Prepared

PROBE_S = 0.06
SLACK_CORES = 0.35
TRIES = 4


def check_threads(device: Device, models: Sequence[Prepared], threads: int) -> float:
    """Cores that running the models keeps busy, less what the process does anyway.

    The least of a few tries counts, since other work of this process may fall into one of them. Raises
    GhostsearchError when even that is clearly above `threads`.
    """
    least = float("inf")
    for _ in range(TRIES):
        least = min(least, max(_busy_cores(models) - _idle_cores(), 0.0))
        if least <= threads + SLACK_CORES:
            return round(least, 2)
    raise GhostsearchError(
        f"{device.name} keeps {least:.1f} cores busy although threads={threads}: its figures would "
        f"not mean what they say; try --threads {round(least)}"
    )


def _busy_cores(models: Sequence[Prepared]) -> float:
    wall, cpu = time.perf_counter(), time.process_time()
    i = 0
    while time.perf_counter() - wall < PROBE_S:
        models[i % len(models)].run()
        i += 1
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


def _idle_cores() -> float:
    wall, cpu = time.perf_counter(), time.process_time()
    time.sleep(PROBE_S / 4)
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


def preemptions() -> int:
    """How often the system has taken a core from this process so far; always 0 where it does not tell (Windows)."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
