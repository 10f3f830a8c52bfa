"""The veto: choices that do not pay on the run's devices leave the space of a search for latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ghostsearch.errors import GhostsearchError
from ghostsearch.study.bench import Bench, check_budget

Progress = Callable[[int, int, str], None]


def vetoed_choices(bench: Bench, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Rows of site, choice, device, ratio and interval against the baseline layer; none if latency does not count."""
    config = bench.config
    if not config.veto or ("latency" not in config.objectives and config.max_latency is None):
        return []
    return [row for table in bench.latency_tables(progress).values() for row in table.vetoed()]


def apply_veto(bench: Bench, rows: Sequence[Mapping[str, Any]]) -> None:
    """Take out of the bench's space what pays on none of the run's devices.

    Raises GhostsearchError when nothing is left to search or a limit on MACs or params can then not be met.
    """
    from ghostsearch.measure.latency_table import without_vetoed

    devices: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        devices.setdefault((row["site"], row["choice"]), set()).add(row["device"])
    everywhere = set(bench.config.device)
    gone = [{"site": s, "choice": c} for (s, c), where in devices.items() if where >= everywhere]
    if not gone:
        return
    bench.offered, bench.space = bench.space, without_vetoed(bench.space, gone)
    on = ", ".join(bench.config.device)
    if not bench.space.sites and not bench.space.groups:
        raise GhostsearchError(
            f"none of the {len(gone)} choices of this space pays on {on}; take another --space or --device, "
            "search for --objectives score,params, or keep them all with --no-veto"
        )
    try:
        check_budget(bench)
    except GhostsearchError as error:
        raise GhostsearchError(
            f"{error}; {len(gone)} choices were left out since they do not pay on {on} (--no-veto keeps them)"
        ) from None
