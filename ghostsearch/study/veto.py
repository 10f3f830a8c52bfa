"""The veto: choices that are not faster on the run's devices leave the space of a search for latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.latency_table import LatencyTable
from ghostsearch.space.architecture import SearchSpace

IN_INT8 = "the int8 baseline's layer is as fast, and loses nothing"


def vetoed_rows(tables: Mapping[str, LatencyTable]) -> list[dict[str, Any]]:
    """Rows of site, choice, device, ratio and interval against the baseline layer, in int8 on an int8 device."""
    return [
        row | ({"reason": IN_INT8} if device.endswith(":int8") else {})
        for device, table in tables.items()
        for row in table.vetoed()
    ]


def without_slow(space: SearchSpace, rows: Sequence[Mapping[str, Any]], devices: Sequence[str]) -> SearchSpace:
    """The space without the choices that are faster on none of the devices; where some are int8, on none of those.
    Sites that are left with `keep` alone go.

    Raises GhostsearchError when nothing is left to search.
    """
    devices = [d for d in devices if d.endswith(":int8")] or devices
    slow_on: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        slow_on.setdefault((row["site"], row["choice"]), set()).add(row["device"])
    gone = {changed for changed, where in slow_on.items() if where >= set(devices)}
    if not gone:
        return space
    sites = {path: tuple(t for t in texts if (path, t) not in gone) for path, texts in space.sites.items()}
    left = space.narrowed({path: texts for path, texts in sites.items() if len(texts) > 1}, space.groups)
    if not left.sites and not left.groups:
        raise GhostsearchError(
            f"none of the {len(gone)} choices of this space is faster on {', '.join(devices)}; take another --space "
            "or --device, search for --objectives score,params, or begin with --no-veto, which keeps them all"
        )
    return left
