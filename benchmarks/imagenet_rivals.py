"""A real ImageNet network against torch-pruning, without labels: accuracy by MACs and by measured time, float and int8.

    python benchmarks/imagenet_rivals.py --data imagenet-sample
    python benchmarks/imagenet_rivals.py --data imagenet-sample --network lite1 --work runs/imagenet_rivals_lite1
    python benchmarks/imagenet_rivals.py --data imagenet-sample --time

Every tool gets the same 500 images without labels: ours fit to them, the others have their BatchNorm statistics reset
on them; with `--steps` all then distil the baseline's outputs on 372 of them with one recipe, its rate chosen on the
other 128 (ours is then fitted to the 372 alone, since a fit knows its images by heart). The accuracy is on 500 images
of other classes, read once a row. lite1 is the check that nothing was tuned to lite0. Each row's model is kept as an
ONNX file in --work, so that a run that was stopped goes on; `--time` measures all of them in one interleaved run, on
a machine that should be quiet, and writes results/imagenet_rivals.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from imagenet_sample import SIZE, open_sample
from label_free import candidate_problem
from rivals import pruned
from rows import append_row, read_rows
from torch import Tensor, nn

from ghostsearch.graph.capture import copied
from ghostsearch.machine import processor
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.int8_module import int8_module
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.setting import Setting
from ghostsearch.records import Latency
from ghostsearch.report.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.setup import Setup
from ghostsearch.study.solve import decode
from ghostsearch.study.solver import Program
from ghostsearch.surgery.norm_statistics import recalibrate_batchnorm

RATES = (3e-5, 1e-4)
"""Learning rates that the common distillation tries."""
HALVINGS = 7
"""Of a rival's pruning ratio on the way to a budget."""
DISTILLED = 70
"""The budget whose rows are distilled too."""
Build = Callable[[list[Tensor]], nn.Module]
"""From the images that it may look at."""


def main() -> None:
    args = arguments()
    setup = open_sample(args.data, "fine", network=args.network, seed=args.seed)
    if args.time:
        publish(page(args, timed(args)), args.out)
        return
    row(setup, args, "baseline", 100, "", setup.baseline.module, 0.0)
    for budget in args.budgets:
        for tool, build in tools(setup, args, budget):
            if known(args, tool, budget, ""):
                continue
            began = time.process_time()
            row(setup, args, tool, budget, "", build(images(setup)), time.process_time() - began)
        for tool, build in tools(setup, args, budget) if budget == DISTILLED and args.steps else ():
            if known(args, tool, budget, "distilled"):
                continue
            began = time.process_time()
            model = build([x for x, *_ in setup.data.train])
            distilled(setup, model, args.steps)
            row(setup, args, tool, budget, "distilled", model, time.process_time() - began)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with calibration/ and test/")
    parser.add_argument("--network", choices=("lite0", "lite1"), default="lite0")
    parser.add_argument("--budgets", type=int, nargs="+", default=[85, 70, 60], help="percent of the MACs")
    parser.add_argument("--steps", type=int, default=0, help="of the common distillation; 0 for none")
    parser.add_argument("--time", action="store_true", help="time the rows that are there and write the page")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds of timing in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/imagenet_rivals"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


def known(args: argparse.Namespace, tool: str, budget: int, weights: str) -> bool:
    wanted = (tool, str(budget), weights)
    return any((r["tool"], r["budget"], r["weights"]) == wanted for r in read_rows(args.work / "rows.csv"))


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
    """The integer program's best of the space under the budget, fitted in closed form."""
    space, problem = candidate_problem(setup, args.work)
    solution = Program(problem).solve({"macs": budget / 100 * setup.baseline_cost.macs})
    assert solution is not None, f"no architecture has {budget} % of the MACs"
    return replace(setup, calibration=given).convert(decode(space, solution.code))


def uniform(setup: Setup, budget: int, given: list[Tensor]) -> nn.Module:
    """The widest `width(f)` for every group that keeps to the budget, fitted in closed form."""
    groups = [g.name for g in setup.anatomy.groups if not g.fixed]
    for percent in range(98, 20, -2):
        architecture = Architecture.of({}, dict.fromkeys(groups, f"width({percent / 100:g})"))
        if setup.table.predict(architecture).macs <= budget / 100 * setup.baseline_cost.macs:
            return replace(setup, calibration=given).convert(architecture)
    raise AssertionError(f"no width gives {budget} % of the MACs")


def within_budget(setup: Setup, budget: int, importance: str, everywhere: bool, given: list[Tensor]) -> nn.Module:
    """torch-pruning on the channels that can change, its ratio found by halving; BatchNorm statistics anew."""
    low, high, best = 0.0, 0.95, None
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        model = pruned(setup, importance, ratio, global_pruning=everywhere, max_pruning_ratio=0.9, round_to=8)
        if measure_cost(model, setup.example).macs <= budget / 100 * setup.baseline_cost.macs:
            high, best = ratio, model
        else:
            low = ratio
    assert best is not None
    recalibrate_batchnorm(best, given)
    return best


def distilled(setup: Setup, model: nn.Module, steps: int) -> None:
    """Divergence from the baseline's outputs, in place; the rate (or none) by the divergence on the judging images."""
    train, judged = [x for x, *_ in setup.data.train], [x for x, *_ in setup.data.validation]
    start = copied(model).state_dict()
    best, weights = divergence(setup, model, judged), start
    for rate in RATES:
        model.load_state_dict(start)
        optimiser = torch.optim.Adam(model.parameters(), rate)
        for step in range(steps):
            x = train[step % len(train)]
            x = x.flip(-1) if step // len(train) % 2 else x
            optimiser.zero_grad()
            loss = _divergence(model.eval()(x), setup.baseline.module(x).detach())
            loss.backward()
            optimiser.step()
        found = divergence(setup, model, judged)
        print(f"rate {rate:g}: divergence {best:.3f} -> {found:.3f}", flush=True)
        if found < best:
            best, weights = found, copied(model).state_dict()
    model.load_state_dict(weights)


def _divergence(outputs: Tensor, wanted: Tensor) -> Tensor:
    return F.kl_div(outputs.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean")


def divergence(setup: Setup, model: nn.Module, batches: list[Tensor]) -> float:
    with torch.inference_mode():
        found = [float(_divergence(model.eval()(x), setup.baseline.module(x))) for x in batches]
    return sum(found) / len(found)


def row(
    setup: Setup, args: argparse.Namespace, tool: str, budget: int, weights: str, model: nn.Module, cpu_s: float
) -> None:
    """Score a model in float and in int8, keep both as ONNX files and the row in rows.csv."""
    if known(args, tool, budget, weights):
        return
    name = "-".join("".join(c if c.isalnum() else " " for c in f"{tool} {budget} {weights}").split())
    args.work.mkdir(parents=True, exist_ok=True)
    small = int8_module(model, setup.example, images(setup)[:8], free_batch=True)
    files = {"float": OnnxModule(onnx_bytes(model, setup.example, free_batch=True)[0], threads=2), "int8": small}
    scores = {kind: accuracy(setup, file) for kind, file in files.items()}
    for kind, file in files.items():
        (args.work / f"{name}.{kind}.onnx").write_bytes(file.graph)
    cost = measure_cost(model, setup.example)
    made = {
        "tool": tool, "budget": budget, "weights": weights, "file": name,
        "macs_percent": f"{100 * cost.macs / setup.baseline_cost.macs:.1f}",
        "top1_percent": f"{scores['float']:.1f}", "int8_top1_percent": f"{scores['int8']:.1f}", "cpu_s": f"{cpu_s:.0f}",
    }  # fmt: skip
    append_row(args.work / "rows.csv", made)
    print(made, flush=True)


def accuracy(setup: Setup, model: nn.Module) -> float:
    """Top-1, percent, on the test images."""
    right = total = 0
    with torch.inference_mode():
        for x, y in setup.data.test:
            right, total = right + int((model(x).argmax(1) == y).sum()), total + len(y)
    return 100 * right / total


def timed(args: argparse.Namespace) -> list[dict[str, object]]:
    """All rows with their share of the float baseline's time, one thread, one interleaved run."""
    rows = read_rows(args.work / "rows.csv")
    models: dict[str, nn.Module] = {
        f"{r['file']}.{kind}": OnnxModule.read(args.work / f"{r['file']}.{kind}.onnx")
        for r in rows
        for kind in ("float", "int8")
    }
    example = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    baseline = models.pop(f"{rows[0]['file']}.float")
    found = measure_latency(
        models, example, device="onnxruntime:cpu", baseline=baseline, setting=Setting(time_limit=args.time_limit)
    )
    shown = []
    for r in rows:
        times = {k: found[name] for k in ("float", "int8") if (name := f"{r['file']}.{k}") in found}
        shown.append(
            {k: v for k, v in r.items() if k != "file"}
            | {f"{k} time": _share(times[k]) if k in times else "1" for k in ("float", "int8")}
        )
    return shown


def _share(latency: Latency) -> str:
    low, high = latency.ratio_interval
    return f"{latency.ratio:.3f} [{low:.3f}, {high:.3f}]"


def page(args: argparse.Namespace, rows: list[dict[str, object]]) -> ResultPage:
    """The rows, best accuracy first within a budget."""
    order = sorted(rows, key=lambda r: (-int(str(r["budget"])), -float(str(r["top1_percent"]))))
    leads = []
    for budget in args.budgets:
        here = [r for r in rows if r["budget"] == str(budget) and not r["weights"]]
        ours = max((float(str(r["top1_percent"])) for r in here if str(r["tool"]).startswith("ours")), default=None)
        rival = max((float(str(r["top1_percent"])) for r in here if str(r["tool"]).startswith("torch")), default=None)
        if ours is not None and rival is not None:
            leads.append(f"{ours:.1f} against {rival:.1f} % at {budget} % of the MACs")
    told = [
        f"`distilled`: {args.steps} steps on the baseline's outputs, Adam, the better of the rates {RATES} or none by "
        "the divergence on 128 held-out images without labels; the same for every tool."
    ]
    told = told if any(r["weights"] for r in rows) else []
    name = "imagenet_rivals" + ("" if args.network == "lite0" else f"_{args.network}")
    return ResultPage(
        name=name, title=f"efficientnet-{args.network} without labels: ours and torch-pruning",
        claim=f"efficientnet-{args.network}, top-1 of our best and of torch-pruning's best (BatchNorm reset), no label",
        figure="; ".join(leads) or "no row yet", command=script_command(), device=f"{processor()}, 1 thread",
        seed=args.seed,
        tables=[ResultTable("By budget, best accuracy first; times are shares of the float baseline's", order)],
        notes=[
            *told,
            "One image is 0.2 points; the standard error of an accuracy is about 2 points, of a difference between two "
            "rows (the same 500 images) about 1.5: smaller differences are not separable. One seed.",
            "int8: ONNX Runtime's static quantizer with 128 of the images, the same for every tool.",
            "FastNAS scores by labels or a teacher's agreement in its own search and needs nvidia-modelopt; not run.",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
