"""How good is a converted net before, and after little, training, by where its weights came from?

    python benchmarks/inheritance.py --data folder:cifar10-jpeg --validation-list cifar10-jpeg-val.txt \\
        --weights .

Writes the page results/inheritance.md after every row; a run that was stopped goes on where it was. `--weights` is the
folder with cifar_resnet20_jpeg.safetensors and cifar_resnet56_jpeg.safetensors. Peers: torch-pruning's L1, group norm
and Taylor criteria at the same widths, BatchNorm statistics recalibrated on the same images.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rows import read_rows
from benchmarks.weight_sources import DISTILL_STEPS, PEERS, SOURCES, Bench, Spent
from ghostsearch.data.calibration import calibration_batches
from ghostsearch.data.load import Data, load_data
from ghostsearch.machine import processor
from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.load import CIFAR_INPUT, example_input, load_model
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe

NAME = "inheritance"
KEY = ("net", "architecture", "weights", "training", "seed")
TRAININGS = {"none": None, "200 steps": 200, "2 epochs": None}
"""Trainings and the steps they stop at."""
TARGETS = {
    ("resnet56", "ghost2", "closed form"): 94.9, ("resnet56", "ghost2", "closed form + distilled"): 97,
    ("resnet20", "ghost2", "closed form"): 89.6, ("resnet20", "ghost2", "closed form + distilled"): 97,
    ("resnet20", "width", "closed form"): 91.2, ("resnet20", "width", "closed form + distilled"): 97,
}  # fmt: skip
"""Share of the baseline's accuracy aimed at, percent."""
Row = dict[str, str]
Wanted = tuple[str, str, str, str, int]


def wanted(step_seeds: int, epoch_seeds: int) -> Iterator[Wanted]:
    """Rows of the table, the most telling first: net, architecture, weights, training, seed."""
    targets = [("resnet20", "ghost2"), ("resnet20", "width"), ("resnet56", "ghost2")]
    for source in ("closed form", "closed form + distilled"):
        for net, architecture in targets:
            yield net, architecture, source, "none", 0
    ours = ("closed form + distilled", "closed form", "copied", "random")
    by_source = [(s, a) for s in (*ours, *PEERS) for a in ("ghost2", "width") if a == "width" or s not in PEERS]
    yield "resnet20", "ghost2", "closed form, order kept", "none", 0
    for source, architecture in [*by_source, *(("one-pass least squares", a) for a in ("ghost2", "width"))]:
        yield "resnet20", architecture, source, "none", 0
    for training, seeds in (("200 steps", step_seeds), ("2 epochs", epoch_seeds)):
        for seed in range(seeds):
            for source, architecture in by_source:
                yield "resnet20", architecture, source, training, seed
    for net in ("resnet20", "resnet56"):
        for architecture in ("ghost4", "mixed"):
            for source in ("closed form", "closed form + distilled"):
                yield net, architecture, source, "none", 0
    for source in ("copied", "random"):
        yield "resnet56", "ghost2", source, "none", 0


def measure(bench: Bench, key: Wanted, baseline_accuracy: float | None) -> Row:
    """One row: convert, train as asked, score on the test split."""
    _, name, source, training, seed = key
    torch.manual_seed(seed)
    load, train_s, train_loss = os.getloadavg()[0], 0.0, None
    if source == "baseline":
        model, spent = bench.baseline, Spent()
    else:
        model, spent = SOURCES[source](bench, bench.architecture(name))
    if training != "none":
        data = bench.data if training == "200 steps" else bench.few()
        result = train(
            model,
            data,
            Recipe(seed=seed, epochs=2.0, steps=TRAININGS[training], compute_device="cpu"),
            teacher=bench.baseline,
        )
        train_s, train_loss = result.seconds, result.history[-1].loss
    accuracy, loss = score(model, bench.data.test)
    cost = measure_cost(model, bench.example)
    values = {
        **dict(zip(KEY, key, strict=True)), "accuracy": f"{accuracy:.4f}",
        "share_of_baseline": f"{accuracy / (baseline_accuracy or accuracy):.4f}", "test_loss": f"{loss:.4f}",
        "train_loss": "" if train_loss is None else f"{train_loss:.4f}", "macs": cost.macs, "params": cost.params,
        "fit_s": f"{spent.wall:.1f}", "fit_cpu_s": f"{spent.cpu:.1f}", "train_s": f"{train_s:.1f}",
        "load_average": f"{load:.1f}", "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }  # fmt: skip
    return {k: str(v) for k, v in values.items()}


def score(model: nn.Module, loader: Iterable[Any]) -> tuple[float, float]:
    """Accuracy and mean cross-entropy."""
    model.eval()
    right = images = 0
    loss = 0.0
    with torch.inference_mode():
        for x, y in loader:
            output = model(x)
            right += int((output.argmax(1) == y).sum())
            loss += float(F.cross_entropy(output, y, reduction="sum"))
            images += len(y)
    return right / images, loss / images


def summary(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows with their seeds averaged, in the order in which they first came."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[c] for c in KEY[:4]), []).append(row)

    def mean(some: list[Row], column: str) -> float | None:
        values = [float(r[column]) for r in some if r[column]]
        return statistics.fmean(values) if values else None

    def line(key: tuple[str, ...], some: list[Row]) -> dict[str, Any]:
        accuracy = [100 * float(r["accuracy"]) for r in some]
        target = TARGETS.get(key[:3]) if key[3] == "none" else None  # type: ignore[call-overload]
        share = round(100 * float(mean(some, "share_of_baseline") or 0), 1)
        met = "" if target is None else "yes" if share >= target else "no"
        return {
            **dict(zip(KEY[:4], key, strict=True)), "seeds": len(some),
            "accuracy %": round(statistics.fmean(accuracy), 2), "spread": round(max(accuracy) - min(accuracy), 2),
            "of baseline %": share, "target %": target, "met": met, "test loss": mean(some, "test_loss"),
            "training loss": mean(some, "train_loss"), "MACs": int(some[0]["macs"]),
            "fit s": round(float(some[0]["fit_s"])), "fit CPU s": round(float(some[0]["fit_cpu_s"])),
            "train s": round(mean(some, "train_s") or 0),
        }  # fmt: skip

    order = {name: i for i, name in enumerate(("baseline", *SOURCES))}
    nets = sorted(groups, key=lambda k: (k[0], k[1] != "baseline", k[1], list(TRAININGS).index(k[3]), order[k[2]]))
    return [line(key, groups[key]) for key in nets]


def page(rows: list[Row], given: argparse.Namespace) -> ResultPage:
    """The rows as a page of results/."""
    lines = summary(rows)
    aimed = [x for x in lines if x["target %"]]
    left = len(TARGETS) - len(aimed)
    return ResultPage(
        name=given.name,
        title="Inherited weights: accuracy before and after a little training",
        claim="Targets met for nets of half the MACs that have seen 512 images and no label, as a share of "
        "the baseline's accuracy",
        figure=f"{sum(x['met'] == 'yes' for x in aimed)} of {len(aimed)}"
        + (f" ({left} more not measured yet): " if left else ": ")
        + ", ".join(
            f"{x['net']} {x['architecture']} {x['weights']} {x['of baseline %']} % ({x['target %']} aimed at)"
            for x in aimed
        ),
        command=script_command(),
        device=f"{processor()}, {given.threads} thread(s), a shared machine",
        tables=[ResultTable("seeds averaged", lines), ResultTable("every run", rows), *free_cores(given)],
        notes=notes(lines, given),
    )


def free_cores(given: argparse.Namespace) -> list[ResultTable]:
    """What a run with two threads on two free cores took, where there was one."""
    if given.free_cores is None:
        return []
    columns = ("net", "architecture", "weights", "accuracy", "fit_s", "fit_cpu_s", "threads", "load_average", "date")
    rows = read_rows(given.free_cores)
    return [
        ResultTable(
            "seconds on two free cores (closed form: 120 allowed, with distillation: 240)",
            [{c: r[c] for c in columns} for r in rows if r["weights"] != "baseline"],
        )
    ]


def notes(lines: list[dict[str, Any]], given: argparse.Namespace) -> list[str]:
    """What the words of the table mean, and where a peer is ahead."""
    found = [
        "CIFAR-10 (JPEG), all 10,000 test images; calibration on 512 training images without labels or augmentation.",
        "ghost2 (ghost4): every 3×3 but the stem to ghost(ratio=2, kernel=3) (ratio=4); width: inner widths 0.5; "
        "mixed: ghosts in the first two stages, inner widths 0.5 in the third.",
        f"Distilled: {DISTILL_STEPS['resnet20']} (ResNet-56: {DISTILL_STEPS['resnet56']}) label-free steps of 64 of "
        "the calibration images, shifted and mirrored, towards the baseline's features and outputs; fitted and "
        "distilled on seven eighths of the images, judged on the others.",
        "Training: the recipe of ghostsearch.training.recipe, distilled from the baseline, "
        f"batch {given.batch}; 2 epochs: two passes "
        f"over a stratified subset of {given.train_images} training images. Spread: largest less smallest "
        "accuracy over the seeds.",
        "Order kept: no channel is moved, so no index operation stands before the sums of the residual blocks.",
        "fit s: wall seconds of closed form and distillation, fit CPU s the processor's, on a machine that other work "
        "shared (its load average stands beside every run) and that pauses trainings while a latency is timed: wall "
        "seconds say little there. Targets are of accuracy; the time limits (2 minutes for the closed form, 4 with "
        "distillation) are of two free cores. No GPU was at hand.",
    ]  # fmt: skip
    for training in ("200 steps", "2 epochs"):
        some = {(x["architecture"], x["weights"]): x["accuracy %"] for x in lines if x["training"] == training}
        ours = max((v for (_, s), v in some.items() if s not in PEERS), default=None)
        peer = max((v for (_, s), v in some.items() if s in PEERS), default=None)
        if ours and peer:
            ghost = max(v for (a, _), v in some.items() if a == "ghost2")
            found.append(
                f"After {training}: best peer {peer} %, our best {ours} %, our best ghost net {ghost} %: "
                + ("the ghost net loses to pruned widths." if ghost < peer else "the ghost net is ahead too.")
            )
    return found


def main() -> None:
    """Measure the rows that are missing, for as long as allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--validation-list", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--name", default=NAME, help="the page's name")
    parser.add_argument("--train-images", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--step-seeds", type=int, default=3)
    parser.add_argument("--epoch-seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no row after this time")
    parser.add_argument(
        "--only", action="append", help="rows whose 'net/architecture/weights/training' has this text; may be repeated"
    )
    parser.add_argument("--free-cores", type=Path, help="inheritance_2.csv of a run with --threads 2 on free cores")
    parser.add_argument("--cache", type=Path, help="folder for inherited weights, so that other runs find them")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    started, file = time.perf_counter(), given.out / f"{given.name}_2.csv"
    rows = read_rows(file)
    done = {tuple(r[c] for c in KEY): r for r in rows}
    left = [
        k
        for k in dict.fromkeys(wanted(given.step_seeds, given.epoch_seeds))
        if any(text in "/".join(k[:4]) for text in given.only or ("",))
    ]
    left = [k for k in left if (*k[:4], str(k[4])) not in done]
    benches = Benches(given) if left else None
    for key in left:
        if time.perf_counter() - started > given.seconds:
            break
        bench, baseline = benches[key[0]], (key[0], "baseline", "baseline", "none", 0)
        for k in [baseline] * ((*baseline[:4], "0") not in done) + [key] * (key != baseline):
            reference = None if k == baseline else float(done[*baseline[:4], "0"]["accuracy"])
            row = measure(bench, k, reference)
            done[*k[:4], str(k[4])] = row
            rows.append(row)
            print(*list(row.values())[:7], row["fit_s"], row["fit_cpu_s"], row["train_s"], flush=True)
            publish(page(rows, given), given.out)
    publish(page(rows, given), given.out)


class Benches(dict[str, Bench]):
    """Nets by name, loaded when first asked for."""

    def __init__(self, given: argparse.Namespace) -> None:
        super().__init__()
        self.given = given
        self.data = self.load(None)
        self.calibration = calibration_batches(self.data, 512, seed=0)

    def load(self, train_images: int | None) -> Data:
        given = self.given
        return load_data(
            given.data, input=CIFAR_INPUT, batch=given.batch, validation_list=given.validation_list,
            train_images=train_images,
        )  # fmt: skip

    @cached_property
    def few(self) -> Data:
        """The data with only so many training images."""
        return self.load(self.given.train_images)

    def __missing__(self, net: str) -> Bench:
        loaded = load_model(f"ghostsearch:{net}", weights=self.given.weights / f"cifar_{net}_jpeg.safetensors")
        self[net] = Bench(
            net, loaded.module, self.data, lambda: self.few, example_input(loaded.input), self.calibration,
            self.given.cache,
        )  # fmt: skip
        return self[net]


if __name__ == "__main__":
    main()
