"""What this machine is, for fingerprints and reports, and how this process keeps its memory."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock


@lru_cache(maxsize=1)
def cpuinfo() -> tuple[str, ...]:
    """What Linux says of this machine's processors, in lines; nothing on other systems."""
    path = Path("/proc/cpuinfo")
    return tuple(path.read_text(encoding="utf-8", errors="replace").splitlines()) if path.is_file() else ()


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The processor's model name, as the system reports it."""
    name = platform.processor() or platform.machine()
    return next((x.partition(":")[2].strip() for x in cpuinfo() if x.startswith("model name")), name)


@lru_cache(maxsize=1)
def processor_flags() -> frozenset[str]:
    """Instruction-set flags of this processor as Linux lists them; empty on other systems."""
    return frozenset(w for line in cpuinfo() if line.lower().startswith(("flags", "features")) for w in line.split())


def processor() -> str:
    """The processor's model name and how many of its cores this process may use."""
    return f"{processor_name()}, {usable_cores()} cores"


def usable_cores() -> int:
    """Cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def peak_memory() -> int:
    """The most memory that this process has taken so far, in bytes."""
    # Here, since every command shows progress and few need either.
    if os.name == "nt":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class _Allocator:
    """The GNU C library's malloc, where this process has it; elsewhere nothing is done."""

    TRIM, MMAP = -1, -3
    """Its M_TRIM_THRESHOLD and M_MMAP_THRESHOLD; a threshold is an int of at most 2³¹ - 1 bytes."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None) if os.name == "posix" else None
        self.set_limit, self.trim = (getattr(library, name, None) for name in ("mallopt", "malloc_trim"))
        self.users, self.lock = 0, Lock()

    def keep(self, change: int) -> None:
        """One user more or less; the first has freed memory kept, the last has it given back."""
        if self.set_limit is None or self.trim is None:
            return
        with self.lock:
            self.users += change
            if (change, self.users) == (1, 1):
                self.set_limit(self.MMAP, 2**30)
                self.set_limit(self.TRIM, 2**31 - 1)
            elif self.users == 0:
                # What malloc comes to by itself once a large block was freed.
                self.set_limit(self.MMAP, 2**25)
                self.set_limit(self.TRIM, 2**26)
                self.trim(0)


_ALLOCATOR = _Allocator()


@contextmanager
def memory_kept() -> Iterator[None]:
    """Memory that is freed within stays this process's until the end.

    The system clears large blocks anew each time they are asked for: half of a forward's CPU time at 224 pixels.
    Never around a measurement of latency, which is of a process as users run it.
    """
    _ALLOCATOR.keep(1)
    try:
        yield
    finally:
        _ALLOCATOR.keep(-1)
