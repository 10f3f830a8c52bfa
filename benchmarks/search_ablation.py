"""What the stages of the search are worth: samplers with and without seeds at equal trials, and the solver alone.

    python benchmarks/search_ablation.py --trials 24 --seeds 2 --work ablation --out results

Every variant is an ordinary study in a directory of its own under `--work`, so the same command goes on where it
stopped. The page has each variant's hypervolume (error × share of the baseline's MACs, selection split) against trials
and against the CPU minutes until then, the candidate table's included where a variant needs it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from ghostsearch.machine import processor
from ghostsearch.pareto import hypervolume
from ghostsearch.records import StudyView
from ghostsearch.report.result_page import ResultPage, ResultTable, publish
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import SECONDS, load_study
from ghostsearch.study.run import search

REFERENCE = (1.0, 1.05)
"""No accuracy at all, and 5 % above the baseline's MACs."""
VARIANTS = {
    **{f"{s}, no seeds": {"sampler": s, "seeds": "none"} for s in ("random", "tpe", "nsga2")},
    **{f"{s}, uniform seeds": {"sampler": s, "seeds": "uniform"} for s in ("random", "tpe", "nsga2")},
    **{f"{s}, solver seeds": {"sampler": s, "seeds": "solver"} for s in ("random", "tpe", "nsga2")},
    "solver only": {"sampler": "random", "seeds": "only solver"},
    "table": {"sampler": "table", "seeds": "solver"},
}


def main() -> None:
    args = arguments()
    curves = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for name in args.variants.split(";"):
            folder = args.work / name.replace(", ", "-").replace(" ", "-") / str(seed)
            if not (folder / SECONDS).exists() or len(load_study(folder).records) < args.trials:
                run(args, VARIANTS[name], seed, folder)
            curves.append(curve(load_study(folder), folder).assign(variant=name, seed=seed))
            print(name, seed, curves[-1].hypervolume.iloc[-1], flush=True)
    table = pd.concat(curves)
    rows = summary(table)
    publish(page(args, table, rows), args.out)


def summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Each variant's hypervolume at a quarter, half and all of the trials, best first."""
    last = int(table.trials.max())
    rows = []
    for name, runs in table.groupby("variant"):
        row: dict[str, Any] = {"variant": name, "seeds": runs.seed.nunique()}
        for share in (4, 2, 1):
            at = runs[runs.trials == last // share].hypervolume
            row[f"hypervolume after {last // share} trials"] = round(float(at.mean()), 4)
        ends = runs[runs.trials == last]
        row["spread of seeds"] = round(float(ends.hypervolume.max() - ends.hypervolume.min()), 4)
        row["minutes"] = round(float(ends.minutes.mean()), 2)
        row["of these candidate table"] = round(float(runs.table_minutes.mean()), 2)
        rows.append(row)
    return sorted(rows, key=lambda r: -r[f"hypervolume after {last} trials"])


def page(args: argparse.Namespace, table: pd.DataFrame, rows: list[dict[str, Any]]) -> ResultPage:
    """The page from the curves."""
    return ResultPage(
        name=args.name, title=f"What the stages of the search are worth: {args.model}, {args.trials} trials each",
        claim=f"Samplers with and without seeds at {args.trials} trials, hypervolume on {args.model}; the best variant",
        figure=f"{rows[0]['variant']}, {rows[0][f'hypervolume after {args.trials} trials']:.4f}",
        command="python benchmarks/" + " ".join([Path(sys.argv[0]).name, *map(shlex.quote, sys.argv[1:])]),
        device=processor(), tables=[ResultTable("Hypervolume", rows)],
        pictures={f"{args.name}.png": lambda path: draw(table, path)},
        notes=[
            f"Hypervolume between error and share of the baseline MACs on the selection split, reference {REFERENCE}; "
            f"trials of at most {args.epochs} epochs, mean of the seeds. Minutes are wall time on a shared machine, "
            "the candidate table's included; it is built once and serves every later budget. No seeds: the study "
            "starts from the baseline alone. Uniform: also each choice and each width everywhere. Solver: also the "
            "integer program's answers. "
            "Solver only: nothing but those. Table: the search's own sampler, which asks for eight of them and "
            "then learns.",
        ],
    )  # fmt: skip


def run(args: argparse.Namespace, variant: dict[str, str], seed: int, folder: Path) -> None:
    """Run or resume one variant's study without a final pass worth mentioning."""
    search(
        RunConfig(
            model=args.model, weights=args.weights, data=args.data, validation_list=args.validation_list,
            space=args.space, train_images=args.train_images, baseline_epochs=args.baseline_epochs, trials=args.trials,
            epochs=args.epochs, final_epochs=0, finalists=1, objectives=("score", "macs"), time_limit=0.1, seed=seed,
            calibration_images=args.calibration_images, out=str(folder), **variant,
        )
    )  # fmt: skip


def curve(view: StudyView, folder: Path) -> pd.DataFrame:
    """Hypervolume after every trial and the minutes until then, the candidate table's among them."""
    baseline = next(r for r in view.records if r.digest == "baseline")
    assert baseline.cost
    stages = json.loads((folder / SECONDS).read_text())
    before = stages.get("candidate table", 0.0) + stages.get("solver", 0.0)
    rows, points, seconds = [], [], before
    for record in view.records:
        score = record.score()
        seconds += sum(record.seconds.values())
        if score and record.cost and record.state == "complete":
            points.append((1 - score.value, record.cost.macs / baseline.cost.macs))
        rows.append((record.number + 1, hypervolume(points, REFERENCE), seconds / 60, before / 60))
    return pd.DataFrame(rows, columns=["trials", "hypervolume", "minutes", "table_minutes"])


def draw(table: pd.DataFrame, path: Path) -> None:
    """Mean hypervolume against trials and against minutes."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for name, rows in table.groupby("variant"):
        mean = rows.groupby("trials")[["hypervolume", "minutes"]].mean()
        style = "-" if "solver" in str(name) else "--" if "uniform" in str(name) else ":"
        axes[0].plot(mean.index, mean.hypervolume, style, label=name)
        axes[1].plot(mean.minutes, mean.hypervolume, style, label=name)
    axes[0].set(xlabel="trials", ylabel="hypervolume")
    axes[1].set(xlabel="minutes, the candidate table's included")
    axes[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ghostsearch:digits_cnn")
    parser.add_argument("--weights")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--validation-list")
    parser.add_argument("--space", default="ghost_width")
    parser.add_argument("--train-images", type=int)
    parser.add_argument("--baseline-epochs", type=int)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="repetitions with other seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="for processes side by side, each with its own")
    parser.add_argument("--variants", default=";".join(VARIANTS), help="names joined by semicolons")
    parser.add_argument("--calibration-images", type=int, default=256)
    parser.add_argument("--name", default="search_ablation", help="the page's name")
    parser.add_argument("--work", type=Path, default=Path("ablation"), help="where the studies are kept")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
