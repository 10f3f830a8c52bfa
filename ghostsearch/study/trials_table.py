"""The table that a study's records make: trials.csv, trials.parquet and front.csv."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ghostsearch.records import LATENCY, Record, latency_column

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Mapping[str, str] = {
    "number": "trial number",
    "digest": "name of the architecture: ten hexadecimal digits, or baseline",
    "origin": "who proposed it: baseline, uniform, solver or sampler",
    "state": "complete, pruned or failed",
    "reason": "why it was pruned, failed or not trained on",
    "score": "newest score on the validation split, in the task's metric (accuracy: share from 0 to 1)",
    "epochs": "proxy epochs behind that score (the rung); 0 is closed form alone",
    "test_score": "score on the test split, final pass only",
    "params": "parameters",
    "macs": "multiply-adds on one image",
    "size_bytes": "bytes of parameters and buffers",
    "peak_memory_bytes": "largest sum of live activations on one image, in bytes",
    "seconds": "wall seconds the trial took",
    "started": "start time, ISO 8601, UTC",
    "limits": "the limits that it ran under, as given: axis and text, JSON",
    "architecture": "the architecture's JSON: sites and groups with their choices",
}
"""Columns of trials.csv and trials.parquet, with units."""

DEVICE_COLUMNS: Mapping[str, str] = {
    LATENCY: "median seconds of one forward on the device",
    "latency_ratio": "latency over the baseline's in the same run",
    "latency_iqr_s": "interquartile range of the latency, in seconds",
}
"""Further columns for each device, named by `latency_column`."""


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """The records as a table with the columns of COLUMNS and those of DEVICE_COLUMNS per device."""
    import pandas as pd

    rows = [_row(r) for r in records]
    devices = sorted({x.device for r in records for x in r.latencies})
    extra = [latency_column(d, name) for d in devices for name in DEVICE_COLUMNS]
    return pd.DataFrame(rows, columns=[*COLUMNS, *extra])


def _row(record: Record) -> dict[str, Any]:
    score, test = record.score(), record.score("test")
    row: dict[str, Any] = {
        "number": record.number,
        "digest": record.digest,
        "origin": record.origin,
        "state": record.state,
        "reason": record.reason,
        "score": score.value if score else None,
        "epochs": score.epochs if score else None,
        "test_score": test.value if test else None,
        "seconds": sum(record.seconds.values()),
        "started": record.started,
        "limits": json.dumps(record.limits, sort_keys=True),
        "architecture": json.dumps({"sites": record.sites, "groups": record.groups}, sort_keys=True),
    }
    if record.cost:
        row |= record.cost.model_dump()
    for device in {x.device for x in record.latencies}:
        latency = record.latency(device)
        assert latency
        low, high = latency.quartiles_s
        row |= {
            latency_column(device): latency.median_s,
            latency_column(device, "latency_ratio"): latency.ratio,
            latency_column(device, "latency_iqr_s"): high - low,
        }
    return row
