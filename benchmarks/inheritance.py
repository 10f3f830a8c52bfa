"""How good is a converted net before, and after little, training, by where its weights came from?

Writes results/inheritance.csv row by row (a killed run goes on where it stopped) and results/inheritance.md.

    python benchmarks/inheritance.py --data folder:CIFAR10_JPEG --validation-list cifar10-jpeg-val.txt --weights DIR

DIR holds cifar_resnet20_jpeg.safetensors and cifar_resnet56_jpeg.safetensors. Peers: torch-pruning's L1, group norm and
Taylor pruners at the same widths, BatchNorm statistics recalibrated on the same images.
"""

from __future__ import annotations

import argparse
import copy
import csv
import datetime
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.convert.convert import convert
from ghostsearch.convert.distill import distill_blocks
from ghostsearch.convert.fit_layer import FitSettings
from ghostsearch.convert.inherit import fit_weights, recalibrate_batchnorm
from ghostsearch.convert.width import set_widths, width_plan
from ghostsearch.data import Data, calibration_batches, load_data
from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.loading import CIFAR_INPUT, example_input, load_model
from ghostsearch.space import Architecture
from ghostsearch.train import evaluate, train

Source = Callable[["Bench", Architecture], tuple[nn.Module, float]]
"""Makes a converted net; returns it and the seconds it took."""
COLUMNS = [
    "net", "architecture", "weights", "training", "seed", "accuracy", "share_of_plain", "macs", "params", "fit_s",
    "train_s", "calibration_images", "test_images", "load_average", "threads", "torch", "device", "date",
]  # fmt: skip
ONE_PASS = FitSettings(relu_rounds=0, joint_rounds=0)
DISTILL_STEPS = {"resnet20": 300, "resnet56": 100}


@dataclass(frozen=True)
class Bench:
    """The plain net, its data and what all rows share."""

    net: str
    plain: nn.Module
    data: Data
    example: Tensor
    calibration: list[Tensor]
    fits: dict[tuple[Architecture, FitSettings], tuple[nn.Module, float]] = field(default_factory=dict)
    """Closed forms made in this run, and their seconds: rows that start from one do not repeat it."""

    def fit(self, architecture: Architecture, settings: FitSettings) -> tuple[nn.Module, float]:
        """A copy of the closed form's model, and the seconds it took."""
        key = (architecture, settings)
        if key not in self.fits:
            started = time.perf_counter()
            model = fit_weights(
                self.plain, convert(self.plain, architecture, example=self.example), architecture,
                example=self.example, calibration=self.calibration, settings=settings,
            )  # fmt: skip
            self.fits[key] = model, time.perf_counter() - started
        model, seconds = self.fits[key]
        return copy.deepcopy(model), seconds

    def architecture(self, name: str) -> Architecture:
        """One of the table's architectures, about half the MACs (ratio 4: a quarter)."""
        convs = [p for p, m in self.plain.named_modules() if isinstance(m, nn.Conv2d) and p != "conv1"]
        ratio, halves = "ghost(ratio={}, kernel=3)".format, {p: "width(0.5)" for p in convs if p.endswith("conv1")}
        if name == "ghost2":
            return Architecture.of({p: ratio(2) for p in convs}, {})
        if name == "ghost4":
            return Architecture.of({p: ratio(4) for p in convs}, {})
        if name == "width":
            return Architecture.of({}, halves)
        # Mixed: widths in the last stage, where channels abound, ghosts before it.
        last = {p: w for p, w in halves.items() if p.startswith("layer3")}
        return Architecture.of({p: ratio(2) for p in convs if not p.startswith("layer3")}, last)


def timed(make: Callable[[Bench, Architecture], nn.Module]) -> Source:
    """A source from a function that returns only the net."""

    def source(bench: Bench, architecture: Architecture) -> tuple[nn.Module, float]:
        started = time.perf_counter()
        return make(bench, architecture), time.perf_counter() - started

    return source


def random_weights(bench: Bench, architecture: Architecture) -> nn.Module:
    """The converted structure with fresh weights, its stem and classifier too."""
    model = convert(bench.plain, architecture, example=bench.example)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    recalibrate_batchnorm(model, bench.calibration)
    return model


def copied(bench: Bench, architecture: Architecture) -> nn.Module:
    """Copied filters, BatchNorm statistics recalibrated."""
    model = convert(bench.plain, architecture, example=bench.example)
    recalibrate_batchnorm(model, bench.calibration)
    return model


def fitted(settings: FitSettings, distil: bool = False) -> Source:
    """Closed form, optionally followed by label-free distillation."""

    def make(bench: Bench, architecture: Architecture) -> tuple[nn.Module, float]:
        model, seconds = bench.fit(architecture, settings)
        started = time.perf_counter()
        if distil:
            distill_blocks(bench.plain, model, bench.calibration, DISTILL_STEPS[bench.net])
        return model, seconds + time.perf_counter() - started

    return make


def pruned(criterion: str) -> Source:
    """torch-pruning's channels at the architecture's widths, weights sliced, BatchNorm statistics recalibrated."""

    def make(bench: Bench, architecture: Architecture) -> nn.Module:
        import torch_pruning as tp

        model = copy.deepcopy(bench.plain).eval()
        if criterion == "taylor":
            loss = sum(model(x).square().mean() for x in bench.calibration)  # no labels here: outputs' energy
            loss.backward()
        importance = {
            "l1": lambda: tp.importance.MagnitudeImportance(p=1, group_reduction="first"),
            "group_norm": lambda: tp.importance.GroupMagnitudeImportance(p=2),
            "taylor": lambda: tp.importance.GroupTaylorImportance(),
        }[criterion]()
        graph = tp.DependencyGraph().build_dependency(model, bench.example)
        plan, keep = width_plan(bench.plain, bench.example), {}
        for name in architecture.groups:
            conv = model.get_submodule(name)
            group = graph.get_pruning_group(conv, tp.prune_conv_out_channels, list(range(conv.out_channels)))
            order = importance(group).argsort(descending=True)
            keep[name] = sorted(order[: conv.out_channels // 2].tolist())
        model = copy.deepcopy(bench.plain)
        set_widths(model, keep, bench.example, plan=plan)
        recalibrate_batchnorm(model, bench.calibration)
        return model

    return timed(make)


SOURCES: dict[str, Source] = {
    "closed form": fitted(FitSettings()),
    "closed form + distilled": fitted(FitSettings(), distil=True),
    "one-pass least squares": fitted(ONE_PASS),
    "copied": timed(copied),
    "random": timed(random_weights),
    "torch-pruning L1": pruned("l1"),
    "torch-pruning group norm": pruned("group_norm"),
    "torch-pruning Taylor": pruned("taylor"),
}


def wanted(epoch_seeds: int) -> Iterator[tuple[str, str, str, str, int]]:
    """Rows of the table, the most telling first: net, architecture, weights, training, seed."""
    targets = [("resnet20", "ghost2"), ("resnet20", "width"), ("resnet56", "ghost2")]
    inherited = list(SOURCES)[:5]
    for source in ("closed form", "closed form + distilled"):
        for net, architecture in targets:
            yield net, architecture, source, "none", 0
    peers = [s for s in SOURCES if s.startswith("torch-pruning")]
    for net, architecture in targets[:2]:
        for source in [*inherited, *(peers if architecture == "width" else [])]:
            yield net, architecture, source, "none", 0
            yield net, architecture, source, "200 steps", 0
    for seed in range(epoch_seeds):
        for source in ("closed form", "closed form + distilled", "copied", *peers, "random"):
            for net, architecture in targets[:2]:
                if architecture == "width" or source not in peers:
                    yield net, architecture, source, "2 epochs", seed
    for net in ("resnet20", "resnet56"):
        for architecture in ("ghost4", "mixed"):
            for source in ("closed form", "closed form + distilled"):
                yield net, architecture, source, "none", 0
    for source in ("one-pass least squares", "copied", "random"):
        yield "resnet56", "ghost2", source, "none", 0


def measure(bench: Bench, row: tuple[str, str, str, str, int], plain_accuracy: float) -> dict[str, Any]:
    """One row: convert, train as asked, score on the test split."""
    _, name, source, training, seed = row
    torch.manual_seed(seed)
    load = os.getloadavg()[0]
    model, fit_s = SOURCES[source](bench, bench.architecture(name))
    train_s = 0.0
    if training != "none":
        limits: dict[str, Any] = {"epochs": 2.0} if training == "2 epochs" else {"epochs": 1.0, "steps": 200}
        train_s = train(model, bench.data, teacher=bench.plain, seed=seed, **limits).seconds
    accuracy = evaluate(model, bench.data.test)
    cost = measure_cost(model, bench.example)
    return _row(row, accuracy, plain_accuracy, cost, fit_s, train_s, bench, load)


def _row(
    row: tuple[str, str, str, str, int], accuracy: float, plain: float, cost: Any, fit_s: float, train_s: float,
    bench: Bench, load: float,
) -> dict[str, Any]:  # fmt: skip
    values = [
        *row, f"{accuracy:.4f}", f"{accuracy / plain:.4f}", cost.macs, cost.params, f"{fit_s:.1f}", f"{train_s:.1f}",
        sum(len(b) for b in bench.calibration), len(bench.data.test.dataset), f"{load:.1f}",  # type: ignore[attr-defined]
        torch.get_num_threads(), torch.__version__, platform.processor() or platform.machine(),
        datetime.datetime.now(datetime.UTC).date().isoformat(),
    ]  # fmt: skip
    return dict(zip(COLUMNS, map(str, values), strict=True))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows that are there already."""
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row; the header first where the file is new."""
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


TARGETS = {
    ("resnet56", "ghost2", "closed form"): 0.92, ("resnet56", "ghost2", "closed form + distilled"): 0.97,
    ("resnet20", "ghost2", "closed form"): 0.88, ("resnet20", "ghost2", "closed form + distilled"): 0.94,
    ("resnet20", "width", "closed form"): 0.91, ("resnet20", "width", "closed form + distilled"): 0.97,
}  # fmt: skip
COMMAND = (
    "python benchmarks/inheritance.py --data folder:CIFAR10_JPEG --validation-list cifar10-jpeg-val.txt --weights DIR"
)
PAGE = """# Inherited weights: accuracy before and after a little training

CIFAR-10 (JPEG), test images; calibration on training images without labels or augmentation. `ghost2`: every 3×3
but
the stem to ghost(ratio=2, kernel=3); `width`: inner widths 0.5; `mixed`: ghosts in the first two stages, widths
in the third.
Distilled: {steps} label-free steps of 64 shifted and mirrored calibration images (features and outputs of the
plain net).
Training: the recipe of `ghostsearch.train`, distilled from the plain net, batch 128. Seconds are wall time on a
shared machine of two
cores under the load average given in the CSV. Seeds are averaged; the spread is the largest less the smallest.

Command: `{command}`

| net | architecture | weights | training | accuracy % | of plain % | target % | spread | fit s | train s | load |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def write_page(path: Path, rows: list[dict[str, str]]) -> None:
    """The rows as Markdown, seeds averaged."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[c] for c in COLUMNS[:4]), []).append(row)
    lines = []
    for key in sorted(groups):
        some = groups[key]
        accuracy = [100 * float(r["accuracy"]) for r in some]
        share = 100 * sum(float(r["share_of_plain"]) for r in some) / len(some)
        target = TARGETS.get(key[:3]) if key[3] == "none" else None  # type: ignore[call-overload]
        cells = [
            *key, f"{sum(accuracy) / len(some):.1f}", f"{share:.1f}", f"{100 * target:.0f}" if target else "",
            f"{max(accuracy) - min(accuracy):.1f} ({len(some)})",
            some[0]["fit_s"], some[0]["train_s"], some[0]["load_average"],
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    path.write_text(PAGE.format(steps=DISTILL_STEPS, command=COMMAND) + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Measure the rows that are missing, for as long as allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--validation-list", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--epoch-seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no row after this time")
    parser.add_argument("--only", default="", help="rows whose 'net/architecture/weights/training' has this text")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    out, started = given.out / "inheritance.csv", time.perf_counter()
    data = load_data(given.data, input=CIFAR_INPUT, batch=128, validation_list=given.validation_list)
    calibration = calibration_batches(data, 512, seed=0)
    benches: dict[str, Bench] = {}
    for row in wanted(given.epoch_seeds):
        done = {tuple(r[c] for c in COLUMNS[:5]): r for r in read_rows(out)}
        key = (*row[:4], str(row[4]))
        if key in done or given.only not in "/".join(row[:4]) or time.perf_counter() - started > given.seconds:
            continue
        if row[0] not in benches:
            loaded = load_model(f"ghostsearch:{row[0]}", weights=given.weights / f"cifar_{row[0]}_jpeg.safetensors")
            benches[row[0]] = Bench(row[0], loaded.module, data, example_input(loaded.input), calibration)
        bench, plain_key = benches[row[0]], (row[0], "plain", "plain", "none", "0")
        if plain_key not in done:
            accuracy, cost = evaluate(bench.plain, data.test), measure_cost(bench.plain, bench.example)
            plain_row = (row[0], "plain", "plain", "none", 0)
            append_row(out, _row(plain_row, accuracy, accuracy, cost, 0, 0, bench, os.getloadavg()[0]))
            done = {tuple(r[c] for c in COLUMNS[:5]): r for r in read_rows(out)}
        found = measure(bench, row, float(done[plain_key]["accuracy"]))
        append_row(out, found)
        write_page(given.out / "inheritance.md", read_rows(out))
        print(*[found[c] for c in COLUMNS[:7]], found["fit_s"], found["train_s"], flush=True)
    write_page(given.out / "inheritance.md", read_rows(out))


if __name__ == "__main__":
    main()
