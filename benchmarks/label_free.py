"""How much accuracy does compression without labels keep on a real ImageNet network?

    python benchmarks/label_free.py --data imagenet-sample

efficientnet-lite0, 500 images without labels; the accuracy is on 500 images of other classes. For each budget the
solver takes the best architecture from the candidate table; it is fitted in closed form, then distilled. Rows and
table are kept in --work: a run that was stopped goes on. The page is results/label_free.md.
"""

from __future__ import annotations

import argparse
import datetime
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from imagenet_sample import open_sample
from rows import append_row, read_rows
from torch import nn

from ghostsearch.machine import processor
from ghostsearch.measure.cost import measure_cost
from ghostsearch.report.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.study.candidates import FILE, build_candidates, losses_of, without_failed
from ghostsearch.study.interactions import decompose
from ghostsearch.study.setup import Setup
from ghostsearch.study.solve import decode
from ghostsearch.study.solver import Problem, Program
from ghostsearch.surgery.distillation import DistillSettings, distill_blocks

AIMS = {85: 66.0, 70: 58.0, 60: 50.0}
"""Accuracy aimed at, percent, by the budget's share of the MACs."""


def main() -> None:
    args = arguments()
    setup = open_sample(args.data, args.space, seed=args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.work / "rows.csv"
    known = {(r["budget"], r["weights"]): r for r in read_rows(path)}
    if ("100", "baseline") not in known:
        append_row(path, row(setup, 100, "baseline", setup.baseline.module, 0.0))
    began = time.process_time()
    space, problem = candidate_problem(setup, args.work)
    print(f"candidate table: {time.process_time() - began:.0f} CPU seconds", flush=True)
    # The judging images are as unlabelled as the others: the final weights may be fitted to all of them.
    images = [x for x, *_ in [*setup.data.train, *setup.data.validation]]
    for budget in args.budgets:
        if (str(budget), "closed form + distilled") in known:
            continue
        solution = Program(problem).solve({"macs": budget / 100 * setup.baseline_cost.macs})
        if solution is None:
            print(f"no architecture of the space has {budget} % of the MACs", flush=True)
            continue
        architecture, began = decode(space, solution.code), time.process_time()
        print(architecture.to_dict(), f"predicted divergence {problem.loss(solution.code):.3f}", flush=True)
        model = replace(setup, calibration=images).convert(architecture)
        if (str(budget), "closed form") not in known:
            append_row(path, row(setup, budget, "closed form", model, time.process_time() - began))
        if args.steps:
            settings = DistillSettings(batch=args.batch)
            done = distill_blocks(setup.baseline.module, model, images, args.steps, settings=settings, progress=print)
            print(done, flush=True)
            append_row(path, row(setup, budget, "closed form + distilled", model, time.process_time() - began))
    publish(page(args, read_rows(path)), args.out)


def candidate_problem(setup: Setup, folder: Path) -> tuple[SearchSpace, Problem]:
    """The candidate table, as far as it is not in the folder, and the integer program over it."""
    table = build_candidates(setup, folder, lambda *told: print(*told, flush=True))
    space = without_failed(setup.space, table)
    losses = losses_of(table, space)

    def predict(codes: np.ndarray) -> np.ndarray:
        params, macs, _ = setup.table.predict_codes(space, codes)
        return np.stack([params, macs])

    return space, Problem(losses, decompose(predict, [len(x) for x in losses]), ("params", "macs"))


def row(setup: Setup, budget: int, weights: str, model: nn.Module, cpu_s: float) -> dict[str, object]:
    """Accuracy and size of a model."""
    right = images = 0
    with torch.inference_mode():
        for x, y in setup.data.test:
            right += int((model.eval()(x).argmax(1) == y).sum())
            images += len(y)
    share = measure_cost(model, setup.example).macs / setup.baseline_cost.macs
    made = {
        "budget": budget, "weights": weights, "macs_percent": f"{100 * share:.1f}",
        "top1_percent": f"{100 * right / images:.1f}", "images": images, "cpu_s": f"{cpu_s:.0f}",
    }  # fmt: skip
    print(made, flush=True)
    return made


def page(args: argparse.Namespace, rows: list[dict[str, str]]) -> ResultPage:
    """The rows with what was aimed at."""
    best: dict[int, float] = {}
    for r in rows:
        best[int(r["budget"])] = max(best.get(int(r["budget"]), 0.0), float(r["top1_percent"]))
    day = datetime.datetime.fromtimestamp((args.work / FILE).stat().st_mtime, datetime.UTC)
    shown = [{**r, "aim": AIMS.get(int(r["budget"]), "")} for r in rows]
    reached = ", ".join(f"{best[b]:.1f} % at {b} % of the MACs (aim {aim:g})" for b, aim in AIMS.items() if b in best)
    return ResultPage(
        name="label_free", title="Compression without labels: efficientnet-lite0 on ImageNet photographs",
        claim=f"efficientnet-lite0 (baseline {best.get(100, 0):.1f} %), 500 images without labels, top-1 on 500 "
        "images of other classes",
        figure=reached or "no row yet", command=script_command(), device=processor(), seed=args.seed,
        tables=[ResultTable("Architectures from the candidate table and the solver", shown)],
        notes=["One image is 0.2 points, the standard error about 2 points; differences between two rows on the same "
               "images are smaller. CPU seconds are of fitting (and distilling), without the candidate table, which is "
               f"of {day:%Y-%m-%d}."],
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with calibration/ and test/")
    parser.add_argument("--space", default="fine")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(AIMS))
    parser.add_argument("--steps", type=int, default=60, help="of distillation; 0 for none")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/label_free"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
