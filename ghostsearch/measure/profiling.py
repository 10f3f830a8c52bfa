"""Times the cells of a latency table on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ghostsearch.measure.cells import CellStore, CellTime
from ghostsearch.measure.latency import measure_pairs
from ghostsearch.measure.latency_table import LatencyTable
from ghostsearch.measure.setting import Setting
from ghostsearch.shown import Progress
from ghostsearch.space.architecture import Anatomy, SearchSpace

CELL_S = 0.35
"""Timing a cell at most, in seconds; most are done sooner."""
NARROW = 0.02
MORE = 3
"""Times as many seconds for cells of which it is not decided whether they are faster."""


@dataclass(frozen=True)
class Network:
    """A network whose architectures are measured; example: one image (1, C, *dims) or any forward input."""

    model: nn.Module
    example: Any
    anatomy: Anatomy


def latency_table(
    network: Network, space: SearchSpace, *, device: str, setting: Setting, cell_s: float | None,
    progress: Progress | None = None,
) -> LatencyTable:  # fmt: skip
    """The latency table on a device of the machine this runs on; with `cell_s`, what is missing is timed.

    It has no correction: what `ghostsearch audit` once measured would make the same search choose otherwise.
    """
    store = CellStore(device, setting, corrected=False)
    if cell_s is None:
        return LatencyTable(network.model, network.example, network.anatomy, space, store)
    return profile(network, space, store, cell_s=cell_s, progress=progress)


def profile(
    network: Network, space: SearchSpace, store: CellStore, *, cell_s: float = CELL_S, progress: Progress | None = None
) -> LatencyTable:
    """Time every layer of a network under every choice of the space, deduplicated by shape, and keep the times.

    Each choice is interleaved with the baseline layer. Cells that the store has are not timed again; `cell_s` bounds
    each timing, in seconds.
    Raises GhostsearchError when the device cannot run a layer.
    """
    table = LatencyTable(network.model, network.example, network.anatomy, space, store)
    jobs = table.missing()
    total, done = sum(map(len, jobs.values())), 0
    if progress and jobs:
        progress(0, total, f"0 of {total} cells timed")
    for baseline, cells in jobs.items():
        layer = table.layer_of(baseline)
        pairs = {cell.key: layer.tiny(cell, store.setting.batch) for cell in cells}
        beside = layer.tiny(baseline, store.setting.batch)
        store.take(_times(pairs, beside, store, cell_s))
        # Whether these are faster is not decided yet, and more time can decide it.
        unsure = {key: pair for key, pair in pairs.items() if _undecided(store.cells[key])}
        if unsure:
            store.take(_times(unsure, beside, store, MORE * cell_s, again=True))
        done += len(cells)
        # After each layer, so that an interrupted profile can resume.
        store.write()
        if progress:
            progress(done, total, f"{done} of {total} cells timed")
    if jobs or not table.complete:
        _time_baseline_layers(table, cell_s)
        store.write()
    table.refresh()
    return table


def _times(
    pairs: Mapping[str, tuple[nn.Module, Any]],
    baseline: tuple[nn.Module, Any],
    store: CellStore,
    cell_s: float,
    *,
    again: bool = False,
) -> dict[str, CellTime]:
    """Cells timed interleaved with their baseline layer, by key."""
    setting = store.setting.but(time_limit=cell_s * (len(pairs) + 1), narrow=NARROW, seed=store.setting.seed + again)
    found = measure_pairs(pairs, baseline, device=store.device, setting=setting)
    times = {}
    for key, latency in found.items():
        assert latency.ratio is not None
        assert latency.ratio_interval is not None
        times[key] = CellTime(median_s=latency.median_s, ratio=latency.ratio, interval=latency.ratio_interval)
    return times


def _undecided(time: CellTime) -> bool:
    """Whether the interval holds 1 and is wider than it would be after time enough."""
    low, high = time.interval
    return low < 1 <= high and high - low > NARROW


def _time_baseline_layers(table: LatencyTable, cell_s: float) -> None:
    """All baseline layers in one interleaved run, so that their shares of the model's time do not drift apart."""
    baselines = table.baseline_cells()
    pairs = {cell.key: table.layer_of(cell).tiny(cell, table.store.setting.batch) for cell in baselines}
    setting = table.store.setting.but(time_limit=cell_s * len(pairs), narrow=NARROW)
    times = measure_pairs(pairs, None, device=table.store.device, setting=setting)
    table.store.take({k: CellTime(median_s=x.median_s, ratio=1.0, interval=(1.0, 1.0)) for k, x in times.items()})
