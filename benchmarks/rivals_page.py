"""The page of `rivals.py`: hypervolumes, the models at half the MACs, what each tool cost, and both fronts.

python benchmarks/rivals_page.py --run rivals_resnet20 --study search_resnet20 --name rivals_resnet20 --out results
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from ghostsearch.machine import processor
from ghostsearch.pareto import hypervolume, pareto_front
from ghostsearch.report.result_page import ResultPage, ResultTable, publish
from ghostsearch.study.directory import load_study

OURS = ("ghostsearch", "solver only")
"""A study's front, and what its candidate table answers alone."""
REFERENCE = (1.0, 1.05)
"""Hypervolume's reference: no accuracy at all, and 5 % above the baseline's cost."""
HALF = (0.4, 0.6)
"""Shares of the baseline MACs that count as about half; of a tool's models there the nearest to half speaks for it."""


def main() -> None:
    args = arguments()
    table = pd.concat([pd.read_csv(run / "rivals.csv") for run in args.run])
    timing_file = args.run[0] / "timing.json"
    timing = json.loads(timing_file.read_text()) if timing_file.exists() else {}
    half = half_the_macs(table).reset_index(drop=True)
    pictures = {f"{args.name}_macs.png": picture(table, "macs_ratio", "share of the baseline's MACs")}
    if table.latency_ratio.notna().all():
        text = f"latency over the baseline's on {timing['device']}, batch 1"
        pictures[f"{args.name}_latency.png"] = picture(table, "latency_ratio", text)
    page = ResultPage(
        name=args.name,
        title=f"{args.net} and its rivals: same images, same {table.epochs.iloc[0]} epochs",
        claim=f"{args.net} at about half the MACs, test accuracy beside the best rival's",
        figure=figure(half, int(table.epochs.iloc[0])),
        command=args.command,
        device=processor(),
        seed=int(table.seed.min()),
        tables=[
            ResultTable("Fronts", fronts(table)),
            ResultTable("About half the MACs", half.round(4).to_dict("records")),
            ResultTable("Cost", costs(table, args.study)),
            *(ResultTable(f"Where the time of {study.name} went", stages(study)) for study in args.study),
            ResultTable("Every model", models(table)),
        ],
        pictures=pictures,
        notes=[*notes(table, timing), *args.note],
    )
    publish(page, args.out)


def figure(half: pd.DataFrame, epochs: int) -> str:
    """How far we are ahead of the best rival at about half the MACs, after and before training."""
    mine = half.tool.isin(OURS)
    ours, others = half[mine], half[~mine]
    if not len(ours) or not len(others):
        return "no model of ours or of a rival at about half the MACs"
    ours = ours.loc[[ours.after.idxmax()]]
    best, before = others.loc[others.after.idxmax()], others.loc[others.before.idxmax()]
    return (
        f"{ours.tool.iloc[0]} {100 * (ours.after.iloc[0] - best.after):+.1f} points over {best.tool} after {epochs} "
        f"epochs, "
        f"{100 * (ours.before.iloc[0] - before.before):+.1f} over {before.tool} before any label"
    )


def fronts(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Hypervolume of each tool's models, ours first, then by hypervolume."""
    rows = []
    for tool, models in table.groupby("tool"):
        row: dict[str, Any] = {"tool": tool, "models": len(models), "least MACs": round(models.macs_ratio.min(), 3)}
        for name, axis, score in (
            ("hypervolume, MACs", "macs_ratio", "after"),
            ("hypervolume, latency", "latency_ratio", "after"),
            ("hypervolume, MACs, before any label", "macs_ratio", "before"),
        ):
            points = list(zip(1 - models[score], models[axis], strict=True))
            row[name] = (
                round(hypervolume(points, REFERENCE), 4) if models[[axis, score]].notna().all(axis=None) else None
            )
        rows.append(row)
    return sorted(rows, key=lambda r: (r["tool"] not in OURS, -r["hypervolume, MACs"]))


def half_the_macs(table: pd.DataFrame) -> pd.DataFrame:
    """Each tool's model nearest to half the MACs, of those with most seeds, averaged over them."""
    near = table[table.macs_ratio.between(*HALF)]
    points = near.groupby(["tool", "point"]).agg(
        seeds=("seed", "size"), macs_ratio=("macs_ratio", "mean"), latency_ratio=("latency_ratio", "mean"),
        before=("before", "mean"), bn_reset=("bn_reset", "mean"), after=("after", "mean"),
        spread=("after", lambda x: x.max() - x.min()),
    )  # fmt: skip
    points["distance"] = (points.macs_ratio - 0.5).abs()
    ranked = points.reset_index().sort_values(["seeds", "distance"], ascending=[False, True])
    best = ranked.groupby("tool").head(1).drop(columns="distance")
    return best.sort_values("after", ascending=False)


def costs(table: pd.DataFrame, studies: list[Path]) -> list[dict[str, Any]]:
    """CPU minutes of each tool to its models; our studies stand in rows of their own."""
    rows: list[dict[str, Any]] = [
        {
            "tool": tool, "stage": "its models here", "trainings": len(models),
            "CPU minutes of search or fit": round(models.search_s.sum() / 60, 2),
            "CPU minutes of training": round(models.train_s.sum() / 60, 2),
        }
        for tool, models in table.groupby("tool")
    ]  # fmt: skip
    for study in studies:
        seconds = json.loads((study / "seconds.json").read_text())
        trials = pd.read_csv(study / "trials.csv")
        rows.append(
            {
                "tool": OURS[0], "stage": f"{study.name} before: {len(trials)} trials",
                "trainings": int((trials.epochs > 0).sum()),
                "CPU minutes of search or fit": round(seconds["total, CPU"] / 60, 2), "CPU minutes of training": None,
            }
        )  # fmt: skip
    return rows


def stages(study: Path) -> list[dict[str, Any]]:
    """Wall seconds of a study by what they were spent on; what is left over is our own book-keeping."""
    seconds, view = json.loads((study / "seconds.json").read_text()), load_study(study)
    rows = [("candidate table", seconds["candidate table"]), ("latency table", seconds["latency table"])]
    for part, records in (("trials", view.records), ("final", view.finalists)):
        kinds = sorted({kind for r in records for kind in r.seconds})
        # A finalist's record carries the seconds of its trial.
        earlier = {r.digest: r.seconds for r in view.records} if part == "final" else {}
        spent = {k: sum(r.seconds.get(k, 0.0) - earlier.get(r.digest, {}).get(k, 0.0) for r in records) for k in kinds}
        rows += [(f"{part}: {kind}", value) for kind, value in spent.items()]
    total = seconds["total"]
    rows.append(("everything else: solver, storage, sampler, report, start", total - sum(x for _, x in rows)))
    return [{"stage": name, "seconds": round(x, 1), "share %": round(100 * x / total, 1)} for name, x in rows]


def models(table: pd.DataFrame) -> list[dict[str, Any]]:
    """All rows without their structures."""
    shown = table.drop(columns="structure").round(4).sort_values(["tool", "macs_ratio"]).astype(object)
    return shown.where(shown.notna(), None).to_dict("records")


def notes(table: pd.DataFrame, timing: dict[str, Any]) -> list[str]:
    """How the figures are to be read."""
    epochs, images = table.epochs.iloc[0], table.train_images.iloc[0]
    found = [
        f"CIFAR-10 (JPEG). Every model got {epochs} epochs of the same {images} stratified training images under one "
        "recipe, distilled from the baseline. `before` is the accuracy on 2,000 images of the selection split as the "
        "tool left the model, `bn_reset` the same after BatchNorm statistics of unlabelled images, `after` the "
        "accuracy on the 10,000 test images, read once.",
        f"Hypervolume lies between error and cost, reference {REFERENCE}: no accuracy and 5 % above the baseline cost.",
        "Uniform ghost and Vega start from random weights, as their code does. Pruners cut the inner widths (the "
        "shortcuts have no parameters), FastNAS with channel divisor 8. Random search draws from our space and has our "
        "weights.",
    ]
    if timing:
        found.append(
            f"Latency: {timing['device']}, one thread, all models in turns with the baseline, {timing['forwards']} "
            f"forwards each; baseline {timing['baseline_ms']:.3f} ms."
        )
    return found


def picture(table: pd.DataFrame, axis: str, label: str) -> Callable[[Path], object]:
    """Draws every tool's models, those of its front joined by a line."""

    def draw(path: Path) -> None:
        figure, plot = plt.subplots(figsize=(7, 4.5))
        for number, (tool, rows) in enumerate(sorted(table.groupby("tool"), key=lambda item: item[0] not in OURS)):
            points = list(zip(rows[axis], 1 - rows.after, strict=True))
            front = sorted(points[i] for i in pareto_front(points))
            style = {"color": "black", "linewidth": 2, "zorder": 3} if tool == OURS[0] else {"color": f"C{number}"}
            plot.plot([x for x, _ in points], [100 * (1 - e) for _, e in points], "o", ms=4, color=style["color"])
            plot.plot([x for x, _ in front], [100 * (1 - e) for _, e in front], label=tool, **style)
        plot.set(xlabel=label, ylabel="test accuracy %")
        plot.grid(alpha=0.3)
        plot.legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        plt.close(figure)

    return draw


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="directories of rivals.py; times: the first")
    parser.add_argument("--study", type=Path, nargs="*", default=[], help="the studies whose fronts entered")
    parser.add_argument("--net", default="ResNet-20")
    parser.add_argument("--name", default="rivals_resnet20")
    parser.add_argument("--command", default="python benchmarks/rivals.py", help="what made the rows")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the page; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
