"""Each layer's latency before and after, from a study's own measurements: layers timed alone on the device."""

from __future__ import annotations

from typing import Any

from ghostsearch.records import StudyView


def layer_times(view: StudyView) -> list[dict[str, Any]]:
    """Per device: its layers in forward order, their baseline seconds, and per model (by digest) the seconds they take.

    Empty when the search timed no layers (it does where its seeds come from the solver and latency is an objective).
    """
    devices: dict[str, list[dict[str, Any]]] = {}
    for row in view.layers:
        devices.setdefault(str(row["device"]), []).append(row)
    return [
        {
            "device": device,
            "layers": [row["layer"] for row in rows],
            "baseline": [row["baseline_s"] for row in rows],
            "models": {digest: [row["seconds"].get(digest) for row in rows] for digest in rows[0]["seconds"]},
        }
        for device, rows in devices.items()
    ]
