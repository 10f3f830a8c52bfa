"""What the stages of the search are worth: samplers with and without seeds at equal trials, and the solver alone.

    python benchmarks/search_ablation.py --model ghostsearch:resnet20 --weights cifar_resnet20_jpeg.safetensors \\
        --data folder:cifar10 --validation-list cifar10-jpeg-val.txt --trials 40 --out results/ablation

Every variant is an ordinary study in a directory of its own, so the same command goes on where it stopped. The table
has each variant's hypervolume (error × share of the plain MACs) after every trial and the minutes of trials until then.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ghostsearch.files import write_text
from ghostsearch.pareto import hypervolume
from ghostsearch.records import StudyView
from ghostsearch.search.config import RunConfig
from ghostsearch.search.run import search
from ghostsearch.search.view import load_study

REFERENCE = (1.0, 1.05)
"""No accuracy at all, and 5 % above the plain model's MACs."""
VARIANTS = {
    **{f"{s}, no seeds": {"sampler": s, "seeds": "none"} for s in ("random", "tpe", "nsga2")},
    **{f"{s}, uniform seeds": {"sampler": s, "seeds": "uniform"} for s in ("random", "tpe", "nsga2")},
    **{f"{s}, solver seeds": {"sampler": s, "seeds": "solver"} for s in ("random", "tpe", "nsga2")},
    "solver only": {"sampler": "random", "seeds": "only solver"},
}


def main() -> None:
    args = arguments()
    curves = []
    for name in args.variants.split(";"):
        for seed in range(args.seeds):
            folder = args.out / name.replace(", ", "-").replace(" ", "-") / str(seed)
            seconds = run(args, VARIANTS[name], seed, folder)
            curves.append(curve(load_study(folder)).assign(variant=name, seed=seed, overhead_s=seconds))
            write_text(args.out / "ablation.csv", pd.concat(curves).to_csv(index=False))
            print(name, seed, curves[-1].hypervolume.iloc[-1], flush=True)
    table = pd.concat(curves)
    last = table.groupby(["variant", "seed"]).last().groupby("variant")[["hypervolume", "trial_minutes"]]
    write_text(args.out / "ablation.md", last.agg(["mean", "std"]).round(4).to_markdown() + "\n")
    draw(table, args.out / "ablation.svg")


def run(args: argparse.Namespace, variant: dict[str, str], seed: int, folder: Path) -> float:
    """Run or resume one variant's study without a final pass worth mentioning; seconds this call took."""
    started = time.perf_counter()
    search(
        RunConfig(
            model=args.model, weights=args.weights, data=args.data, validation_list=args.validation_list,
            space=args.space, train_images=args.train_images, baseline_epochs=args.baseline_epochs, trials=args.trials,
            epochs=args.epochs, final_epochs=0, finalists=1, objectives=("score", "macs"), time_limit=0.1, seed=seed,
            out=str(folder), **variant,
        )
    )  # fmt: skip
    return time.perf_counter() - started


def curve(view: StudyView) -> pd.DataFrame:
    """Hypervolume and minutes of trials after every trial."""
    plain = next(r for r in view.records if r.digest == "plain")
    assert plain.cost
    rows, points, seconds = [], [], 0.0
    for record in view.records:
        score = record.score()
        seconds += sum(record.seconds.values())
        if score and record.cost and record.state == "complete":
            points.append((1 - score.value, record.cost.macs / plain.cost.macs))
        rows.append((record.number + 1, hypervolume(points, REFERENCE), seconds / 60))
    return pd.DataFrame(rows, columns=["trials", "hypervolume", "trial_minutes"])


def draw(table: pd.DataFrame, path: Path) -> None:
    """Mean hypervolume against trials and against minutes."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for name, rows in table.groupby("variant"):
        mean = rows.groupby("trials")[["hypervolume", "trial_minutes"]].mean()
        axes[0].plot(mean.index, mean.hypervolume, label=name)
        axes[1].plot(mean.trial_minutes, mean.hypervolume, label=name)
    axes[0].set(xlabel="trials", ylabel="hypervolume")
    axes[1].set(xlabel="minutes of trials")
    axes[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


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
    parser.add_argument("--variants", default=";".join(VARIANTS), help="names joined by semicolons")
    parser.add_argument("--out", type=Path, default=Path("ablation"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
