"""What a study knows of its device besides the trials: layers' times, slower choices, prediction errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostsearch.measure.audit import predictor_errors
from ghostsearch.measure.cost_table import encode
from ghostsearch.records import Record
from ghostsearch.study.candidates import FILE
from ghostsearch.study.plan import Plan

if TYPE_CHECKING:
    from ghostsearch.measure.latency_table import LatencyTable

LEAST_AUDITED = 4
"""Fewer measured architectures than this say nothing about a predictor."""


def evidence(plan: Plan, records: Sequence[Record], shown: Sequence[str], folder: Path) -> dict[str, Any]:
    """The outcome's `candidates`, `audit` and `layers`, from the latency tables that the search has timed.

    `layers` holds the models named by `shown`. The audit costs nothing: the trials themselves are architectures that
    the table predicted and the device measured. Nothing is timed here; without a table its parts stay empty.
    """
    setup = plan.baseline.setup
    tables = plan.baseline.tables or {d: setup.latency_table(d, cell_s=None) for d in plan.config.device}
    tables = {device: table for device, table in tables.items() if table.complete}
    trials = [r for r in records if r.digest != "baseline"]
    newest = {r.digest: r for r in trials if r.state == "complete"}
    models = [newest[digest] for digest in shown if digest in newest]
    # What its latency ruled out was predicted and measured as well: without it the audit would choose by its subject.
    measured = {r.digest: r for r in trials if r.latencies}
    return {
        "candidates": FILE if (folder / FILE).exists() else "",
        "audit": [row for device, table in tables.items() for row in _audit(table, device, list(measured.values()))],
        "layers": [row for device, table in tables.items() for row in _layers(table, device, models)],
    }


def _audit(table: LatencyTable, device: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """The table's predictions, and MACs alone, against the trials' measured ratios to the baseline."""
    timed = [(r, x.ratio) for r in records if (x := r.latency(device)) and x.ratio is not None]
    if len(timed) < LEAST_AUDITED:
        return []
    codes = encode(table.space, [r.architecture for r, _ in timed])
    measured = np.array([ratio for _, ratio in timed])
    macs = table.costs.predict_codes(table.space, codes)[1] / table.costs.baseline.macs
    errors = [
        predictor_errors("latency table", table.predict_ratios(codes), measured),
        predictor_errors("MACs alone", macs, measured),
    ]
    return [
        {
            "device": device,
            "predictor": e.predictor,
            "models": len(timed),
            "mape": e.mape,
            "tau": e.tau,
            "worst": e.worst,
        }
        for e in errors
    ]


def _layers(table: LatencyTable, device: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Per layer: its path, baseline seconds, and the seconds it takes in each model."""
    codes = encode(table.space, [r.architecture for r in records])
    baseline = table.layer_seconds(np.zeros((1, codes.shape[1]), dtype=np.int64))[0]
    seconds = table.layer_seconds(codes)
    return [
        {
            "device": device,
            "layer": layer.path,
            "baseline_s": _short(baseline[i]),
            "seconds": {r.digest: _short(seconds[j, i]) for j, r in enumerate(records)},
        }
        for i, layer in enumerate(table.layers)
    ]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
