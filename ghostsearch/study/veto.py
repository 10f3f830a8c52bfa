"""The veto: choices that are not faster on the run's devices leave the space of a search for latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.latency_table import LatencyTable, without_vetoed
from ghostsearch.space.architecture import SearchSpace


def vetoed_rows(tables: Mapping[str, LatencyTable]) -> list[dict[str, Any]]:
    """Rows of site, choice, device, ratio and interval against the baseline layer."""
    return [row for table in tables.values() for row in table.vetoed()]


def without_slow(space: SearchSpace, rows: Sequence[Mapping[str, Any]], devices: Sequence[str]) -> SearchSpace:
    """The space without the choices that are faster on none of the devices.

    Raises GhostsearchError when nothing is left to search.
    """
    slow_on: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        slow_on.setdefault((row["site"], row["choice"]), set()).add(row["device"])
    gone = [{"site": s, "choice": c} for (s, c), where in slow_on.items() if where >= set(devices)]
    if not gone:
        return space
    left = without_vetoed(space, gone)
    if not left.sites and not left.groups:
        raise GhostsearchError(
            f"none of the {len(gone)} choices of this space is faster on {', '.join(devices)}; take another --space "
            "or --device, search for --objectives score,params, or keep them all with --no-veto"
        )
    return left
