"""What this machine is, for fingerprints and reports."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The processor's model name, as the system reports it."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), name)
    return name


@lru_cache(maxsize=1)
def processor_flags() -> frozenset[str]:
    """Instruction-set flags of this processor as Linux lists them; empty on other systems."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return frozenset()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return frozenset(word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split())


def processor() -> str:
    """The processor's model name and how many of its cores this process may use."""
    return f"{processor_name()}, {usable_cores()} cores"


def usable_cores() -> int:
    """Cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
