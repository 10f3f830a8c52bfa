"""Who works on a trial and whether that process still lives: several share a study, and none waits for the dead.

Optuna's heartbeat does not serve here: of its storages RDBStorage alone has one, so journals would go without; a dead
process' trial waits for minutes where the process table answers at once; and RetryHeartbeatStaleTrialCallback puts the
trial at the end of the queue, so that a killed run would arrive at other trials than an undisturbed one.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

BEAT_S = 20.0
STALE_S = 120.0
"""A worker on another machine that has been silent for so long is taken for dead."""


def own_name() -> str:
    """This process: host, process id and start time, since ids are used again."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_alive(owner: str, seen: float) -> bool:
    """Whether an owner still works: on this machine by its process, elsewhere by the time of its last heartbeat."""
    host, number, started = ([*owner.rsplit(":", 2), "", ""])[:3]
    if host != socket.gethostname():
        return time.time() - seen < STALE_S
    try:
        process = psutil.Process(int(number))
        return abs(process.create_time() - float(started)) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False


@contextmanager
def beating(tell: Callable[[float], None]) -> Iterator[None]:
    """Within, `tell` gets the time every BEAT_S seconds from a thread of its own; a failed call is tried again."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            try:
                tell(time.time())
            except Exception:  # noqa: BLE001, S112 - a busy storage must not end the trial; the next beat may get through
                continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
