"""What the stages of the search are worth: samplers with and without seeds at equal trials, and the solver alone.

    python benchmarks/search_ablation.py --trials 64 --seeds 5 --work ablation --out results

Every variant is an ordinary study in a directory of its own under `--work`; rerun the same command to resume. Score,
latency and MACs are searched together. The page has each variant's hypervolumes (error × share of the baseline's
latency, error × share of its MACs, selection split) against trials and against the CPU minutes until then, the
candidate table's included where a variant needs it, and in how many seeds `table` is ahead of each other variant.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.networks import FLATTERED, study_arguments
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.machine import processor
from ghostsearch.pareto import hypervolume
from ghostsearch.records import Axis, StudyView
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import SECONDS, load_study
from ghostsearch.study.run import search
from ghostsearch.study.statistics import standard_error

REFERENCE = (1.0, 1.05)
"""No accuracy at all, and 5 % above the baseline's latency or MACs."""
AXES = {"latency": Axis.of_latency("onnxruntime:cpu"), "MACs": Axis.of_cost("macs")}
OURS, SOLVER = "table", "solver only"
SAMPLERS = ("random", "tpe", "nsga2", "gp")
VARIANTS = {
    **{f"{s}, no seeds": {"sampler": s, "seeds": "none"} for s in SAMPLERS},
    **{f"{s}, uniform seeds": {"sampler": s, "seeds": "uniform"} for s in SAMPLERS},
    **{f"{s}, solver seeds": {"sampler": s, "seeds": "solver"} for s in SAMPLERS},
    SOLVER: {"sampler": "random", "seeds": "only solver"},
    OURS: {"sampler": "table", "seeds": "solver"},
}


MEANING = {
    "no seeds": "No seeds: the study starts from the baseline alone.",
    "uniform seeds": "Uniform: it starts from each choice and each width everywhere.",
    "solver seeds": "Solver: it starts from the integer program's answers too.",
    SOLVER: "Solver only: nothing but the integer program's answers.",
    OURS: "Table: the search's own sampler, which asks for eight of these for each axis and then learns from every "
    "trial; until then it builds what solver only builds, and differs by what the clock said of the layers.",
}


def main() -> None:
    args = arguments()
    curves = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for name in args.variants.split(";"):
            if name not in (OURS, SOLVER) and args.other_seeds is not None and seed >= args.other_seeds:
                continue
            folder = args.work / name.replace(", ", "-").replace(" ", "-") / str(seed)
            if not (folder / SECONDS).exists() or len(load_study(folder).records) < args.trials:
                run(args, VARIANTS[name], seed, folder)
            curves.append(curve(load_study(folder), folder).assign(variant=name, seed=seed))
            print(name, seed, *(round(curves[-1][axis].iloc[-1], 4) for axis in AXES), flush=True)
    publish(page(args, pd.concat(curves)), args.out)


def checkpoints(trials: int) -> list[int]:
    """A quarter, half and all of the trials."""
    return [trials // 4, trials // 2, trials]


def summary(table: pd.DataFrame, axis: str) -> list[dict[str, Any]]:
    """Each variant's mean hypervolume on an axis at a quarter, half and all of the trials, best first."""
    marks = checkpoints(int(table.trials.max()))
    rows = []
    for name, runs in table.groupby("variant"):
        row: dict[str, Any] = {"variant": name, "seeds": runs.seed.nunique()}
        for mark in marks:
            row[f"after {mark} trials"] = round(float(runs[runs.trials == mark][axis].mean()), 4)
        ends = runs[runs.trials == marks[-1]]
        row["spread of seeds"] = round(float(ends[axis].max() - ends[axis].min()), 4)
        row["CPU minutes"] = round(float(ends.minutes.mean()), 2)
        row["of these tables"] = round(float(runs.table_minutes.mean()), 2)
        rows.append(row)
    return sorted(rows, key=lambda r: -r[f"after {marks[-1]} trials"])


def duels(table: pd.DataFrame, axis: str) -> list[dict[str, Any]]:
    """In how many seeds `table` has the larger hypervolume than each other variant, at equal trials and minutes."""
    marks = checkpoints(int(table.trials.max()))
    ours = dict(list(table[table.variant == OURS].groupby("seed")))
    rows = []
    for name, others in table[table.variant != OURS].groupby("variant"):
        row: dict[str, Any] = {"against": name}
        pairs = [(ours[seed], runs) for seed, runs in others.groupby("seed") if seed in ours]
        for mark in marks:
            row[f"after {mark} trials"] = won([[after_trials(x, mark, axis) for x in pair] for pair in pairs])
        ends = [(a, b, min(a.minutes.max(), b.minutes.max())) for a, b in pairs]
        row["at equal CPU minutes"] = won([[after_minutes(x, end, axis) for x in (a, b)] for a, b, end in ends])
        if len(pairs) > 1:
            gaps = [after_trials(a, marks[-1], axis) - after_trials(b, marks[-1], axis) for a, b in pairs]
            row |= {"lead in the mean": round(mean(gaps), 4), "standard error": round(standard_error(gaps), 4)}
        rows.append(row)
    return rows


def won(pairs: Sequence[Sequence[float]]) -> str:
    """In how many pairs the first is the larger, and in how many the two are equal."""
    equal = sum(a == b for a, b in pairs)
    return f"{sum(a > b for a, b in pairs)} of {len(pairs)}" + (f", {equal} equal" if equal else "")


def after_trials(runs: pd.DataFrame, trials: int, axis: str) -> float:
    """A study's hypervolume after so many trials."""
    return float(runs[runs.trials == trials][axis].iloc[0])


def after_minutes(runs: pd.DataFrame, minutes: float, axis: str) -> float:
    """A study's hypervolume after so many minutes; 0 before its first trial."""
    done = runs[runs.minutes <= minutes]
    return float(done[axis].iloc[-1]) if len(done) else 0.0


def page(args: argparse.Namespace, table: pd.DataFrame) -> ResultPage:
    """The page from the curves."""
    rows = {axis: summary(table, axis) for axis in AXES}
    best = "; ".join(
        f"{axis}: {r[0]['variant']} ({r[0][f'after {args.trials} trials']:.4f})" for axis, r in rows.items()
    )
    tables = [ResultTable(f"Hypervolume of error and {axis}", r) for axis, r in rows.items()]
    if table.variant.nunique() > 1 and OURS in set(table.variant):
        tables += [ResultTable(f"Seeds in which `{OURS}` is ahead, {axis}", duels(table, axis)) for axis in AXES]
    shown = set(table.variant)
    return ResultPage(
        name=args.name, title=f"What the stages of the search are worth: {args.model}, {args.trials} trials each",
        claim=f"The search, its solver alone and Optuna's samplers after {args.trials} trials, hypervolume on "
        f"{args.model}; the best",
        figure=best,
        command=script_command(),
        device=f"{processor()}, onnxruntime:cpu, 1 thread", tables=tables,
        seed=f"{table.seed.min()} to {table.seed.max()}",
        pictures={f"{args.name}.png": lambda path: draw(table, path)},
        notes=[
            f"Hypervolume between error and share of the baseline's latency or MACs on the selection split, reference "
            f"{REFERENCE}; one search for both, trials of at most {args.epochs} epochs, mean of the seeds. CPU "
            "minutes are those of the trials' own stages by the clock, times the share of its time in which the study "
            "had a processor; latency table and candidate table are included where a variant uses them, and serve "
            "every later budget. " + " ".join(t for word, t in MEANING.items() if any(word in v for v in shown)),
            "Lead: in the mean of the seeds, paired; its standard error is that of the seeds.",
            *([FLATTERED] if args.weights else []),
        ],
    )  # fmt: skip


def run(args: argparse.Namespace, variant: dict[str, str], seed: int, folder: Path) -> None:
    """Run or resume one variant's study without a final pass worth mentioning."""
    search(
        RunConfig(
            model=args.model, weights=args.weights, data=args.data, validation_list=args.validation_list,
            space=args.space, train_images=args.train_images, baseline_epochs=args.baseline_epochs, trials=args.trials,
            epochs=args.epochs, final_epochs=0, finalists=1, objectives=("score", "latency", "macs"), time_limit=0.1,
            seed=seed, calibration_images=args.calibration_images, out=str(folder), **variant,
        )
    )  # fmt: skip


def curve(view: StudyView, folder: Path) -> pd.DataFrame:
    """Hypervolumes after every trial and the CPU minutes until then, the tables' among them."""
    baseline = next(r for r in view.records if r.digest == "baseline")
    stages = json.loads((folder / SECONDS).read_text())
    busy = stages["total, CPU"] / stages["total"]
    before = busy * sum(stages.get(stage, 0.0) for stage in ("latency table", "candidate table", "solver"))
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in AXES}
    rows, seconds = [], before
    for record in view.records:
        score = record.score()
        seconds += busy * sum(record.seconds.values())
        for name, axis in AXES.items():
            ratio = axis.ratio(record, baseline)
            if score and ratio is not None and record.state == "complete":
                points[name].append((1 - score.value, ratio))
        volumes = {name: hypervolume(found, REFERENCE) for name, found in points.items()}
        rows.append({"trials": record.number + 1, "minutes": seconds / 60, "table_minutes": before / 60, **volumes})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Mean hypervolumes, a row for each axis, against trials and against minutes."""
    figure, axes = plt.subplots(len(AXES), 2, figsize=(11, 8), sharey="row", squeeze=False)
    for row, axis in zip(axes, AXES, strict=True):
        for name, runs in table.groupby("variant"):
            mean = runs.groupby("trials")[[axis, "minutes"]].mean()
            style = "-" if "solver" in str(name) or name == OURS else "--" if "uniform" in str(name) else ":"
            row[0].plot(mean.index, mean[axis], style, label=name)
            row[1].plot(mean.minutes, mean[axis], style, label=name)
        row[0].set(ylabel=f"hypervolume of error and {axis}")
    axes[-1][0].set(xlabel="trials")
    axes[-1][1].set(xlabel="CPU minutes, the tables' included")
    axes[0][1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    parser = study_arguments(__doc__)
    parser.add_argument("--baseline-epochs", type=int)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="repetitions with other seeds")
    parser.add_argument("--other-seeds", type=int, help="repetitions of what is neither table nor solver only")
    parser.add_argument("--first-seed", type=int, default=0, help="for processes side by side, each with its own")
    parser.add_argument("--variants", default=";".join(VARIANTS), help="names joined by semicolons")
    parser.add_argument("--calibration-images", type=int, default=256)
    parser.add_argument("--name", default="search_ablation", help="the page's name")
    parser.add_argument("--work", type=Path, default=Path("ablation"), help="where the studies are kept")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
