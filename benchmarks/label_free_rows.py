"""The scoreboard's rows of the pages about networks without labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.comparison import PAIRED, Row, images_of, network_name, share, table, verdict
from benchmarks.fronts import Point, between
from ghostsearch.pareto import hypervolume

GIVEN, RESET = "top-1 % as given", "top-1 % reset"
MIX = "ours, solver's mix"


def rivals(directory: Path, page: str) -> Iterator[Row]:
    """Top-1 without labels, each with its better BatchNorm statistics: at equal MACs, at equal time, of whole fronts,
    and in int8; then the size of a file."""
    network = network_name(page.removeprefix("label_free_rivals_"))
    images = images_of(network)
    models = table(directory, page)
    models["top-1"] = models[[GIVEN, RESET]].astype(float).max(axis=1)
    models["int8 top-1"] = models[[f"int8 {GIVEN}", f"int8 {RESET}"]].astype(float).max(axis=1)
    # Timed or not, what another page says of FastNAS counts at equal MACs.
    here = "FastNAS" in set(models.tool)
    elsewhere = [] if here else _fastnas(directory, network)
    not_run = ", FastNAS not run" * (not here and not elsewhere)
    absent = {"MACs": not_run, "time": ", FastNAS not timed" if elsewhere else not_run}
    fitted, baseline = models[models.tool != "baseline"], models[models.tool == "baseline"].iloc[0]
    yield from _at_equal_macs(network, fitted, elsewhere, images, absent["MACs"])
    mixes = fitted[(fitted.tool == MIX) & (fitted.weights == "")]
    others = fitted[~fitted.tool.str.startswith("ours")]
    for _, mix in mixes.iterrows():
        found = between([*_points(others, "float time", "top-1"), Point(1, baseline["top-1"], "baseline")],
                        share(mix["float time"]))  # fmt: skip
        at = f"{share(mix['float time']):.3f} of the time, no label"
        yield _beside(network, at, mix["top-1"], found, f"others, between models{absent['time']}", images)
    yield from _areas(network, fitted, baseline, elsewhere, absent)
    yield from _in_int8(network, mixes, others, baseline, images)
    yield _size(network, fitted)


def _fastnas(directory: Path, network: str) -> list[Point]:
    """FastNAS's models of a network on its page about time, by their share of the MACs."""
    page = f"tool_speed_{network}"
    if not (directory / f"{page}.csv").is_file():
        return []
    rows = table(directory, page)
    rows = rows[(rows.tool == "FastNAS") & (rows["top-1 %"] != "")]
    return [Point(float(r["MACs %"]) / 100, float(r["top-1 %"]), "FastNAS") for _, r in rows.iterrows()]


def _points(rows: pd.DataFrame, cost: str, accuracy: str, whole: float = 1) -> list[Point]:
    return [Point(share(r[cost]) / whole, r[accuracy], r.tool) for _, r in rows.iterrows()]


def _at_equal_macs(
    network: str, fitted: pd.DataFrame, elsewhere: list[Point], images: int, absent: str
) -> Iterator[Row]:
    for budget, rows in fitted.groupby("budget", sort=False):
        ours = rows.tool.str.startswith("ours")
        mine, other = _best(rows[ours]), _best(rows[~ours])
        found = Point(0, other["top-1"], other.tool + ", distilled" * bool(other.weights))
        known = [p for p in elsewhere if abs(p.cost - int(budget) / 100) < 0.01]
        best = max([found, *known], key=lambda p: p.accuracy)
        yield Row(
            network, f"{budget} % of the MACs, no label", "top-1 %", f"{mine['top-1']:g}",
            f"{best.accuracy:g} {best.name}{absent}", verdict(mine["top-1"] - best.accuracy, PAIRED[images]),
        )  # fmt: skip


def _best(rows: pd.DataFrame) -> Any:
    return rows.loc[rows["top-1"].idxmax()]


def _beside(network: str, at: str, mine: float, found: Any, name: str, images: int) -> Row:
    row = Row(network, at, "top-1 %", f"{mine:g}", f"none so fast: {name}", "alone")
    if found is None:
        return row
    return replace(row, theirs=f"{found.accuracy:.1f} {name}", verdict=verdict(mine - found.accuracy, PAIRED[images]))


def _areas(
    network: str, fitted: pd.DataFrame, baseline: pd.Series, elsewhere: list[Point], absent: dict[str, str]
) -> Iterator[Row]:
    """Hypervolume of all models of a side, over the range of cost that both reach."""
    ours = fitted.tool.str.startswith("ours")
    for axis, column in (("MACs", "MACs %"), ("time", "float time")):
        sides = [_points(rows, column, "top-1", share(baseline[column])) for rows in (fitted[ours], fitted[~ours])]
        sides[1] += elsewhere * (axis == "MACs")
        least = max(min(p.cost for p in side) for side in sides)
        mine, other = (_area(side, least, baseline["top-1"]) for side in sides)
        yield Row(
            network, f"{least:.2f} to 1 of the {axis}, all models, no label", "hypervolume, test images",
            f"{mine:.3f}", f"{other:.3f} the other tools together{absent[axis]}", f"{mine - other:+.3f}",
        )  # fmt: skip


def _area(side: list[Point], least: float, whole: float) -> float:
    points = [(max(p.cost, least), 1 - p.accuracy / 100) for p in side if p.cost < 1] + [(1, 1 - whole / 100)]
    return hypervolume(points, (1, 1)) / (1 - least)


def _in_int8(
    network: str, mixes: pd.DataFrame, others: pd.DataFrame, baseline: pd.Series, images: int
) -> Iterator[Row]:
    """Each mix in int8 beside int8 alone and the other tools in int8, and the fastest in float beside int8 alone."""
    alone = Point(share(baseline["int8 time"]), float(baseline[f"int8 {GIVEN}"]), "int8 alone")
    for _, mix in mixes.iterrows():
        time, mine = share(mix["int8 time"]), mix["int8 top-1"]
        found = between([*_points(others, "int8 time", "int8 top-1"), alone], time)
        at = f"int8, {mix.budget} % of the MACs, {time:.3f} of the float time"
        row = _beside(network, at, mine, found, "others in int8, between models", images)
        if found and found.models == (alone,):
            row = replace(row, theirs=f"{alone.accuracy:g} int8 alone, at {alone.cost:.3f}")
        yield row
    small = mixes.iloc[-1]
    yield Row(
        network, "float against int8", "top-1 % (share of the time)",
        f"{small['top-1']:g} ({share(small['float time']):.3f})", f"{alone.accuracy:g} ({alone.cost:.3f}) int8 alone",
        verdict(small["top-1"] - alone.accuracy, PAIRED[images]),
    )  # fmt: skip


def _size(network: str, fitted: pd.DataFrame) -> Row:
    last = fitted[(fitted.budget == fitted.budget.iloc[-1]) & (fitted.weights == "")]
    mix, other = last[last.tool == MIX].iloc[0], _best(last[~last.tool.str.startswith("ours")])
    return Row(
        network, f"{mix.budget} % of the MACs", "float MB", mix["float MB"], f"{other['float MB']} {other.tool}",
        f"{float(mix['float MB']) / float(other['float MB']):.1f} times as large",
    )  # fmt: skip
