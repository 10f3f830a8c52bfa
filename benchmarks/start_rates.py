"""Is a good start worth anything after training, and at which learning rate? One structure, its weights fitted or not.

    python benchmarks/start_rates.py --weights cifar_resnet20_jpeg.safetensors --data cifar10-jpeg \\
        --validation-list cifar10-jpeg-val.txt --images 512 --study runs/search20_free --work runs/start_rates

Two structures of half of the MACs: the solver's answer from a finished untrained search, fitted in closed form or with
its weights copied, and one width everywhere, fitted or torch-pruning's by L1 norm. Each start is trained at each rate
for each length, as `long_training.py` does; the selection images choose a start's rate. The same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.comparison import CIFAR
from benchmarks.long_models import nearest_pruned, nearest_width
from benchmarks.long_training import Job, decoded, given_images, on_device, trained
from benchmarks.networks import network_arguments, opened
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rivals import converted
from benchmarks.rows import append_row, read_rows
from ghostsearch.graph.capture import copied
from ghostsearch.machine import processor
from ghostsearch.measure.cost import measure_cost
from ghostsearch.study.setup import Setup
from ghostsearch.study.solve import solve_study
from ghostsearch.study.statistics import share_error
from ghostsearch.training.evaluate import evaluate, torch_device

MIX, WIDTH = "solver's mix", "one width"


def main() -> None:
    args = arguments()
    bench, device, kept = opened(args), str(torch_device(args.device)), args.work / "rows.csv"
    decoded(args)
    trains = given_images(args)
    data = on_device(trains.data, device, args.batch_size)
    for start, make in starts(bench, args):
        known = {(r["start"], int(r["epochs"]), float(r["peak rate"])) for r in read_rows(kept)}
        wanted = [(n, lr) for n in args.lengths for lr in args.rates if (start, n, lr) not in known]
        if not wanted or (args.starts and start not in args.starts):
            continue
        model = make()
        about = {"start": start, "MACs": round(measure_cost(model, bench.example).macs / bench.baseline_cost.macs, 3),
                 "before %": f"{100 * evaluate(model, bench.data.test, bench.task):.2f}"}  # fmt: skip
        for epochs in args.lengths:
            rates = [lr for n, lr in wanted if n == epochs]
            jobs = [Job("", epochs, lr, args.seed, test=True) for lr in rates]
            # At several rates, on the same batches.
            for row in trained(args, trains, data, jobs, [copied(model) for _ in jobs], device) if jobs else ():
                line = about | {
                    "epochs": epochs, "peak rate": row["lr"], "selection %": f"{100 * row['validation']:.2f}",
                    "test %": f"{100 * row['test']:.2f}", "images": row["images"],
                }  # fmt: skip
                append_row(kept, line)
                print(line, flush=True)
    publish(page(args, read_rows(kept)), args.out)


def arguments() -> argparse.Namespace:
    parser = network_arguments(__doc__, ["resnet20", "resnet56"], "runs/start_rates")
    parser.add_argument("--study", type=Path, required=True, help="a finished untrained search of the network")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.03, 0.01], help="peak learning rates")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 3], help="epochs")
    parser.add_argument("--starts", nargs="+", help="only these, for processes side by side")
    parser.add_argument("--train-images", type=int, help="of the 45,000; default: all")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--train-precision", default="auto", help="bf16-mixed, or else float32")
    parser.add_argument("--device", default="auto", help="where to train")
    return parser.parse_args()


def starts(bench: Setup, args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """What training begins from, by structure and origin of the weights."""
    answer = solve_study(args.study, {"macs": "50%"}, count=1)[0].architecture
    yield f"{MIX}, fitted", partial(converted, bench, answer)
    yield f"{MIX}, copied", partial(bench.copied, answer)
    yield f"{WIDTH}, fitted", lambda: nearest_width(bench, "macs")[1]
    yield f"{WIDTH}, L1", lambda: nearest_pruned(bench, "L1", "macs", 1)[1]


def page(args: argparse.Namespace, rows: list[dict[str, Any]]) -> ResultPage:
    """Every training, and of each start and length the rate that the selection images choose."""
    rows = sorted(rows, key=lambda r: (int(r["epochs"]), -float(r["test %"])))
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: float(r["selection %"])):
        best[row["epochs"], row["start"]] = row
    chosen = sorted(best.values(), key=lambda r: (int(r["epochs"]), -float(r["test %"])))
    error, said = 100 * share_error(float(chosen[0]["test %"]) / 100, CIFAR), []
    for length in dict.fromkeys(r["epochs"] for r in chosen):
        found = [f"{r['start']} {float(r['test %']):.1f}" for r in chosen if r["epochs"] == length]
        said.append(f"after {length}: {', '.join(found)}")
    return ResultPage(
        name=f"start_rates_{args.net}", title=f"What a start is worth after training, by learning rate: {args.net}",
        claim="Test accuracy in %, each start at the rate that the selection images choose for it, after epochs "
        f"of {int(rows[0]['images']):,} images",
        figure="; ".join(said), command=script_command(), seed=args.seed,
        device=f"{processor()}, {torch.get_num_threads()} thread",
        tables=[
            ResultTable("Each start at its rate, best first", chosen),
            ResultTable("Every training, best first", rows),
        ],
        notes=[
            "Before: test accuracy without training, no statistics reset. Fitted: our closed form on 512 images "
            "without labels; copied: the same structure, its filters those of the largest weights; L1: torch-pruning's "
            "filters at the lowest ratio that meets the budget.",
            "The recipe of the long_training pages: batch 512, Nesterov SGD, a warm-up of a tenth, a cosine to "
            "nothing, half of the loss distilled from the baseline; each length is a whole schedule, and all see the "
            f"same batches. One seed; the standard error of an accuracy is {error:.2f} points, of a difference of two "
            "a little less than half a point.",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
