"""What this machine offers: versions, cores, devices with a self-test, data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ghostsearch.machine import processor, usable_cores
from ghostsearch.measure.devices.selftest import self_test as test_device
from ghostsearch.measure.devices.table import list_devices
from ghostsearch.version import versions


def diagnosis() -> dict[str, Any]:
    """Machine, versions, devices and data sets as plain data."""
    import psutil
    import torch

    return {
        "machine": {
            "processor": processor(),
            "cores": f"{usable_cores()} usable of {os.cpu_count()}",
            "memory_bytes": psutil.virtual_memory().total,
            "torch threads": torch.get_num_threads(),
            "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        },
        "versions": versions(),
        "devices": device_rows(),
        "data": {"digits": digits()},
    }


def digits() -> str:
    """How many images scikit-learn ships for the quick start, in words."""
    from sklearn.datasets import load_digits

    return f"{len(load_digits().images)} images of scikit-learn, no download"


def device_rows(names: Sequence[str] = (), *, self_test: bool = False) -> list[dict[str, Any]]:
    """Devices, by default all: whether each is here, where it is or how to get it, a small network's median latency."""
    rows = []
    for status in list_devices(names):
        row: dict[str, Any] = {
            "name": status.name, "available": status.available, "reason": status.reason, "place": status.place,
            "versions": status.versions, "median_s": None,
        }  # fmt: skip
        if self_test and status.available:
            found = test_device(status.name)
            row["median_s"] = found.latency_s
            if not found.passed:
                row |= {"available": False, "reason": f"the self-test failed: {found.detail}", "place": ""}
        rows.append(row)
    return rows
