"""The scoreboard on top of results/: what ghostsearch is compared with, and who is ahead; read from the pages' CSVs.

A comparison whose page is not there has no row. Losses stand beside wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from math import hypot
from pathlib import Path
from typing import Any

import pandas as pd

from ghostsearch.study.statistics import share_error
from ghostsearch.units import plain_text

COLUMNS = ("network", "at", "measured", "ours", "compared with", "ahead by", "page")
ABOUT = (
    "ghostsearch against others on the same network, images and device; conditions, spreads and what was tried stand "
    "on the pages. Leads of less than two standard errors are called not separable; the errors are of the test images, "
    "in ablations of the seeds, and trainings with one seed say so."
)
OURS = ("ghostsearch", "solver only")
"""Of the tools that train for long, those that are ghostsearch's."""
PHOTOGRAPHS = 500
"""Test images of the ImageNet sample."""


@dataclass(frozen=True)
class Row:
    """One comparison: where it was made, both figures, and what is to be concluded."""

    network: str
    at: str
    measured: str
    ours: str
    theirs: str
    verdict: str


def scoreboard(directory: Path) -> list[str]:
    """Markdown lines: what every comparison page in a directory says of us and of others; none without such a page."""
    found = [(read, path.stem) for pattern, read in PAGES.items() for path in sorted(directory.glob(f"{pattern}.md"))]
    rows = [[*astuple(row), page] for read, page in found for row in read(directory, page)]
    lines = [[*map(plain_text, row[:-1]), f"[{row[-1]}]({row[-1]}.md)"] for row in rows]
    table = [f"| {' | '.join(line)} |" for line in (COLUMNS, ["---"] * len(COLUMNS), *lines)]
    return [ABOUT, "", *table, ""] if rows else []


def table(directory: Path, page: str, number: int = 1) -> pd.DataFrame:
    """A page's table, by its number; values as they were written."""
    return pd.read_csv(directory / (f"{page}.csv" if number == 1 else f"{page}_{number}.csv"), dtype=str).fillna("")


def verdict(ahead: float, error: float) -> str:
    """A lead in points, called so from two standard errors on."""
    return f"{ahead:+.1f} points" if abs(ahead) > 2 * error else f"{ahead:+.1f}, not separable"


def rivals(directory: Path, page: str) -> Iterator[Row]:
    """Top-1 without labels, each with its better BatchNorm statistics: at equal MACs, at equal time, and of the
    fastest beside the baseline in int8; and what it takes."""
    network = f"efficientnet-{page.removeprefix('imagenet_rivals').strip('_') or 'lite0'}"
    models, timed = (_with_best_statistics(table(directory, page, number)) for number in (1, 2))
    fitted = models[models.tool != "baseline"]
    for budget, rows in fitted.groupby("budget", sort=False):
        mine, other = (_best(rows[rows.tool.str.startswith(who)]) for who in ("ours", "torch-pruning"))
        yield _photographs(network, f"{budget} % of the MACs, no label", mine, other)
    for at in range(0, len(timed), 2):
        mine, other = timed.iloc[at], timed.iloc[at + 1]
        yield _photographs(network, f"{_share(mine['float time'])} of the time, no label", mine, other)
    small, baseline = timed.iloc[-2], models[models.tool == "baseline"].iloc[0]
    int8 = float(baseline["int8 top-1 % as given"])
    yield Row(
        network, "float against int8", "top-1 % (share of the time)",
        f"{small['top-1']:g} ({_share(small['float time'])})", f"{int8:g} ({_share(baseline['int8 time'])}) int8 alone",
        verdict(small["top-1"] - int8, _error(small["top-1"], int8)),
    )  # fmt: skip
    last = fitted[(fitted.budget == fitted.budget.iloc[-1]) & (fitted.weights == "")]
    mix, other = last[last.tool == "ours, solver's mix"].iloc[0], _best(last[last.tool.str.startswith("torch-pruning")])
    for what in ("CPU s", "float MB"):
        times = float(mix[what]) / float(other[what])
        yield Row(
            network, f"{mix.budget} % of the MACs", what, mix[what], f"{other[what]} {other.tool}",
            f"{times:.1f} times as much",
        )  # fmt: skip


def _with_best_statistics(models: pd.DataFrame) -> pd.DataFrame:
    return models.assign(**{"top-1": models[["top-1 % as given", "top-1 % reset"]].astype(float).max(axis=1)})


def _best(rows: pd.DataFrame) -> Any:
    return rows.loc[rows["top-1"].idxmax()]


def _share(interval: str) -> str:
    return interval.split(" ")[0]


def _error(*percents: float, images: int = PHOTOGRAPHS) -> float:
    """Standard error of a difference of accuracies in %, as of independent images."""
    return 100 * hypot(*(share_error(p / 100, images) for p in percents))


def _photographs(network: str, at: str, mine: Any, other: Any) -> Row:
    ahead = verdict(mine["top-1"] - other["top-1"], _error(mine["top-1"], other["top-1"]))
    return Row(
        network,
        at,
        "top-1 %",
        f"{mine['top-1']:g}",
        f"{other['top-1']:g} {other.tool}{other.get('weights', '') and ', distilled'}",
        ahead,
    )


def long_training(directory: Path, page: str) -> Iterator[Row]:
    """Test accuracy after each length of training, ours and each kind of rival."""
    network = page.removeprefix("long_training_").split("_")[0]
    for number, (at, leads) in enumerate(table(directory, page).groupby("at", sort=False), 2):
        accuracy = table(directory, page, number).set_index("tool")
        for row in leads.to_dict("records"):
            column = f"{row['epochs']} epoch{'s' * (int(row['epochs']) > 1)}"
            ours, theirs = (f"{float(accuracy.at[row[who], column]):g} {row[who]}" for who in ("ours", "best rival"))
            seeds = "one seed" if int(row["seeds"]) == 1 else f"{row['seeds']} seeds"
            yield Row(
                network, f"{at}, {column} of {int(row['images an epoch']):,} images, {seeds}", "test accuracy %", ours,
                theirs, verdict(float(row["points ahead"]), float(row["standard error"])),
            )  # fmt: skip


def ablation(directory: Path, page: str) -> Iterator[Row]:
    """Hypervolume of the default search over the solver's alone and over that of the best of Optuna's samplers."""
    network = page.removeprefix("search_ablation").strip("_") or "digits_cnn"
    if "\nMade before " in (directory / f"{page}.md").read_text(encoding="utf-8"):
        network += " (earlier code)"
    for axis, volumes, duels in (("latency", 1, 3), ("MACs", 2, 4)):
        found = table(directory, page, volumes).set_index("variant")
        if "table" not in found.index or len(found) < 2:
            return
        won = table(directory, page, duels).set_index("against")
        after = [name for name in found.columns if name.startswith("after")][-1]
        # The table is sorted by it.
        best = [name for name in found.index if name not in ("table", "solver only")][:1]
        for other in [name for name in ("solver only", *best) if name in found.index]:
            yield Row(
                network, f"{after}, {axis}", "hypervolume", f"{float(found.at['table', after]):.3f}",
                f"{float(found.at[other, after]):.3f} {other}",
                f"in {won.at[other, after]} seeds{_lead(won.loc[other])}",
            )  # fmt: skip


def _lead(duel: pd.Series) -> str:
    """Whether a lead in the mean of the seeds is one; nothing where the page does not say."""
    # With one seed there is no error.
    if not duel.get("lead in the mean", ""):
        return ""
    ahead, error = float(duel["lead in the mean"]), float(duel["standard error"])
    return f", {ahead:+.4f} ± {error:.4f}" + ("" if abs(ahead) > 2 * error else ", not separable")


def inheritance(directory: Path, page: str) -> Iterator[Row]:
    """Half of the MACs without labels: the solver's networks fitted and copied, one width fitted and pruned."""
    every = table(directory, page)
    every = every[every.training == "none"].assign(accuracy=lambda rows: rows["accuracy %"].astype(float))
    for (network, kind), rows in every.groupby(["net", "architecture"]):
        found = rows.set_index("weights").accuracy
        pruned = found[found.index.str.startswith("torch-pruning")]
        rival = pruned.idxmax() if len(pruned) else "copied"
        if kind not in ("solver", "width") or not {"closed form", rival} <= set(found.index):
            continue
        error = _error(found["closed form"], found[rival], images=10_000)
        said = "our converter, weights copied" if rival == "copied" else rival
        what = {"solver": "solver's mix", "width": "equal widths"}[str(kind)]
        yield Row(
            str(network), f"half of the MACs, no label, {what}", "test accuracy %", f"{found['closed form']:g}",
            f"{found[rival]:g} {said}", verdict(found["closed form"] - found[rival], error),
        )  # fmt: skip


def tool_speed(directory: Path, page: str) -> Iterator[Row]:
    """CPU seconds to a front."""
    for network, rows in table(directory, page).groupby("network", sort=False):
        ends = rows.assign(seconds=rows["CPU s so far"].astype(float)).groupby("tool").seconds.max()
        mine, other = ends["ghostsearch"], ends["torch-pruning"]
        yield Row(
            str(network), "from the network to a front", "CPU seconds", f"{mine:.0f}", f"{other:.0f} torch-pruning",
            f"{mine / other:.1f} times as long" if mine > other else f"{other / mine:.1f} times as fast",
        )  # fmt: skip


PAGES: dict[str, Callable[[Path, str], Iterable[Row]]] = {
    "imagenet_rivals*": rivals,
    "long_training*": long_training,
    "inheritance": inheritance,
    "search_ablation*": ablation,
    "tool_speed": tool_speed,
}
"""The pages that compare, by their file names without suffix."""
