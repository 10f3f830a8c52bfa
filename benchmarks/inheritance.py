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
import time
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rows import append_row, read_rows
from benchmarks.solved import solved_for_macs
from benchmarks.weight_sources import DISTILL_STEPS, PEERS, SOURCES, Bench, Spent
from ghostsearch.data.calibration import calibration_batches
from ghostsearch.data.load import Data, load_data
from ghostsearch.machine import processor
from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.load import CIFAR_INPUT, example_input, load_model
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.config import RunConfig
from ghostsearch.study.setup import open_setup
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe

NAME = "inheritance"
KEY = ("net", "architecture", "weights", "training", "seed")
TRAININGS = ("none", "2 epochs")
TARGETS = {
    ("resnet56", "ghost2", "closed form"): 94.9, ("resnet56", "ghost2", "closed form + distilled"): 97,
    ("resnet20", "ghost2", "closed form"): 89.6, ("resnet20", "ghost2", "closed form + distilled"): 97,
    ("resnet20", "width", "closed form"): 91.2, ("resnet20", "width", "closed form + distilled"): 97,
    ("resnet20", "solver", "closed form"): 97, ("resnet56", "solver", "closed form"): 97,
}  # fmt: skip
"""Share of the baseline's accuracy aimed at, percent."""
Row = dict[str, str]
Wanted = tuple[str, str, str, str, int]


def wanted() -> Iterator[Wanted]:
    """Rows of the table, the most telling first: net, architecture, weights, training, seed."""
    for source in ("closed form", "closed form + distilled"):
        for net, architecture in (("resnet20", "ghost2"), ("resnet20", "width"), ("resnet56", "ghost2")):
            yield net, architecture, source, "none", 0
    for source in ("closed form", "copied"):
        for net in ("resnet20", "resnet56"):
            yield net, "solver", source, "none", 0
    yield "resnet20", "solver", "closed form + distilled", "none", 0
    yield "resnet20", "ghost2", "closed form, order kept", "none", 0
    for source in ("one-pass least squares", "copied", "random"):
        for architecture in ("ghost2", "width"):
            yield "resnet20", architecture, source, "none", 0
    for source in PEERS:
        yield "resnet20", "width", source, "none", 0
    for source in ("closed form", "copied"):
        for architecture in ("ghost2", "width"):
            yield "resnet20", architecture, source, "2 epochs", 0
    for source in PEERS:
        yield "resnet20", "width", source, "2 epochs", 0


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
        recipe = Recipe(seed=seed, epochs=2.0, compute_device="cpu")
        result = train(model, bench.few(), recipe, teacher=bench.baseline)
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
    """The rows as they are shown, by network, architecture and training."""

    def line(row: Row) -> dict[str, Any]:
        target = TARGETS.get((row["net"], row["architecture"], row["weights"])) if row["training"] == "none" else None
        share = round(100 * float(row["share_of_baseline"]), 1)
        return {
            **{key: row[key] for key in KEY[:4]}, "accuracy %": round(100 * float(row["accuracy"]), 2),
            "of baseline %": share, "target %": target, "met": "" if target is None else share >= target,
            "test loss": float(row["test_loss"]), "MACs": int(row["macs"]), "params": int(row["params"]),
            "fit CPU s": round(float(row["fit_cpu_s"])), "train s": round(float(row["train_s"])),
            "load": row["load_average"], "date": row["date"],
        }  # fmt: skip

    order = {name: i for i, name in enumerate(("baseline", *SOURCES))}
    return [
        line(row)
        for row in sorted(
            rows,
            key=lambda r: (
                r["net"], r["architecture"] != "baseline", r["architecture"], TRAININGS.index(r["training"]),
                order[r["weights"]],
            ),
        )
    ]  # fmt: skip


def page(rows: list[Row], given: argparse.Namespace) -> ResultPage:
    """The rows as a page of results/."""
    lines = summary(rows)
    aimed = [x for x in lines if x["target %"]]
    left = len(TARGETS) - len(aimed)
    return ResultPage(
        name=NAME,
        title="Inherited weights: accuracy before and after a little training",
        claim="Targets met for nets of half the MACs that have seen 512 images and no label, as a share of "
        "the baseline's accuracy",
        figure=f"{sum(x['met'] for x in aimed)} of {len(aimed)}"
        + (f" ({left} more not measured yet): " if left else ": ")
        + ", ".join(
            f"{x['net']} {x['architecture']} {x['weights']} {x['of baseline %']} % ({x['target %']} aimed at)"
            for x in aimed
        ),
        command=script_command(),
        device=f"{processor()}, {given.threads} thread(s), a shared machine",
        tables=[ResultTable("one seed", lines)],
        notes=[*notes(lines, given), *not_measured(rows)],
    )


def notes(lines: list[dict[str, Any]], given: argparse.Namespace) -> list[str]:
    """What the words of the table mean, and where a peer is ahead."""
    found = [
        "CIFAR-10 (JPEG), all 10,000 test images; calibration on 512 training images without labels or augmentation.",
        "ghost2: every 3×3 but the stem to ghost(ratio=2, kernel=3); width: inner widths 0.5; solver: what the integer "
        "program takes at half the MACs from the candidate table of the `families` preset, made from the same images.",
        f"Distilled: {DISTILL_STEPS['resnet20']} (ResNet-56: {DISTILL_STEPS['resnet56']}) label-free steps of 64 of "
        "the calibration images, shifted and mirrored, towards the baseline's features and outputs; fitted and "
        "distilled on seven eighths of the images, judged on the others.",
        "Training: the recipe of ghostsearch.training.recipe, distilled from the baseline, "
        f"batch {given.batch}, two passes over a stratified subset of {given.train_images} training images.",
        "Weights that are copied, random or torch-pruning's have their BatchNorm statistics taken anew on the "
        "calibration images. MACs are equal, times are not: of ResNet-20 on long_training_resnet20.md uniform ghosts "
        "take 0.97 of the baseline's time and a mix 0.6 to 0.71.",
        "Order kept: no channel is moved, so no index operation stands before the sums of the residual blocks.",
        "fit CPU s: processor seconds of closed form and distillation; train s: by the clock, on a shared machine.",
    ]  # fmt: skip
    some = {(x["architecture"], x["weights"]): x["accuracy %"] for x in lines if x["training"] != "none"}
    ours = max((v for (_, s), v in some.items() if s not in PEERS), default=None)
    peer = max((v for (_, s), v in some.items() if s in PEERS), default=None)
    if ours and peer:
        found.append(f"After 2 epochs: best peer {peer} %, our best {ours} %; the standard error of each is 0.4.")
    return found


def not_measured(rows: list[Row]) -> list[str]:
    """A sentence on the rows that nobody has measured yet, where there are any."""
    known = {tuple(row[key] for key in KEY) for row in rows}
    missing = ["/".join(k[:4]) for k in wanted() if (*k[:4], str(k[4])) not in known]
    return [f"Not measured yet: {', '.join(missing)}."] if missing else []


def main() -> None:
    """Measure the rows that are missing, for as long as allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--validation-list", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("runs/inheritance"), help="where the rows are kept")
    parser.add_argument("--train-images", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no row after this time")
    parser.add_argument(
        "--only", action="append", help="rows whose 'net/architecture/weights/training' has this text; may be repeated"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    started, file = time.perf_counter(), given.work / "rows.csv"
    rows = read_rows(file)
    done = {tuple(r[c] for c in KEY): r for r in rows}
    left = [
        k
        for k in wanted()
        if any(text in "/".join(k[:4]) for text in given.only or ("",)) and (*k[:4], str(k[4])) not in done
    ]
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
            append_row(file, row)
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
            partial(self._solved, net),
        )  # fmt: skip
        return self[net]

    def _solved(self, net: str) -> Architecture:
        given = self.given
        config = RunConfig(
            model=f"ghostsearch:{net}", weights=str(given.weights / f"cifar_{net}_jpeg.safetensors"), data=given.data,
            validation_list=given.validation_list, calibration_images=512, space="families", out=str(given.work / net),
        )  # fmt: skip
        (given.work / net).mkdir(parents=True, exist_ok=True)
        found = solved_for_macs(open_setup(config), given.work / net, 0.5)
        assert found is not None, "no architecture has half the MACs"
        return found


if __name__ == "__main__":
    main()
