"""The pages of `long_training.py`: accuracy against epochs at one cost, and how well what is known early ranks.

python benchmarks/long_training_page.py --net resnet20 --work runs/long_resnet20
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from math import hypot
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from benchmarks.long_models import BUDGETS, SLACK
from benchmarks.long_training import CHOOSING, REPEATED, chosen_runs
from benchmarks.result_page import ResultPage, ResultTable, publish
from benchmarks.rows import read_rows
from ghostsearch.study.statistics import share_error, standard_error

NAMES = {"macs": "half of the MACs", "latency": "0.6 of the latency"}
TEST_IMAGES = 10_000
AIMS = {"half of the MACs": 1.0, "0.6 of the latency": 1.5}
"""Points over the best rival that are aimed at after REPEATED epochs."""
OURS = ("ghostsearch", "solver only")
"""The tools that are ghostsearch's."""


def main() -> None:
    args = arguments()
    models, rows = json.loads((args.work / "models.json").read_text()), read_rows(args.work / "rows.csv")
    timing = json.loads((args.work / "timing.json").read_text())
    table = tested(models, rows, timing)
    publish(long_page(args, rows, table, timing), args.out)
    drawn, trained = (
        {m["model"] for m in models if m["tool"] == "random"},
        {(r["model"], int(r["epochs"])) for r in rows},
    )
    if drawn and all((name, rung) in trained for name in drawn for rung in (1, CHOOSING, REPEATED)):
        publish(fidelity_page(args, models, rows), args.out)


def _several(least: int, most: int) -> str:
    if most == 1:
        return "one seed"
    return f"{most} seeds" if least == most else f"{least} to {most} seeds"


def tested(models: list[dict[str, Any]], rows: list[dict[str, str]], timing: dict[str, Any]) -> pd.DataFrame:
    """One line a training that was tested, with what its model is."""
    about, chosen = {m["model"]: m for m in models}, chosen_runs(models, rows, {float(r["lr"]) for r in rows})
    found = [
        {
            "model": r["model"], "tool": about[r["model"]]["tool"], "budget": about[r["model"]]["budget"],
            "macs": about[r["model"]]["macs_ratio"],
            "latency": timing["models"].get(r["model"], {"ratio": 1.0})["ratio"],
            "epochs": int(r["epochs"]), "seed": int(r["seed"]), "lr": float(r["lr"]), "test": float(r["test"]),
            "validation": float(r["validation"]),
        }
        for r in rows
        if r["test"] and chosen.get(r["model"]) == float(r["lr"])
    ]  # fmt: skip
    return pd.DataFrame(found)


def at_budget(table: pd.DataFrame, budget: str) -> list[dict[str, Any]]:
    """Every tool at one budget and the baseline: accuracy by epochs, best after REPEATED epochs first."""
    lengths, several = sorted(map(int, table.epochs.unique())), table[table.epochs == REPEATED].seed.nunique() > 1
    made = []
    for _, runs in table[table.budget.isin([budget, ""])].groupby("model"):
        first, tests = runs.iloc[0], {length: 100 * runs[runs.epochs == length].test for length in lengths}
        row = {
            "tool": first.tool, "MACs": round(first.macs, 3), "latency": round(first.latency, 3),
            "learning rate": first.lr,
        }  # fmt: skip
        for length, some in tests.items():
            row[f"{length} epoch{'s' * (length > 1)}"] = round(some.mean(), 2) if len(some) else None
        if several:
            some = tests[REPEATED]
            row |= {"seeds": len(some), "spread of seeds": round(some.std(ddof=1), 2) if len(some) > 1 else None}
        made.append(row)
    return sorted(made, key=lambda row: -(row[f"{REPEATED} epochs"] or 0))


def lead(table: pd.DataFrame, budget: str, epochs: int, *, uniform: bool) -> dict[str, Any] | None:
    """Points of ours over the best pruner, or over one width everywhere, after so many epochs, with their error.

    The two are compared on the seeds that both have, which saw the same batches.
    """
    there = table[(table.budget == budget) & (table.epochs == epochs)]
    runs = {str(tool): dict(zip(found.seed, found.test, strict=True)) for tool, found in there.groupby("tool")}
    mine = [tool for tool in runs if tool in OURS]
    rivals = [tool for tool in runs if tool not in OURS and tool.startswith("uniform width") is uniform]
    rivals = [tool for tool in rivals if not tool.startswith("uniform ghost")]
    if not mine or not rivals:
        return None
    best, rival = (max(tools, key=lambda tool: mean(runs[tool].values())) for tools in (mine, rivals))
    images = [share_error(mean(runs[tool].values()), TEST_IMAGES) for tool in (best, rival)]
    shared = [seed for seed in runs[best] if seed in runs[rival]]
    gaps = [runs[best][seed] - runs[rival][seed] for seed in shared]
    seeds = [standard_error(gaps)] if len(gaps) > 1 else []
    points, error = 100 * mean(gaps), 100 * hypot(*images, *seeds)
    return {
        "at": NAMES[budget], "epochs": epochs, "ours": best, "best rival": rival, "seeds": len(shared),
        **{f"{name} %": round(100 * mean(runs[tool][seed] for seed in shared), 2)
           for name, tool in (("ours", best), ("best rival", rival))},
        "points ahead": round(points, 2),
        "standard error": round(error, 2), "separable": "yes" if abs(points) > 2 * error else "no",
    }  # fmt: skip


def leads(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The leads at every budget and length, with whether they can be told from nothing."""
    lengths = [int(epochs) for epochs in sorted(table.epochs.unique())]
    asked = [(budget, epochs, uniform) for budget in BUDGETS for epochs in lengths for uniform in (False, True)]
    return [row for b, e, uniform in asked if (row := lead(table, b, e, uniform=uniform))]


def long_page(
    args: argparse.Namespace, rows: list[dict[str, str]], table: pd.DataFrame, timing: dict[str, Any]
) -> ResultPage:
    """Accuracy against epochs."""
    images, batch = int(rows[0]["images"]), rows[0]["batch_size"]
    found = [row | {"images an epoch": images} for row in leads(table)]
    said = "; ".join(
        f"{r['at']}: {r['ours']} {r['points ahead']:+.1f} ± {r['standard error']:.1f} over {r['best rival']}"
        for r in found
        if r["epochs"] == REPEATED
    )
    seeds, led = table[table.epochs == REPEATED].seed.nunique(), [r["seeds"] for r in found if r["epochs"] == REPEATED]
    name = args.name or f"long_training_{args.net}"
    part = name.removeprefix(f"long_training_{args.net}").replace("_two_cores", ", on two cores").replace("_", ", ")
    widths = any("uniform width" in row["best rival"] for row in found)
    return ResultPage(
        name=name,
        title=f"Long training of {args.net}{part}: does a lead before training last?",
        claim=f"Test accuracy after {REPEATED} epochs of {images:,} images, points of the better of the search's and "
        f"the solver's model (on the test images) over the best rival{' and over one width everywhere' * widths}",
        figure=f"{said}; {_several(min(led), max(led))}",
        command=f"{args.command} && python benchmarks/long_training_page.py --net {args.net} --work {args.work} "
        f"--name {name}",
        device=args.device, seed=f"0 to {seeds - 1}" if seeds > 1 else 0,
        tables=[
            ResultTable("Leads", found),
            *(ResultTable(f"At {NAMES[b]}, test accuracy in %", at_budget(table, b)) for b in budgets(table)),
        ],
        pictures={f"{name}.png": curves(table, images)}
        if table.epochs.nunique() > 1
        else {},
        notes=[
            f"CIFAR-10 (JPEG), {images:,} training images, batch {batch}, one recipe for all: Nesterov SGD, a warm-up "
            "of a tenth, a cosine to nothing, half of the loss distilled from the baseline; each length is a whole "
            f"schedule. {chosen_how(rows)} The selection images chose the study's trials too. The given weights' "
            "authors trained them on these images in their lossless form: scores there are too good, and "
            "rank. The 10,000 test images were read for what is reported."
            + " The baseline is trained as long, distilled from itself." * ("baseline" in set(table.tool)),
            f"{f'{REPEATED} epochs have up to {seeds} seeds, as the tables say, other lengths one.' * (seeds > 1)} "
            "Trainings of one length and seed see the same batches. A lead is over the seeds that both have; "
            "its error is that of the test images and, with several seeds, of their mean; leads within two of them are "
            "called not separable. Ours is the better of the search's and the solver's model on the test images.",
            f"Latency: over the baseline's, {timing['device']}, one thread, all models interleaved. Training: "
            f"{rows[0]['device']}.",
            "Pruners cut single channels, at a latency once more by eights; each model is of the lowest ratio that "
            f"meets the budget, and so is the width; a latency may be {SLACK:g} of the baseline's above it, as two "
            "runs of the clock differ, and its last measurement stands in the table. Uniform width is our own "
            "conversion to one width everywhere, in closed form.",
            *aims(found),
            *args.note,
        ],
    )  # fmt: skip


def aims(found: list[dict[str, Any]]) -> list[str]:
    """What was aimed at and reached over the best rival, in a sentence; none where no lead is of REPEATED epochs."""
    told = []
    for r in found:
        if r["epochs"] == REPEATED and r["best rival"] != "uniform width":
            aim, ahead = AIMS[r["at"]], r["points ahead"]
            reached = f"{ahead:+.2f} ± {r['standard error']:.2f}: {'met' if ahead >= aim else 'missed'}"
            told.append(f"{aim:g} point{'s' * (aim != 1)} at {r['at']} ({reached})")
    return [f"Aimed at after {REPEATED} epochs, over the best rival: {', '.join(told)}."] * bool(told)


def chosen_how(rows: list[dict[str, str]]) -> str:
    """How the learning rates were chosen, and which of the study's models stands for ghostsearch."""
    rates = {r["lr"] for r in rows}
    tried = len({(r["model"], r["lr"]) for r in rows if int(r["epochs"]) == CHOOSING and not r["test"]})
    after = f"on the 5,000 selection images after {CHOOSING} epochs ({tried} trainings)"
    model = "which of the study's models stands for ghostsearch"
    if len(rates) > 1:
        return f"Learning rates, and {model}, were chosen {after}."
    one = f"One peak learning rate, {rates.pop()}, for all"
    return f"{one}; {model} was chosen {after}." if tried else f"{one}; ghostsearch's model is the study's best."


def budgets(table: pd.DataFrame) -> list[str]:
    """Those that there are models of."""
    return [budget for budget in BUDGETS if budget in set(table.budget)]


def curves(table: pd.DataFrame, images: int) -> Callable[[Path], object]:
    """Draws accuracy against epochs, one panel a budget."""

    def draw(path: Path) -> None:
        shown = budgets(table)
        figure, (axes,) = plt.subplots(1, len(shown), figsize=(5.5 * len(shown), 4.4), sharey=True, squeeze=False)
        for plot, budget in zip(axes, shown, strict=True):
            for tool, runs in table[table.budget.isin([budget, ""])].groupby("tool"):
                means = 100 * runs.groupby("epochs").test.mean()
                style: dict[str, Any] = {"lw": 2.5, "color": "black"} if tool == OURS[0] else {"lw": 1.2}
                plot.plot(means.index, means, "--" if tool == "baseline" else "o-", ms=4, label=tool, **style)
            plot.set(xscale="log", xlabel=f"epochs of {images:,} images", title=f"at {NAMES[budget]}")
            plot.set_xticks(sorted(table.epochs.unique()), [str(e) for e in sorted(table.epochs.unique())])
            plot.minorticks_off()
            plot.grid(alpha=0.3)
            plot.legend(fontsize=7)
        axes[0].set_ylabel("test accuracy %")
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        plt.close(figure)

    return draw


def fidelity_page(args: argparse.Namespace, models: list[dict[str, Any]], rows: list[dict[str, str]]) -> ResultPage:
    """Rank correlation of what is known early with the score after REPEATED epochs."""
    drawn = [m for m in models if m["tool"] == "random"]
    scores = {m["model"]: {0: float(m["before"])} for m in drawn}
    for r in rows:
        if r["model"] in scores:
            scores[r["model"]][int(r["epochs"])] = float(r["validation"])
    kept = {n: s for n, s in scores.items() if REPEATED in s}
    truth = [s[REPEATED] for s in kept.values()]
    predictors: dict[str, list[float]] = {
        f"{rung} epochs": [s[rung] for s in kept.values()]
        for rung in (0, 1, 3)
        if all(rung in s for s in kept.values())
    }
    predictors["candidate table"] = [-m["predicted"] for m in drawn if m["model"] in kept]
    predictors["MACs"] = [m["macs"] for m in drawn if m["model"] in kept]
    taus = [
        {
            "predictor": name,
            "tau": round(float(kendalltau(values, truth).statistic), 3),
            "architectures": len(truth),
        }
        for name, values in predictors.items()
    ]
    listed = [
        {"architecture": m["point"], "share of MACs": round(m["macs_ratio"], 3)}
        | {f"{e} epochs": round(v, 4) for e, v in sorted(scores[m["model"]].items())}
        for m in drawn
    ]
    spread = 1000 * float(np.ptp(truth))
    return ResultPage(
        name=f"fidelity_{args.net}", title=f"How well what is known early ranks architectures: {args.net}",
        claim=f"Kendall's tau of the candidate table with {REPEATED} epochs of 45,000 images, {args.net}, "
        f"{len(truth)} random architectures near half of the MACs",
        figure=f"{taus[-2]['tau']:.2f}", command=args.command, device=args.device, seed=0,
        tables=[
            ResultTable(f"Rank correlation with the score after {REPEATED} epochs", taus),
            ResultTable("Scores on the selection split", listed),
        ],
        notes=[
            "Each score is of a whole schedule of so many epochs from the closed form, one seed, on 5,000 selection "
            f"images (standard error 5 thousandths). The scores after {REPEATED} epochs spread over {spread:.0f} "
            "thousandths: where they lie close, chance orders them.",
            "The architectures were drawn anew for this page, from the search space and near half of the MACs, where "
            "their cost says nothing about them.",
        ],
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="resnet20")
    parser.add_argument("--name", help="of the page; default: long_training_NET")
    parser.add_argument("--work", type=Path, required=True, help="directory of long_training.py")
    parser.add_argument("--command", default="python benchmarks/long_training.py", help="what made the rows")
    parser.add_argument("--device", default="", help="where models were made, timed and trained")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the page; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
