"""A trained network against other tools, without labels: accuracy by MACs and by measured time, float and int8.

    python benchmarks/label_free_rivals.py --data imagenet-sample
    python benchmarks/label_free_rivals.py --data imagenet-sample --net lite1
    python benchmarks/label_free_rivals.py --net resnet20 --data cifar10-jpeg --validation-list cifar10-jpeg-val.txt \
        --weights cifar_resnet20_jpeg.safetensors --budgets 85 70 50 --every 2

Every tool gets the same 500 images without labels. Each model, the baseline too, is judged with the BatchNorm
statistics that it comes with and with those of the 500 images, two columns: no tool is judged by a step that another
had to do without. With `--steps` all are also distilled by the product's own distillation, fitted to or reset on the
same seven eighths of the images, judged on the others. lite1 is the check that nothing was tuned to lite0. Steps:
`build` keeps each model as ONNX files in --work, `score` then reads the test images (the photographs' are of other
classes) once for each file, `time` measures all files in one interleaved run, on a machine that should be quiet,
`page` writes the page. `--only` does one; the same command resumes. FastNAS takes part on CIFAR's networks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from math import nan
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.comparison import network_name, share
from benchmarks.families import WIDTHS, accuracy, preset
from benchmarks.fronts import Point, between
from benchmarks.networks import network_arguments, without_labels
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rivals import fastnas_without_labels, pruned
from benchmarks.rows import append_row, read_rows
from benchmarks.solved import solved_for_macs
from ghostsearch.graph.capture import copied
from ghostsearch.machine import processor
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.int8_module import FloatFile
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.setting import Setting
from ghostsearch.records import Latency
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.setup import Setup
from ghostsearch.surgery.distill_images import kept_to_judge
from ghostsearch.surgery.distillation import distill_blocks
from ghostsearch.surgery.norm_statistics import recalibrate_batchnorm

HALVINGS = 7
"""Of a rival's pruning ratio on the way to a budget."""
AIMS = {"lite": {85: 87, 70: 77, 60: 66}, "resnet": {50: 97}}
"""Percent of its accuracy that a kind of network is to keep by budget; lite0's are 66, 58 and 50 of 75.6 %."""
DISTILLED = 70
"""The budget whose rows are distilled too."""
FILES = {
    "top-1 % as given": "given.float", "int8 top-1 % as given": "given.int8",
    "top-1 % reset": "reset.float", "int8 top-1 % reset": "reset.int8",
}  # fmt: skip
"""Column and end of the file's name: the statistics that a model comes with, or those of the images."""
OF_PHOTOGRAPHS = (
    "One image is 0.2 points; the standard error of an accuracy is about 1.6 to 2.2 points, of a difference "
    "between two rows (the same 500 images) about 1.5: smaller differences are not separable. One seed.",
    "The photographs may be among those that the network was trained on: its accuracy on them is above the "
    "published one, and every row's with it.",
)
OF_CIFAR = (
    "Scored on every second batch of CIFAR-10's test images, 5,120: the standard error of an accuracy is about 0.5 "
    "points, of a difference between two rows (the same images) about 0.4. One seed.",
    "FastNAS measures each width of each layer (channels in multiples of eight) by the outputs' divergence from the "
    "baseline's, as ours does its candidates, on the same images.",
)
Build = Callable[[list[Tensor]], nn.Module]
"""From the images that it may look at."""


def main() -> None:
    args = arguments()
    args.work /= args.net
    setup = without_labels(args)
    widths = WIDTHS["lite0" if args.net.startswith("lite") else "resnet56"]
    setup = replace(setup, space=preset(widths).resolve(setup.anatomy))
    steps = {"build": build, "score": score, "time": timed}
    for name, step in steps.items():
        if args.only in (None, name):
            step(setup, args)
    if args.only in (None, "page"):
        publish(page(args, shown(args.work)), args.out)


def arguments() -> argparse.Namespace:
    parser = network_arguments(__doc__, ("lite0", "lite1", "resnet20", "resnet56"), "runs/label_free_rivals")
    parser.set_defaults(images=512)
    parser.add_argument("--every", type=int, default=1, help="score on every n-th batch of the test images")
    parser.add_argument("--budgets", type=int, nargs="+", default=[85, 70, 60], help="percent of the MACs")
    parser.add_argument("--steps", type=int, default=0, help="of distillation; 0 for none")
    parser.add_argument("--only", choices=("build", "score", "time", "page"))
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds of timing in all")
    return parser.parse_args()


def build(setup: Setup, args: argparse.Namespace) -> None:
    """Every model that is not there yet, the baseline first."""
    known = {(r["tool"], r["budget"], r["weights"]) for r in read_rows(args.work / "rows.csv")}

    def make(tool: str, budget: int, steps: int, model_from: Build) -> None:
        weights = "distilled" if steps else ""
        if (tool, str(budget), weights) in known:
            return
        began, given = time.process_time(), kept_to_judge(images(setup), steps)
        model, step = model_from(given.training), ""
        if steps:
            if not tool.startswith("ours"):
                recalibrate_batchnorm(model, given.training)  # Its sliced statistics are no start for anything.
            found = distill_blocks(setup.baseline.module, model, given, steps)
            print(found, flush=True)
            step = str(found.step_kept)
        spent = {"step kept": step, "CPU s": f"{time.process_time() - began:.0f}"}
        keep(setup, args.work, {"tool": tool, "budget": budget, "weights": weights}, model, spent)

    make("baseline", 100, 0, lambda _: setup.baseline.module)
    for budget in args.budgets:
        for tool, model_from in tools(setup, args, budget):
            make(tool, budget, 0, model_from)
    for tool, model_from in tools(setup, args, DISTILLED) if args.steps else ():
        make(tool, DISTILLED, args.steps, model_from)


def tools(setup: Setup, args: argparse.Namespace, budget: int) -> list[tuple[str, Build]]:
    """Every tool's way to a model of the budget, ours first."""
    found: list[tuple[str, Build]] = [
        ("ours, solver's mix", partial(solved, setup, args, budget)),
        ("ours, one width everywhere", partial(uniform, setup, budget)),
        ("torch-pruning, L1", partial(within_budget, setup, budget, "L1", False)),
        ("torch-pruning, group norm, global", partial(within_budget, setup, budget, "group norm", True)),
    ]
    if args.net.startswith("resnet") and find_spec("modelopt"):
        found.append(("FastNAS", lambda _: next(fastnas_without_labels(setup, [budget], args.work, divisor=8))))
    return found


def images(setup: Setup) -> list[Tensor]:
    """All that every tool gets, none with a label."""
    return [x for x, *_ in [*setup.data.train, *setup.data.validation]]


def solved(setup: Setup, args: argparse.Namespace, budget: int, given: list[Tensor]) -> nn.Module:
    """The integer program's best of the families' space under the budget, fitted in closed form."""
    found = solved_for_macs(setup, args.work, budget / 100)
    assert found is not None, f"no architecture has {budget} % of the MACs"
    return replace(setup, calibration=given).convert(found)


def uniform(setup: Setup, budget: int, given: list[Tensor]) -> nn.Module:
    """The widest `width(f)` for every group that keeps to the budget, fitted in closed form."""
    groups = [g.name for g in setup.anatomy.groups if not g.fixed]
    for percent in range(98, 20, -2):
        architecture = Architecture.of({}, dict.fromkeys(groups, f"width({percent / 100:g})"))
        if setup.table.predict(architecture).macs <= budget / 100 * setup.baseline_cost.macs:
            return replace(setup, calibration=given).convert(architecture)
    raise AssertionError(f"no width gives {budget} % of the MACs")


def within_budget(setup: Setup, budget: int, importance: str, everywhere: bool, _: list[Tensor]) -> nn.Module:
    """torch-pruning on the channels that can change, its ratio found by halving; needs no image."""
    # CIFAR's networks have layers of 16 channels: there single ones are cut.
    low, high, best, multiple = 0.0, 0.95, None, 8 if setup.example.shape[-1] > 32 else None
    for _half in range(HALVINGS):
        ratio = (low + high) / 2
        model = pruned(setup, importance, ratio, global_pruning=everywhere, max_pruning_ratio=0.9, round_to=multiple)
        if measure_cost(model, setup.example).macs <= budget / 100 * setup.baseline_cost.macs:
            high, best = ratio, model
        else:
            low = ratio
    assert best is not None
    return best


def keep(setup: Setup, folder: Path, row: dict[str, Any], model: nn.Module, spent: dict[str, str]) -> None:
    """A model's files in float and int8, with both statistics, and its row in rows.csv with what it took."""
    name = "-".join("".join(c if c.isalnum() else " " for c in " ".join(map(str, row.values()))).split())
    folder.mkdir(parents=True, exist_ok=True)
    reset = copied(model)
    recalibrate_batchnorm(reset, images(setup))
    for statistics, module in {"given": model, "reset": reset}.items():
        file = FloatFile.of(module, setup.example)
        for kind, graph in {"float": file.graph, "int8": file.int8(images(setup)[:8]).graph}.items():
            (folder / f"{name}.{statistics}.{kind}.onnx").write_bytes(graph)
    macs = f"{100 * measure_cost(model, setup.example).macs / setup.baseline_cost.macs:.1f}"
    append_row(folder / "rows.csv", row | {"file": name, "MACs %": macs} | spent)
    print(row, flush=True)


def score(setup: Setup, args: argparse.Namespace) -> None:
    """Top-1 of every file on the test images, which nothing before has read; kept in scores.csv."""
    test = [batch for i, batch in enumerate(setup.data.test) if i % args.every == 0]
    known = {r["file"] for r in read_rows(args.work / "scores.csv")}
    for name in (f"{r['file']}.{end}" for r in read_rows(args.work / "rows.csv") for end in FILES.values()):
        if name not in known:
            model = OnnxModule.read(args.work / f"{name}.onnx")
            percent = f"{accuracy(model, test):.{digits(args)}f}"
            append_row(args.work / "scores.csv", {"file": name, "top1_percent": percent})


def timed(setup: Setup, args: argparse.Namespace) -> None:
    """Every model's share of the float baseline's time, one thread, one interleaved run; kept in times.csv."""
    names = [f"{r['file']}.{end}" for r in read_rows(args.work / "rows.csv") for end in ("given.float", "given.int8")]
    if {r["file"] for r in read_rows(args.work / "times.csv")} == set(names):
        return
    models: dict[str, nn.Module] = {name: OnnxModule.read(args.work / f"{name}.onnx").with_batch(1) for name in names}
    found = measure_latency(
        models, setup.example, device="onnxruntime:cpu", baseline=models[names[0]],
        setting=Setting(time_limit=args.time_limit),
    )  # fmt: skip
    (args.work / "times.csv").unlink(missing_ok=True)
    for name, latency in found.items():
        row = {"file": name, "share": written(latency), "ms": f"{1e3 * latency.median_s:.3g}"}
        append_row(args.work / "times.csv", row)


def written(latency: Latency) -> str:
    low, high = latency.ratio_interval or (latency.ratio, latency.ratio)
    return f"{latency.ratio:.3f} [{low:.3f}, {high:.3f}]"


def shown(work: Path) -> list[dict[str, Any]]:
    """The rows with their scores and times, best accuracy first within a budget."""
    scores = {r["file"]: r["top1_percent"] for r in read_rows(work / "scores.csv")}
    times = {r["file"]: r for r in read_rows(work / "times.csv")}
    rows = [
        {key: r[key] for key in ("tool", "budget", "weights", "step kept", "MACs %")}
        | {column: scores[f"{r['file']}.{end}"] for column, end in FILES.items()}
        | {f"{kind} time": times[f"{r['file']}.given.{kind}"]["share"] for kind in ("float", "int8")}
        | {f"{kind} ms": times[f"{r['file']}.given.{kind}"]["ms"] for kind in ("float", "int8")}
        | {f"{kind} MB": _megabytes(work / f"{r['file']}.given.{kind}.onnx") for kind in ("float", "int8")}
        | {"CPU s": r["CPU s"]}
        for r in read_rows(work / "rows.csv")
    ]
    return sorted(rows, key=lambda r: (-int(r["budget"]), -best(r)))


def _megabytes(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:.1f}"


def digits(args: argparse.Namespace) -> int:
    """Decimals of an accuracy in percent."""
    return 1 if args.net.startswith("lite") else 2


def best(row: dict[str, Any]) -> float:
    """The better of a row's two float accuracies."""
    return max(float(row[column]) for column in ("top-1 % as given", "top-1 % reset"))


def at_equal_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each of our mixes, and what the other tools have at its measured float time, between models of their front."""
    others = [
        Point(1 if r["tool"] == "baseline" else share(r["float time"]), best(r), r["tool"])
        for r in rows if not r["tool"].startswith("ours")
    ]  # fmt: skip
    found = []
    for mix in mixes(rows).values():
        there = between(others, share(mix["float time"]))
        found.append({
            "budget": mix["budget"], "float time": mix["float time"], "our mix, top-1 %": f"{best(mix):g}",
            "other tools, top-1 %": f"{there.accuracy:.1f}" if there else "none so fast", "between": str(there or ""),
        })  # fmt: skip
    return found


def mixes(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Our mixes without distillation, by budget."""
    return {int(r["budget"]): r for r in rows if r["tool"].startswith("ours, solver") and not r["weights"]}


def gained(rows: list[dict[str, Any]]) -> float:
    """Points that distillation adds to our mix."""
    distilled = [best(r) for r in rows if r["tool"].startswith("ours, solver") and r["weights"]]
    return max(distilled, default=nan) - best(mixes(rows)[DISTILLED])


def aims(net: str, rows: list[dict[str, Any]]) -> list[str]:
    """What was aimed at by budget and what our mix keeps, in a sentence; none where no budget has an aim."""
    whole, found = best(next(r for r in rows if r["tool"] == "baseline")), mixes(rows)
    told = [
        f"{aim} % of the accuracy at {budget} % of the MACs (kept: {100 * best(found[budget]) / whole:.1f} %)"
        for budget, aim in AIMS["lite" if net.startswith("lite") else "resnet"].items()
        if budget in found
    ]
    return [f"Aimed at: {', '.join(told)}."] * bool(told)


def page(args: argparse.Namespace, rows: list[dict[str, Any]]) -> ResultPage:
    """The rows, and of each budget who leads."""
    network, leads = network_name(args.net), []
    for budget in args.budgets:
        here = [r for r in rows if r["budget"] == str(budget)]
        ours, theirs = (max(best(r) for r in here if r["tool"].startswith("ours") is mine) for mine in (True, False))
        leads.append(f"{ours:.{digits(args)}f} against {theirs:.{digits(args)}f} % at {budget} % of the MACs")
    timed = at_equal_time(rows)
    leads.append("at our mixes' times, others between models: " + ", ".join(
        f"{r['our mix, top-1 %']} against {r['other tools, top-1 %']}" for r in timed
    ))  # fmt: skip
    told = [
        f"`distilled`: fitted to seven eighths of the images, then {args.steps} steps of ghostsearch's label-free "
        "distillation, the same for every tool that has such a row; the start stays where no step lowers the error of "
        "the held-out eighth: `step kept` is 0 then, and its row differs from the one without distillation "
        f"by its fewer images alone. Aimed at were 4 points more; our mix gains {gained(rows):+.1f}. One rate for "
        "all; where the last step was kept, more steps may give more."
    ]
    return ResultPage(
        name=f"label_free_rivals_{args.net}", title=f"{network} without labels: ours and other tools'",
        claim=f"{network} ({best(rows[0]):g} %), top-1 of our best and of the other tools' best "
        "model without labels, each with the better BatchNorm statistics",
        figure="; ".join(leads), command=script_command(every_step=True), seed=args.seed,
        device=f"{processor()}, 1 thread",
        tables=[
            ResultTable("By budget, best accuracy first; times are shares of the float baseline's", rows),
            ResultTable("At equal time: our mixes, and the other tools between the models of their front", timed),
        ],
        notes=[
            *(told if any(r["weights"] for r in rows) else []),
            "As given: the BatchNorm statistics that the model comes with, ours from the fit, a pruned one's sliced. "
            "Reset: set to those of the images that every tool got, for every row alike. The untouched baseline shows "
            "what a reset costs or gains by itself; it is why ghostsearch offers none.",
            *(OF_PHOTOGRAPHS if args.net.startswith("lite") else OF_CIFAR),
            *aims(args.net, rows),
            f"torch-pruning cuts {'channels by eights' if args.net.startswith('lite') else 'single channels'}, at most "
            "nine tenths of a layer; its ratio is found by halving.",
            "int8: ONNX Runtime's static quantizer with 128 of the images, the same for every tool.",
            "CPU s: what a row took, statistics that are reset not counted. The candidate table is in the first row "
            "that asks for it, in none where an earlier run had made it; so are FastNAS's measurements. The tool_speed "
            "pages count everything.",
            "At equal time: no other tool was asked for a time; between neighbours of their front, the untouched "
            "baseline its last, the straight line is taken.",
            *(["FastNAS was not run here; its models of efficientnet-lite0 are on tool_speed_efficientnet-lite0.md."]
              * args.net.startswith("lite")),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
