"""A real ImageNet network against torch-pruning, without labels: accuracy by MACs and by measured time, float and int8.

    python benchmarks/imagenet_rivals.py --data imagenet-sample
    python benchmarks/imagenet_rivals.py --data imagenet-sample --network lite1 --work runs/imagenet_rivals_lite1

Every tool gets the same 500 images without labels. Each model, the baseline too, is judged with the BatchNorm
statistics that it comes with and with those of the 500 images, two columns: no tool is judged by a step that another
had to do without. With `--steps` all are also distilled by the product's own distillation, fitted to or reset on the
same seven eighths of the images, judged on the others. lite1 is the check that nothing was tuned to lite0. Steps:
`build` keeps each model as ONNX files in --work, `score` then reads the 500 test images, of other classes, once for
each file, `time` measures all files in one interleaved run, on a machine that should be quiet, `page` writes
results/imagenet_rivals.md. `--only` does one; the same command resumes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.families import WIDTHS, preset
from benchmarks.imagenet_sample import SIZE, open_sample
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rivals import pruned
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
DISTILLED = 70
"""The budget whose rows are distilled too."""
FILES = {
    "top-1 % as given": "given.float", "int8 top-1 % as given": "given.int8",
    "top-1 % reset": "reset.float", "int8 top-1 % reset": "reset.int8",
}  # fmt: skip
"""Column and end of the file's name: the statistics that a model comes with, or those of the images."""
Build = Callable[[list[Tensor]], nn.Module]
"""From the images that it may look at."""


def main() -> None:
    args = arguments()
    setup = open_sample(args.data, "fine", network=args.network, seed=args.seed)
    setup = replace(setup, space=preset(WIDTHS["lite0"]).resolve(setup.anatomy))
    steps = {"build": build, "score": score, "time": timed}
    for name, step in steps.items():
        if args.only in (None, name):
            step(setup, args)
    if args.only in (None, "page"):
        publish(page(args), args.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with calibration/ and test/")
    parser.add_argument("--network", choices=("lite0", "lite1"), default="lite0")
    parser.add_argument("--budgets", type=int, nargs="+", default=[85, 70, 60], help="percent of the MACs")
    parser.add_argument("--steps", type=int, default=0, help="of distillation; 0 for none")
    parser.add_argument("--only", choices=("build", "score", "time", "page"))
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds of timing in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/imagenet_rivals"))
    parser.add_argument("--out", type=Path, default=Path("results"))
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
            if tool.startswith("torch"):
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
    return [
        ("ours, solver's mix", partial(solved, setup, args, budget)),
        ("ours, one width everywhere", partial(uniform, setup, budget)),
        ("torch-pruning, L1", partial(within_budget, setup, budget, "L1", False)),
        ("torch-pruning, group norm, global", partial(within_budget, setup, budget, "group norm", True)),
    ]


def images(setup: Setup) -> list[Tensor]:
    """All 500, none with a label."""
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
    low, high, best = 0.0, 0.95, None
    for _half in range(HALVINGS):
        ratio = (low + high) / 2
        model = pruned(setup, importance, ratio, global_pruning=everywhere, max_pruning_ratio=0.9, round_to=8)
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
    known = {r["file"] for r in read_rows(args.work / "scores.csv")}
    for name in (f"{r['file']}.{end}" for r in read_rows(args.work / "rows.csv") for end in FILES.values()):
        if name not in known:
            model = OnnxModule.read(args.work / f"{name}.onnx")
            right = sum(int((model(x).argmax(1) == y).sum()) for x, y in setup.data.test)
            percent = 100 * right / sum(len(y) for _, y in setup.data.test)
            append_row(args.work / "scores.csv", {"file": name, "top1_percent": f"{percent:.1f}"})


def timed(_: Setup, args: argparse.Namespace) -> None:
    """Every model's share of the float baseline's time, one thread, one interleaved run; kept in times.csv."""
    names = [f"{r['file']}.{end}" for r in read_rows(args.work / "rows.csv") for end in ("given.float", "given.int8")]
    if {r["file"] for r in read_rows(args.work / "times.csv")} == set(names):
        return
    models: dict[str, nn.Module] = {name: OnnxModule.read(args.work / f"{name}.onnx").with_batch(1) for name in names}
    example = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    found = measure_latency(
        models, example, device="onnxruntime:cpu", baseline=models[names[0]],
        setting=Setting(time_limit=args.time_limit),
    )  # fmt: skip
    (args.work / "times.csv").unlink(missing_ok=True)
    for name, latency in found.items():
        row = {"file": name, "share": _share(latency), "ms": f"{1e3 * latency.median_s:.1f}"}
        append_row(args.work / "times.csv", row)


def _share(latency: Latency) -> str:
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


def best(row: dict[str, Any]) -> float:
    """The better of a row's two float accuracies."""
    return max(float(row[column]) for column in ("top-1 % as given", "top-1 % reset"))


def at_equal_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each of our mixes, and below it the rival's row whose measured float time is nearest to it."""

    def share(row: dict[str, Any]) -> float:
        return float(row["float time"].split()[0])

    rivals = [r for r in rows if r["tool"].startswith("torch")]
    ours = [r for r in rows if r["tool"].startswith("ours, solver") and not r["weights"]]
    return [row for mix in ours for row in (mix, min(rivals, key=lambda r: (abs(share(r) - share(mix)), -best(r))))]


def page(args: argparse.Namespace) -> ResultPage:
    """The rows, and of each budget who leads."""
    rows, leads = shown(args.work), []
    short = ("tool", "MACs %", "top-1 % as given", "top-1 % reset", "float time", "int8 time", "float MB", "int8 MB")
    for budget in args.budgets:
        here = [r for r in rows if r["budget"] == str(budget)]
        ours, theirs = (max((best(r) for r in here if r["tool"].startswith(x)), default=0.0) for x in ("ours", "torch"))
        leads.append(f"{ours:.1f} against {theirs:.1f} % at {budget} % of the MACs")
    told = [
        f"`distilled`: fitted to seven eighths of the images, then {args.steps} steps of ghostsearch's label-free "
        "distillation, the same for every tool that has such a row; the start stays where no step lowers the error of "
        "the held-out eighth: `step kept` is 0 then, and its row differs from the one without distillation "
        "by its fewer images alone. Aimed at are 4 points more. One rate for all; where the "
        "last step was kept, more steps may give more."
    ]
    name = "imagenet_rivals" + ("" if args.network == "lite0" else f"_{args.network}")
    return ResultPage(
        name=name, title=f"efficientnet-{args.network} without labels: ours and torch-pruning",
        claim=f"efficientnet-{args.network} ({best(rows[0]):.1f} %), top-1 of our best and of torch-pruning's best "
        "model without labels, each with the better BatchNorm statistics",
        figure="; ".join(leads), command=script_command(every_step=True), seed=args.seed,
        device=f"{processor()}, 1 thread",
        tables=[
            ResultTable("By budget, best accuracy first; times are shares of the float baseline's", rows),
            ResultTable("At equal time: each of our mixes, below it torch-pruning's model of the nearest float time",
                        [{key: r[key] for key in short} for r in at_equal_time(rows)]),
        ],
        notes=[
            *(told if any(r["weights"] for r in rows) else []),
            "As given: the BatchNorm statistics that the model comes with, ours from the fit, a pruned one's sliced. "
            "Reset: set to those of the 500 images, for every row alike. The untouched baseline shows what a reset "
            "costs or gains by itself; it is why ghostsearch offers none.",
            "One image is 0.2 points; the standard error of an accuracy is about 1.6 to 2.2 points, of a difference "
            "between two rows (the same 500 images) about 1.5: smaller differences are not separable. One seed.",
            "The photographs may be among those that the network was trained on: its accuracy on them is above the "
            "published one, and every row's with it.",
            "torch-pruning cuts channels in multiples of eight, at most nine tenths of a layer; its ratio is found by "
            "halving.",
            "int8: ONNX Runtime's static quantizer with 128 of the images, the same for every tool.",
            "CPU s: what a row took, statistics that are reset not counted. The candidate table, some 200 s, is in the "
            "first row that asks for it, in none where an earlier run had made it; tool_speed.md counts everything.",
            "At equal time: no rival was sized for a time; of their models the nearest in time is shown, and its time. "
            "FastNAS was not run here: on resnet18 (tool_speed.md) its search takes half an hour.",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
