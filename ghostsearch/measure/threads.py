"""Checks that a runtime keeps to the threads it was given, and knows how long its threads waited for a core."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

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
    """How often the system has taken a core from this process so far; always 0 where it does not say (Windows)."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


MAIN_SHARE = 0.5
TASKS = Path("/proc/self/task")


class WaitClock:
    """How long the thread that does some work has waited for a core that others held, as Linux counts it."""

    def __init__(self, file: int) -> None:
        self._file = file

    @classmethod
    def of_thread_busy_in(cls, work: Callable[[], object]) -> WaitClock | None:
        """A clock of the thread that does most of `work`, which is run once.

        None where no thread does most of it, or the system does not say.
        """
        before = _on_core()
        work()
        spent = {thread: used - before.get(thread, 0) for thread, used in _on_core().items()}
        busiest = max(spent, key=lambda thread: spent[thread], default="")
        if not busiest or spent[busiest] <= MAIN_SHARE * sum(spent.values()):
            return None
        try:
            return cls(os.open(TASKS / busiest / "schedstat", os.O_RDONLY))
        except OSError:
            return None

    def seconds(self) -> float:
        """Seconds waited so far; 0 once the thread has ended."""
        try:
            return int(os.pread(self._file, 128, 0).split()[1]) * 1e-9
        except ProcessLookupError:
            return 0.0

    def close(self) -> None:
        """Let go of the system's file."""
        os.close(self._file)


def _on_core() -> dict[str, int]:
    """Nanoseconds that each thread of this process has had a core; empty where the system does not say."""
    found = {}
    for folder in TASKS.iterdir() if TASKS.is_dir() else ():
        try:
            found[folder.name] = int((folder / "schedstat").read_bytes().split()[0])
        # The thread has ended, or the kernel was built without these statistics.
        except (OSError, IndexError, ValueError):
            continue
    return found
