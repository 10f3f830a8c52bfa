"""Work that gives way to timing: on a machine where a latency is measured, training and fitting pause meanwhile.

Two files that all of a user's processes on a machine share are locked by the system (`flock`), so that a process that
is killed blocks nobody. Who works holds the floor with others; who times holds it alone, and closes the gate, so that
workers wait there. A process that was stopped (Ctrl-Z) is not waited for longer than the limits below. Where the system
has no `flock` (Windows), nobody waits for anybody.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ghostsearch.errors import GhostsearchError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

GATE, FLOOR = "gate", "floor"
STEP_S, TIMING_S = 30.0, 600.0
"""A step of work is waited for so long, and a timing so long; then one goes on beside it."""
LOOK_S = 0.002


class _Thread(threading.local):
    floor: int | None = None
    depth = 0
    times = False


_own = _Thread()


def place() -> Path:
    """Where the locks are: a directory of the user's own that a restart clears."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"ghostsearch-{user}"


@contextmanager
def working() -> Iterator[None]:
    """Within is work that keeps cores busy: it starts when nothing is being timed, and `breathe` lets timings in."""
    _own.depth += 1
    try:
        if _own.floor is None and not _own.times:
            _own.floor = _enter()
        yield
    finally:
        _own.depth -= 1
        if _own.depth == 0:
            _leave()


def breathe() -> None:
    """A moment between two steps of work: where somebody wants to time, wait until that is over."""
    if _own.floor is None:
        return
    gate = _open(GATE)
    try:
        free = _try(gate, exclusive=False)
    finally:
        os.close(gate)
    if not free:
        _leave()
        _own.floor = _enter()


@contextmanager
def timing() -> Iterator[None]:
    """Within, nothing else of this user works or times on this machine."""
    if _own.times:
        yield
        return
    _leave()
    gate, floor = _open(GATE), _open(FLOOR)
    try:
        _wait(gate, exclusive=True, limit_s=TIMING_S)
        _wait(floor, exclusive=True, limit_s=STEP_S)
        _own.times = True
        yield
    finally:
        _own.times = False
        os.close(floor)
        os.close(gate)
        # Else one timing right behind another takes the gate before those who look now and then have seen it open.
        time.sleep(5 * LOOK_S)
        if _own.depth:
            _own.floor = _enter()


def _enter() -> int:
    gate, floor = _open(GATE), _open(FLOOR)
    try:
        _wait(gate, exclusive=False, limit_s=TIMING_S)
        _wait(floor, exclusive=False, limit_s=TIMING_S)
    except BaseException:
        os.close(floor)
        raise
    finally:
        os.close(gate)
    return floor


def _leave() -> None:
    if _own.floor is not None:
        if fcntl is not None:
            # A forked data worker holds a copy of the descriptor, so that closing alone would not unlock.
            fcntl.flock(_own.floor, fcntl.LOCK_UN)
        os.close(_own.floor)
        _own.floor = None


def _wait(file: int, *, exclusive: bool, limit_s: float) -> None:
    until = time.monotonic() + limit_s
    while not _try(file, exclusive=exclusive) and time.monotonic() < until:
        time.sleep(LOOK_S)


def _try(file: int, *, exclusive: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(name: str) -> int:
    path = place() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        told = f"{path}: cannot be opened ({error.strerror}); set XDG_RUNTIME_DIR to a directory of your own"
        raise GhostsearchError(told) from None
