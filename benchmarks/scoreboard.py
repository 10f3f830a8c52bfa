"""The scoreboard on top of results/: what ghostsearch is compared with, and who is ahead; read from the pages' CSVs.

A comparison whose page is not there has no row. Losses stand beside wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple
from math import hypot
from pathlib import Path

import pandas as pd

from benchmarks.comparison import CIFAR, PAIRED, Row, images_of, network_name, table, verdict
from benchmarks.label_free_rows import rivals
from ghostsearch.study.statistics import share_error
from ghostsearch.units import plain_text

COLUMNS = ("network", "at", "measured", "ours", "compared with", "difference", "page")
ABOUT = (
    "ghostsearch against others, and its parts against its whole, on the same network, images and device; conditions, "
    "spreads and what was tried stand on the pages. A difference of less than two standard errors is called not "
    "separable; untrained networks are compared on the same test images, trained ones as on independent ones, "
    "ablations over their seeds. Everything else is of one seed. `Between models` is the straight line between "
    "neighbours of a front, the untouched baseline its last. An ablation's hypervolumes are of the selection images, "
    "which its searches learned from and, on CIFAR-10, the given weights too."
)
RIVALS = {"tpe, no seeds": "Optuna's TPE from the baseline", "random, no seeds": "random from the baseline"}
"""What an ablation's variants are, for those who have not read its page."""


def scoreboard(directory: Path) -> list[str]:
    """Markdown lines: what every comparison page in a directory says of us and of others; none without such a page."""
    found = [(read, path.stem) for pattern, read in PAGES.items() for path in sorted(directory.glob(f"{pattern}.md"))]
    rows = [[*astuple(row), page] for read, page in found for row in read(directory, page)]
    lines = [[*map(plain_text, row[:-1]), f"[{row[-1]}]({row[-1]}.md)"] for row in rows]
    table = [f"| {' | '.join(line)} |" for line in (COLUMNS, ["---"] * len(COLUMNS), *lines)]
    return [ABOUT, "", *table, ""] if rows else []


def long_training(directory: Path, page: str) -> Iterator[Row]:
    """Test accuracy after each length of training, ours, each kind of rival, and the baseline trained as long."""
    network = page.removeprefix("long_training_").split("_")[0]
    leads = table(directory, page)
    for at, rows in leads.groupby("at", sort=False):
        for row in rows.to_dict("records"):
            ours, theirs = (f"{float(row[f'{who} %']):g} {_trained(row[who])}" for who in ("ours", "best rival"))
            yield Row(
                network, f"{at}, {_length(row)}", "test accuracy %", ours, theirs,
                verdict(float(row["points ahead"]), float(row["standard error"]), int(row["seeds"])),
            )  # fmt: skip
    models = table(directory, page, 2).set_index("tool")
    for row in leads[leads["at"] == leads["at"].iloc[0]].drop_duplicates("epochs").to_dict("records"):
        column = f"{row['epochs']} epoch{'s' * (int(row['epochs']) > 1)}"
        pairs = [("uniform width", "L1", ", equal widths"), (row["ours"], "baseline", ", baseline trained as long")]
        for mine, other, what in pairs:
            if {mine, other} <= set(models.index) and models.at[mine, column] and models.at[other, column]:
                ours, theirs = float(models.at[mine, column]), float(models.at[other, column])
                yield Row(
                    network, f"{row['at']}{what}, {_length(row)}", "test accuracy %", f"{ours:g} {_trained(mine)}",
                    f"{theirs:g} {other}", verdict(ours - theirs, _independent(ours, theirs), int(row["seeds"])),
                )  # fmt: skip


def starts(directory: Path, page: str) -> Iterator[Row]:
    """Our fitted start beside another one of the same structure, each at the rate that is best for it."""
    network = page.removeprefix("start_rates_")
    for epochs, rows in table(directory, page).groupby("epochs", sort=False):
        found, images = rows.set_index("start")["test %"].astype(float), int(rows.images.iloc[0])
        for mine in (name for name in found.index if name.endswith(", fitted")):
            structure = mine.removesuffix(", fitted")
            for other in (name for name in found.index if name != mine and name.startswith(structure)):
                ours, theirs = found[mine], found[other]
                yield Row(
                    network, f"half of the MACs, {structure}, "
                    f"{_length({'epochs': str(epochs), 'images an epoch': str(images), 'seeds': '1'})}",
                    "test accuracy %", f"{ours:g} fitted", f"{theirs:g} {other.removeprefix(f'{structure}, ')}",
                    verdict(ours - theirs, _independent(ours, theirs), 1),
                )  # fmt: skip


def _independent(*percents: float) -> float:
    """Standard error in points of a difference of accuracies in %, as of independent test images."""
    return 100 * hypot(*(share_error(p / 100, CIFAR) for p in percents))


def _trained(tool: str) -> str:
    return "our own uniform width, fitted" if tool == "uniform width" else tool


def _length(row: dict[str, str]) -> str:
    seeds = "one seed" if int(row["seeds"]) == 1 else f"{row['seeds']} seeds"
    epochs = f"{row['epochs']} epoch{'s' * (int(row['epochs']) > 1)}"
    return f"{epochs} of {int(row['images an epoch']):,} images, {seeds}"


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
        lengths = [name for name in found.columns if name.startswith("after")]
        # The table is sorted by the last.
        best = [name for name in found.index if name not in ("table", "solver only")][:1]
        others = [name for name in ("solver only", *best) if name in found.index]
        for after, other in ((after, other) for after in dict.fromkeys((lengths[0], lengths[-1])) for other in others):
            yield Row(
                network, f"{after}, {axis}", "hypervolume, selection images", f"{float(found.at['table', after]):.3f}",
                f"{float(found.at[other, after]):.3f} {RIVALS.get(other, other)}",
                f"in {won.at[other, after]} seeds{_lead(won.loc[other]) if after == lengths[-1] else ''}",
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
        said = "our converter, weights copied" if rival == "copied" else rival
        what = {"solver": "solver's mix", "width": "equal widths"}[str(kind)]
        yield Row(
            str(network), f"half of the MACs, no label, {what}", "test accuracy %", f"{found['closed form']:g}",
            f"{found[rival]:g} {said}", verdict(found["closed form"] - found[rival], PAIRED[CIFAR]),
        )  # fmt: skip


def tool_speed(directory: Path, page: str) -> Iterator[Row]:
    """CPU seconds to a first model and to a front, beside each tool that was run."""
    for network, rows in table(directory, page).groupby("network", sort=False):
        # Of random weights there is no accuracy; where a tool was stopped there is none either.
        random = "" if (rows["top-1 %"] != "").any() else " (random weights)"
        spent = rows.assign(seconds=rows["CPU s so far"].astype(float)).groupby("tool").seconds.agg(["min", "max"])
        stopped = set(rows.tool[rows["MACs %"] == ""])
        for to, end in (("a first model", "min"), ("a front", "max")):
            for tool in sorted(spent.index.drop("ghostsearch")):
                mine, other = spent.at["ghostsearch", end], spent.at[tool, end]
                if tool in stopped and mine > other:
                    continue
                least = "more than " * (tool in stopped)
                yield Row(
                    f"{network}{random}", f"from the network to {to}", "CPU seconds", f"{mine:.0f}",
                    f"{least}{other:.0f} {tool}",
                    f"{mine / other:.1f} times as long" if mine > other else
                    f"{least}{other / mine:.1f} times as fast",
                )  # fmt: skip


def families(directory: Path, page: str) -> Iterator[Row]:
    """The mix of all families against the best family alone: at equal latency, and at equal loss, before any label."""
    network, found = network_name(page.removeprefix("families_")), table(directory, page)
    found = found[found.family != "baseline"]
    error = PAIRED[images_of(network)]
    for at in [name for name in found.columns if name.endswith(("of the latency", "points lost"))]:
        faster = at.endswith("points lost")
        for precision, rows in found[found[at] != ""].groupby("precision"):
            values = rows.set_index("family")[at].astype(float)
            alone = values.drop("mix", errors="ignore")
            if alone.empty:
                continue
            best = alone.idxmin() if faster else alone.idxmax()
            mix = f"{values['mix']:g} mix" if "mix" in values.index else "mix: no model so fast"
            said = "behind"
            if "mix" in values.index:
                ahead = values["mix"] - values[best]
                said = f"{ahead:+.3f} of the time" if faster else verdict(ahead, error)
            where = at.removeprefix("% at ").removeprefix("latency at ").replace("1 points", "1 point")
            yield Row(
                network, f"{where} (between models), {precision}, no label",
                "share of the latency" if faster else "test accuracy %", mix, f"{values[best]:g} {best} alone", said,
            )  # fmt: skip


def ranks(directory: Path, page: str) -> Iterator[Row]:
    """How a table orders architectures beside their MACs alone."""
    found = table(directory, page)
    if "predictor" in found.columns:
        for model, rows in found.groupby("model", sort=False):
            taus = rows.set_index("predictor")["Kendall τ"].astype(float)
            yield _rank(
                network_name(str(model)), "latency of random architectures", taus["latency table"], taus["MACs"]
            )
        return
    network = network_name(page.removeprefix("table_rank_"))
    # Of one or two architectures there is no rank correlation.
    for _, row in found[found["table: τ"] != ""].iterrows():
        at = f"accuracy without training, architectures: {row.architectures}"
        yield _rank(network, at, float(row["table: τ"]), float(row["MACs alone: τ"]))


def _rank(network: str, at: str, ours: float, theirs: float) -> Row:
    return Row(network, at, "Kendall's τ", f"{ours:.3f} table", f"{theirs:.3f} MACs alone", f"{ours - theirs:+.3f}")


PAGES: dict[str, Callable[[Path, str], Iterable[Row]]] = {
    "label_free_rivals*": rivals,
    "long_training*": long_training,
    "start_rates*": starts,
    "inheritance": inheritance,
    "search_ablation*": ablation,
    "families_*": families,
    "tool_speed*": tool_speed,
    "latency_audit*": ranks,
    "table_rank*": ranks,
}
"""The pages that compare, by their file names without suffix."""
