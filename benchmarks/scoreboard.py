"""The scoreboard on top of results/: what ghostsearch is compared with, and who is ahead; read from the pages' CSVs.

A comparison whose page is not there has no row. Losses stand beside wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from math import hypot
from pathlib import Path
from typing import Any

import pandas as pd

from ghostsearch.pareto import hypervolume
from ghostsearch.study.statistics import share_error
from ghostsearch.units import plain_text

COLUMNS = ("network", "at", "measured", "ours", "compared with", "difference", "page")
ABOUT = (
    "ghostsearch against others, and its parts against its whole, on the same network, images and device; conditions, "
    "spreads and what was tried stand on the pages. A difference of less than two standard errors is called not "
    "separable; the errors are as of independent test images (of the same ones they are smaller), in ablations of the "
    "seeds. Everything is of one seed where no number of seeds is given. An ablation's hypervolumes are of the "
    "selection images, which its searches learned from."
)
OURS = ("ghostsearch", "solver only")
"""Of the tools that train for long, those that are ghostsearch's."""
RIVALS = {"tpe, no seeds": "Optuna's TPE from the baseline", "random, no seeds": "random from the baseline"}
"""What an ablation's variants are, for those who have not read its page."""
PHOTOGRAPHS, CIFAR_HALF = 500, 5_000
"""Test images of the ImageNet sample, and every second one of CIFAR's."""


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
    fastest beside the baseline in int8; then of a whole front, and the size of a file."""
    name = page.removeprefix("label_free_rivals_")
    network, images = (f"efficientnet-{name}", PHOTOGRAPHS) if name.startswith("lite") else (name, CIFAR_HALF)
    models, timed = (_with_best_statistics(table(directory, page, number)) for number in (1, 2))
    fitted = models[models.tool != "baseline"]
    for budget, rows in fitted.groupby("budget", sort=False):
        yield _duel(network, f"{budget} % of the MACs, no label", *map(_best, _sides(rows)), images)
    for at in range(0, len(timed), 2):
        mine, other = timed.iloc[at], timed.iloc[at + 1]
        row = _duel(network, f"{_share(mine['float time'])} of the time, no label", mine, other, images)
        yield replace(row, theirs=f"{row.theirs} ({_share(other['float time'])})")
    small, baseline = timed.iloc[-2], models[models.tool == "baseline"].iloc[0]
    yield from _areas(network, fitted, baseline)
    int8 = float(baseline["int8 top-1 % as given"])
    yield Row(
        network, "float against int8", "top-1 % (share of the time)",
        f"{small['top-1']:g} ({_share(small['float time'])})", f"{int8:g} ({_share(baseline['int8 time'])}) int8 alone",
        verdict(small["top-1"] - int8, _error(small["top-1"], int8, images=images)),
    )  # fmt: skip
    last = fitted[(fitted.budget == fitted.budget.iloc[-1]) & (fitted.weights == "")]
    mix, other = last[last.tool == "ours, solver's mix"].iloc[0], _best(_sides(last)[1])
    yield Row(
        network, f"{mix.budget} % of the MACs", "float MB", mix["float MB"], f"{other['float MB']} {other.tool}",
        f"{float(mix['float MB']) / float(other['float MB']):.1f} times as large",
    )  # fmt: skip


def _areas(network: str, fitted: pd.DataFrame, baseline: pd.Series) -> Iterator[Row]:
    """Hypervolume of the best model of each budget, ours and theirs, over the range of cost that both reach."""
    for axis, column in (("MACs", "MACs %"), ("time", "float time")):
        fronts = []
        for rows in _sides(fitted):
            best = [_best(some) for _, some in rows.groupby("budget")]
            fronts.append([(_cost(row[column]) / _cost(baseline[column]), 1 - row["top-1"] / 100) for row in best])
        least = max(min(cost for cost, _ in front) for front in fronts)
        mine, other = (
            hypervolume(
                [(max(cost, least), error) for cost, error in front] + [(1, 1 - baseline["top-1"] / 100)], (1, 1)
            )
            / (1 - least)
            for front in fronts
        )
        at = f"{least:.2f} to 1 of the {axis}, a model per budget, no label"
        name = "FastNAS and torch-pruning" if "FastNAS" in set(fitted.tool) else "torch-pruning"
        yield Row(network, at, "hypervolume, test images", f"{mine:.3f}", f"{other:.3f} {name}", f"{mine - other:+.3f}")


def _sides(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Our rows, and those of other tools."""
    ours = rows.tool.str.startswith("ours")
    return rows[ours], rows[~ours]


def _cost(written: str) -> float:
    """A share, or the first number of one with its interval."""
    return float(written.split(" ")[0])


def _with_best_statistics(models: pd.DataFrame) -> pd.DataFrame:
    return models.assign(**{"top-1": models[["top-1 % as given", "top-1 % reset"]].astype(float).max(axis=1)})


def _best(rows: pd.DataFrame) -> Any:
    return rows.loc[rows["top-1"].idxmax()]


def _share(interval: str) -> str:
    return interval.split(" ")[0]


def _error(*percents: float, images: int) -> float:
    """Standard error of a difference of accuracies in %, as of independent images."""
    return 100 * hypot(*(share_error(p / 100, images) for p in percents))


def _duel(network: str, at: str, mine: Any, other: Any, images: int) -> Row:
    ahead = verdict(mine["top-1"] - other["top-1"], _error(mine["top-1"], other["top-1"], images=images))
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
    for at, leads in table(directory, page).groupby("at", sort=False):
        for row in leads.to_dict("records"):
            column = f"{row['epochs']} epoch{'s' * (int(row['epochs']) > 1)}"
            ours, theirs = (f"{float(row[f'{who} %']):g} {row[who]}" for who in ("ours", "best rival"))
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
                network, f"{after}, {axis}", "hypervolume, selection images", f"{float(found.at['table', after]):.3f}",
                f"{float(found.at[other, after]):.3f} {RIVALS.get(other, other)}",
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
    """CPU seconds to a first model and to a front, beside each tool that was run."""
    for network, rows in table(directory, page).groupby("network", sort=False):
        # Of random weights, and where a tool was stopped, there is no accuracy.
        scored = rows[rows["top-1 %"] != ""]
        scored = scored.assign(**{"top-1": scored["top-1 %"].astype(float)})
        for budget, some in scored.groupby(scored.model.str.extract(r"(\d+) %", expand=False), sort=False):
            mine, other = some[some.tool == "ghostsearch"], some[some.tool != "ghostsearch"]
            yield _duel(str(network), f"{budget} % of the MACs, no label", _best(mine), _best(other), PHOTOGRAPHS)
        spent = rows.assign(seconds=rows["CPU s so far"].astype(float)).groupby("tool").seconds.agg(["min", "max"])
        stopped = set(rows.tool[rows["MACs %"] == ""])
        for to, end in (("a first model", "min"), ("a front", "max")):
            for tool in sorted(spent.index.drop("ghostsearch")):
                mine, other = spent.at["ghostsearch", end], spent.at[tool, end]
                if tool in stopped and mine > other:
                    continue
                least = "more than " * (tool in stopped)
                yield Row(
                    str(network), f"from the network to {to}", "CPU seconds", f"{mine:.0f}",
                    f"{least}{other:.0f} {tool}",
                    f"{mine / other:.1f} times as long" if mine > other else
                    f"{least}{other / mine:.1f} times as fast",
                )  # fmt: skip


def families(directory: Path, page: str) -> Iterator[Row]:
    """The mix of all families against the best family alone, at equal latency and before any label."""
    network, found = page.removeprefix("families_"), table(directory, page)
    images = PHOTOGRAPHS if network == "lite0" else CIFAR_HALF
    for at in [name for name in found.columns if name.endswith("of the latency")]:
        for precision, rows in found[(found[at] != "") & (found.family != "baseline")].groupby("precision"):
            scores = rows.set_index("family")[at].astype(float)
            if "mix" in scores.index and len(scores) > 1:
                best = scores.drop("mix").idxmax()
                yield Row(
                    network, f"{at.removeprefix('% at ')} (between models), {precision}, no label",
                    "test accuracy %", f"{scores['mix']:g} mix", f"{scores[best]:g} {best} alone",
                    verdict(scores["mix"] - scores[best], _error(scores["mix"], scores[best], images=images)),
                )  # fmt: skip


PAGES: dict[str, Callable[[Path, str], Iterable[Row]]] = {
    "label_free_rivals*": rivals,
    "long_training*": long_training,
    "inheritance": inheritance,
    "search_ablation*": ablation,
    "families_*": families,
    "tool_speed*": tool_speed,
}
"""The pages that compare, by their file names without suffix."""
