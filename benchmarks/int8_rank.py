"""Would the candidate table rank int8 networks better if it knew what int8 costs each single change?

    python benchmarks/int8_rank.py --net resnet20 --weights . --data folder:cifar10-jpeg

Random architectures are converted, fitted and quantised as `table_rank.py` converts and fits them, and so is every
single change of the table; what int8 adds to the divergence of a single change is added to the table's loss of it. This
is the best that an estimate of it could do. A run that was stopped goes on. The page is results/int8_rank_NET.md.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn

from benchmarks.networks import FLATTERED, compute_device
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rows import append_row, read_rows
from benchmarks.table_rank import SHARES, divergence, drawn, opened, summed
from benchmarks.table_rank import arguments as table_arguments
from ghostsearch.data.calibration import spread_batches
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.candidates import build_candidates, single_changes
from ghostsearch.study.divergence import Change
from ghostsearch.study.setup import Setup

IMAGES = 512
Losses = dict[tuple[str, str, str], float]


def main() -> None:
    args = table_arguments(__doc__, "runs/int8_rank")
    torch.set_num_threads(1)
    setup, draw = opened(args), random.Random(args.seed)
    table = build_candidates(setup, args.work)
    losses = {(r.kind, r.name, r.choice): r.divergence for r in table.itertuples(index=False) if not r.failed}
    judge = Judge(setup, args.work / "divergences.csv")
    judge("baseline", lambda: setup.baseline.module)
    drawn_ones = [drawn(setup.space, draw, SHARES[i % len(SHARES)]) for i in range(args.architectures)]
    for one in drawn_ones:
        judge(one.digest, lambda one=one: setup.convert(one))
    for change in single_changes(setup.space):
        one = change.architecture
        if (change.kind, change.name, change.choice) in losses:
            judge(one.digest, lambda one=one: setup.convert_quickly(one))
    publish(page(args, judge, losses, drawn_ones), args.out)


class Judge:
    """Mean KL divergence from the float baseline of a model's float and int8 form, kept in a file."""

    def __init__(self, setup: Setup, path: Path) -> None:
        self.setup, self.path = setup, path
        self.known = {r["digest"]: r for r in read_rows(path)}
        self.batches = spread_batches(setup.data.validation, IMAGES, size=64)
        with torch.inference_mode():
            self.wanted = [setup.baseline.module.eval()(x).log_softmax(1) for x, _ in self.batches]

    def __call__(self, key: str, make: Callable[[], nn.Module]) -> None:
        """Judge a model, if it is not known."""
        if key in self.known:
            return
        model = make().eval()
        found = {"float": model, "int8": self.setup.quantized(model)}
        row = {"digest": key} | {k: str(divergence(m, self.batches, self.wanted)) for k, m in found.items()}
        append_row(self.path, row)
        self.known[key] = row
        print(row, flush=True)

    def of(self, key: str, form: str) -> float:
        """What was found."""
        return float(self.known[key][form])


def page(args: argparse.Namespace, judge: Judge, losses: Losses, chosen: list[Architecture]) -> ResultPage:
    """Rank correlations with the int8 divergence of the architectures, with bootstrap intervals."""
    added = {}
    for key in losses:
        digest = Change(*key).architecture.digest
        added[key] = judge.of(digest, "int8") - judge.of(digest, "float")
    sums = {
        "the table as it is": losses,
        "what int8 adds to each change on top": {k: losses[k] + max(0.0, added[k]) for k in losses},
        "what int8 adds to each change alone": {k: max(0.0, added[k]) for k in losses},
    }
    guesses = {name: np.array([summed(a, of) for a in chosen]) for name, of in sums.items()}
    guesses["the architectures' own float divergence"] = np.array([judge.of(a.digest, "float") for a in chosen])
    real = np.array([judge.of(a.digest, "int8") for a in chosen])
    plain, known = list(guesses)[:2]
    picks = [np.random.default_rng(args.seed + i).integers(len(real), size=len(real)) for i in range(1000)]
    taus = {n: [float(kendalltau(g[p], real[p])[0]) for p in picks] for n, g in guesses.items()}
    rows = [{"ranked by": n, "τ": _with_interval(kendalltau(g, real)[0], taus[n])} for n, g in guesses.items()]
    gained = _with_interval(
        kendalltau(guesses[known], real)[0] - kendalltau(guesses[plain], real)[0],
        [a - b for a, b in zip(taus[known], taus[plain], strict=True)],
    )
    listed = [
        dict(zip(("kind", "name", "choice"), key, strict=True)) | {"loss in the table": loss, "int8 adds": added[key]}
        for key, loss in losses.items()
    ]
    return ResultPage(
        name=f"int8_rank_{args.net}", title=f"Does the candidate table need to know int8, {args.net}?",
        claim=f"What knowing int8's cost of each single change adds to the table's rank correlation with the int8 "
        f"divergence of {len(chosen)} refitted random architectures, {args.net}",
        figure=f"{gained} on {rows[0]['τ']}", command=script_command(),
        device=compute_device(), seed=args.seed,
        tables=[
            ResultTable("Kendall's τ with the int8 divergence of the architectures [95 %]", rows),
            ResultTable("Single changes, nats", listed),
        ],
        notes=[
            f"Divergences are means over {IMAGES} images of the selection split, from the float baseline; int8 of the "
            f"baseline alone has {judge.of('baseline', 'int8'):.4f}. Networks in int8 are those that a search on "
            "`onnxruntime:cpu:int8` scores.",
            FLATTERED,
        ],
    )  # fmt: skip


def _with_interval(value: float, resampled: list[float]) -> str:
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
