"""CPU seconds from a trained network to a first model and to a front, ours and two tools', and how good they are.

    python benchmarks/tool_speed.py --network resnet18 --data imagenet-sample

All tools get the same photographs and no label, in one process and one thread. A first model is what a tool gives
without a search: ours, one width everywhere, fitted in closed form; torch-pruning's, filters by L1 norm with BatchNorm
statistics reset on the photographs. A front is a model at each of --budgets: ours by the candidate table and the
integer program over it; FastNAS's by its own search, which scores each width of each layer. A tool's rows of a network
are kept in --work when its front is done; the same command resumes.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.families import WIDTHS, preset
from benchmarks.fit_speed import network, relative_error
from benchmarks.imagenet_sample import open_sample, read_images
from benchmarks.label_free_rivals import images, uniform, within_budget
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rivals import fastnas_without_labels
from benchmarks.rows import append_row, read_rows
from benchmarks.solved import candidate_problem
from ghostsearch.machine import processor
from ghostsearch.measure.cost import measure_cost
from ghostsearch.study.program import Program
from ghostsearch.study.setup import Setup
from ghostsearch.surgery.norm_statistics import recalibrate_batchnorm

TOOLS = OURS, THEIRS, FASTNAS = "ghostsearch", "torch-pruning", "FastNAS"
FASTNAS_NOTE = (
    "FastNAS cuts channels in multiples of 32 (its default), measures each width of each layer once, by the outputs' "
    "divergence from the baseline's as ours, on the 128 photographs that ours judges by, with statistics of 350 "
    "others, and its models' are reset too. Until it has measured all there is no model; stopped, it has none."
)
Made = Iterator[tuple[str, nn.Module | None]]
"""What a model is, and the model, each as soon as it is there; none where the tool was stopped."""


def ours(setup: Setup, budgets: list[int]) -> Made:
    """One width everywhere, then the solver's mix at each budget."""
    yield f"one width, {budgets[0]} % of the MACs", uniform(setup, budgets[0], setup.calibration or [])
    with tempfile.TemporaryDirectory() as folder:
        space, problem = candidate_problem(setup, Path(folder))
    program = Program(problem)
    for budget in budgets:
        solution = program.solve({"macs": budget / 100 * setup.baseline_cost.macs})
        assert solution is not None, f"no architecture has {budget} % of the MACs"
        yield f"mix, {budget} % of the MACs", setup.convert(space.decode(solution.code))


def theirs(setup: Setup, budgets: list[int]) -> Made:
    """Filters by L1 norm at each budget, statistics reset."""
    for budget in budgets:
        model = within_budget(setup, budget, "L1", False, [])
        recalibrate_batchnorm(model, images(setup))
        yield f"L1, {budget} % of the MACs", model


class OutOfTimeError(Exception):
    """FastNAS has had its time."""


def fastnas(setup: Setup, budgets: list[int], limit_s: float) -> Made:
    """FastNAS at each budget: one measurement of every width of every layer, on the images that ours judges by.

    After so many CPU seconds it is stopped, which is told in the place of a model.
    """
    began, scored = time.process_time(), 0

    def count() -> None:
        nonlocal scored
        if time.process_time() - began > limit_s:
            raise OutOfTimeError
        scored += 1

    with tempfile.TemporaryDirectory() as folder:
        found = fastnas_without_labels(setup, budgets, Path(folder), scored=count)
        for budget in budgets:
            try:
                model = next(found)
            except OutOfTimeError:
                yield f"stopped after {scored} widths", None
                return
            recalibrate_batchnorm(model, images(setup))
            yield f"FastNAS, {budget} % of the MACs", model


def measure(setup: Setup, made: Made, trained: bool) -> Iterator[dict[str, Any]]:
    """A row a model; judging it takes none of the tool's time."""
    test = setup.data.test
    with torch.inference_mode():
        wanted = torch.cat([setup.baseline.module(x) for x, _ in test])
    labels = torch.cat([y for _, y in test])
    spent, began = 0.0, time.process_time()
    for what, model in made:
        spent += time.process_time() - began
        row: dict[str, Any] = {"model": what, "CPU s so far": round(spent, 1)}
        if model is None:
            yield row | {"MACs %": "", "output error": "", "top-1 %": ""}
            return
        with torch.inference_mode():
            found = torch.cat([model.eval()(x) for x, _ in test])
        yield row | {
            "MACs %": round(100 * measure_cost(model, setup.example).macs / setup.baseline_cost.macs, 1),
            "output error": round(relative_error(found, wanted), 3),
            "top-1 %": round(100 * float((found.argmax(1) == labels).float().mean()), 1) if trained else "",
        }
        began = time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with calibration/ and test/")
    parser.add_argument("--network", default="efficientnet-lite0", help="this, or torchvision's (random weights)")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS, help="FastNAS: nvidia-modelopt")
    parser.add_argument("--fastnas-limit", type=float, default=math.inf, help="CPU seconds after which it is stopped")
    parser.add_argument("--budgets", type=int, nargs="+", default=[70, 85, 60, 50], help="percent of the MACs")
    parser.add_argument("--work", type=Path, default=Path("runs/tool_speed"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = args.work / "rows.csv"
    known = {r["tool"] for r in read_rows(file) if r["network"] == args.network}
    model = network(args.network, read_images(args.data / "calibration")[0])
    setup = open_sample(args.data, "fine", model=model)
    setup = replace(setup, space=preset(WIDTHS["lite0"]).resolve(setup.anatomy))
    makes = {OURS: ours, THEIRS: theirs, FASTNAS: partial(fastnas, limit_s=args.fastnas_limit)}
    for tool in args.tools:
        if tool not in known:
            for row in list(measure(setup, makes[tool](setup, args.budgets), args.network.startswith("efficientnet"))):
                append_row(file, {"network": args.network, "tool": tool, **row})
                print(row, flush=True)
    publish(page(args, [r for r in read_rows(file) if r["network"] == args.network]), args.out)


def page(args: argparse.Namespace, rows: list[dict[str, str]]) -> ResultPage:
    """The rows, and what each tool's first model and front took."""
    random = "" if args.network.startswith("efficientnet") else " (random weights)"
    told = []
    for tool in TOOLS:
        if of_tool := [r for r in rows if r["tool"] == tool]:
            first, last = (f"{float(r['CPU s so far']):.0f}" for r in (of_tool[0], of_tool[-1]))
            told.append(
                f"{tool} {first} and {last} s" if of_tool[0]["MACs %"] else f"{tool} {of_tool[0]['model']}, {last} s"
            )
    return ResultPage(
        name=f"tool_speed_{args.network}", title=f"{args.network}{random}: time to a first model and to a front",
        claim=f"CPU seconds of one core to the first model and to a front at {len(args.budgets)} budgets",
        figure=", ".join(told), command=script_command(), device=f"{processor()}, 1 thread",
        tables=[ResultTable("By tool, its models in the order in which they came", rows)],
        notes=[
            "Output error: squared difference of the outputs on 500 photographs of classes that no tool has seen, over "
            "the baseline's variance (1: no better than the mean output). Top-1 where the network is trained; "
            "torchvision's has random weights with statistics of the photographs, so its errors compare rows only.",
            "Opening the network and reading the photographs is not counted. torch-pruning's ratio is found by "
            "halving; its statistics are reset on all 500 photographs, ours fits on 372 and judges candidates on 128.",
            "torch-pruning is far quicker and needs no image to prune; without training its models at these budgets "
            "are of little use, as the errors show.",
            *([FASTNAS_NOTE] if any(r["tool"] == FASTNAS for r in rows) else []),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
