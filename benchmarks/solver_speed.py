"""How long the integer program takes: sixty sites of twelve choices, and ResNet-56 with its widths, for twenty budgets.

    python benchmarks/solver_speed.py --out results

Costs are those of the real networks by formula; losses are drawn at random, growing with what a choice saves, since
their size does not change the program's shape.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.machine import processor
from ghostsearch.measure.cost_table import CostTable
from ghostsearch.models.load import example_input, load_model
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.study.interactions import decompose
from ghostsearch.study.program import THOROUGH, Problem, Program
from ghostsearch.surgery.sites import find_sites

CHOICES = ("keep", *(f"ghost(ratio={r}, kernel={k})" for r, k in (
    (2, 1), (2, 3), (2, 5), (2, 7), (3, 1), (3, 3), (3, 5), (4, 1), (4, 3), (4, 5), (5, 3))))  # fmt: skip
WIDTHS = ("width(1)", "width(0.75)", "width(0.5)", "width(0.25)")
DIVERSE = 3


def chain(sites: int) -> tuple[list[int], torch.nn.Module]:
    """A baseline chain of 3×3 convolutions."""
    layers = [torch.nn.Conv2d(64, 64, 3, padding=1, bias=False) for _ in range(sites + 1)]
    return [1, 64, 16, 16], torch.nn.Sequential(*layers)


def problem_of(
    module: torch.nn.Module, example: torch.Tensor, sites: int | None, *, widths: bool, seed: int
) -> Problem:
    """The program of a network: real MACs and parameters, random losses."""
    anatomy = find_sites(module, example, include_first=False)
    paths = [s.path for s in anatomy.sites][:sites]
    groups = {g.name: WIDTHS for g in anatomy.groups if not g.fixed} if widths else {}
    space = SearchSpace(dict.fromkeys(paths, CHOICES), groups, 8)
    table, draw = CostTable(module, example, anatomy, width_multiple=8), np.random.default_rng(seed)
    sizes = [len(CHOICES)] * len(paths) + [len(WIDTHS)] * len(groups)

    def predict(codes: np.ndarray) -> np.ndarray:
        params, macs, _ = table.predict_codes(space, codes)
        return np.stack([params, macs])

    resources = decompose(predict, sizes)
    losses = []
    for variable, size in enumerate(sizes):
        codes = np.zeros((size, len(sizes)), dtype=np.int64)
        codes[:, variable] = np.arange(size)
        saved = 1 - predict(codes)[1] / resources.constant[1]
        losses.append(saved * draw.uniform(0.5, 1.5, size) * draw.lognormal(0, 1))
    return Problem(losses, resources, ("params", "macs"))


def measure(name: str, problem: Problem, budgets: int) -> dict[str, object]:
    """CPU seconds of every solution: for each budget on MACs, parameters bounded too, several diverse ones."""
    program, baseline = Program(problem), problem.resources.constant
    least, times, found = program.least("macs"), [], list[bool]()
    for i in range(budgets):
        bounds = {"macs": least + (baseline[1] - least) * (i + 0.5) / budgets, "params": baseline[0]}
        seen: list[tuple[int, ...]] = []
        for _ in range(DIVERSE):
            started = time.process_time()
            solution = program.solve(bounds, seen, max(1, len(problem.sizes) // 8))
            times.append(time.process_time() - started)
            if solution is None:
                break
            seen.append(solution.code)
            found.append(solution.proven)
    first = times[::DIVERSE]
    return {
        "network": name, "variables": len(problem.sizes), "options": sum(problem.sizes), "columns": program.columns,
        "solutions": len(found), "proven": sum(found),
        "median CPU s": round(statistics.median(times), 3), "largest CPU s": round(max(times), 3),
        "largest CPU s of a budget's best": round(max(first), 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    shape, module = chain(60)
    resnet = load_model("ghostsearch:resnet56")
    rows = [
        measure(
            "chain of 60 sites × 12 choices",
            problem_of(module, torch.zeros(shape), 60, widths=False, seed=args.seed),
            args.budgets,
        ),
        measure(
            "ResNet-56, 12 choices per site and 4 widths per group",
            problem_of(resnet.module, example_input(resnet.input), None, widths=True, seed=args.seed),
            args.budgets,
        ),
    ]
    page = ResultPage(
        name="solver_speed", title="The integer program's time",
        claim="CPU seconds of one solution for 60 sites × 12 choices, the slowest "
        f"of {DIVERSE * args.budgets} (target: under 2)",
        figure=f"{rows[0]['largest CPU s']} s", command=script_command(), device=processor(),
        seed=args.seed, tables=[ResultTable(f"{args.budgets} budgets, {DIVERSE} solutions each", rows)],
        notes=["CPU time: the machine was shared. "
               f"Each solution stops at 0.5 % of the best or after {THOROUGH.nodes} nodes."],
    )  # fmt: skip
    publish(page, args.out)
    print(rows)


if __name__ == "__main__":
    main()
