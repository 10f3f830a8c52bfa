"""Does the candidate table rank architectures? Its sums against the real divergence of refitted random architectures.

    python benchmarks/table_rank.py --net resnet20 --weights . --data folder:cifar10-jpeg
    python benchmarks/table_rank.py --net lite0 --data imagenet-sample

Each architecture is drawn at random, converted and fitted in closed form from its first change to its end (so not as
the table's single changes are), and its KL divergence from the baseline taken on IMAGES images of the validation split.
So are the integer program's own answers for each family alone and for all together: these differ most in how many
changes they are made of, and say how the divergences of single changes add up. A run that was stopped goes on; more
rows make the interval narrower. The page is results/table_rank_NET.md.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import nn

from benchmarks.families import FAMILIES, family_space
from benchmarks.imagenet_sample import open_sample
from benchmarks.networks import FLATTERED, compute_device
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rows import append_row, read_rows
from benchmarks.solved import solved_for_macs
from ghostsearch.data.calibration import spread_batches
from ghostsearch.graph.capture import moved
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.study.candidates import build_candidates
from ghostsearch.study.config import RunConfig
from ghostsearch.study.setup import Setup, open_setup

IMAGES = 256
SHARES = (0.1, 0.3, 0.5, 0.8)
"""Of the sites and groups that an architecture changes, one of these shares, drawn."""
BUDGETS = (0.85, 0.7, 0.55)
"""Shares of the baseline's MACs that the integer program is asked for."""
MIDDLE = (0.4, 0.7)
"""Shares of the MACs between which random architectures are ranked once more: there their cost tells less."""
POWERS = (0.5, 0.75, 1.0, 1.5)
"""Of single divergences d, sums Σ dᵖ to the power 1/p; 1 is what the product adds up."""


def main() -> None:
    args = arguments()
    setup = opened(args)
    started = time.process_time()
    table = build_candidates(setup, args.work, lambda done, total, text: print(f"{done}/{total} {text}", flush=True))
    table_s = time.process_time() - started
    loss = {(r.kind, r.name, r.choice): r.divergence for r in table.itertuples(index=False)}
    batches = [moved(batch, "cpu") for batch in spread_batches(setup.data.validation, IMAGES, size=32)]
    with torch.inference_mode():
        wanted = [setup.baseline.module.eval()(x).log_softmax(1) for x, _ in batches]
    path = args.work / "architectures.csv"
    known = {row["digest"]: row for row in read_rows(path)}
    rows = []
    for kind, architecture in (*random_ones(setup, args), *solvers(setup, args.work)):
        if architecture.digest not in known:
            began = time.process_time()
            model = setup.convert(architecture)
            row = {
                "digest": architecture.digest, "changes": len(architecture.sites) + len(architecture.groups),
                "macs": setup.cost(architecture).macs / setup.baseline_cost.macs,
                "divergence": divergence(model, batches, wanted), "cpu_s": round(time.process_time() - began, 1),
            }  # fmt: skip
            append_row(path, row)
            known[architecture.digest] = {k: str(v) for k, v in row.items()}
            print(kind, row, flush=True)
        sums = {f"sum {p:g}": summed(architecture, loss, p) for p in POWERS}
        rows.append({"kind": kind, **known[architecture.digest], **{k: str(v) for k, v in sums.items()}})
    publish(page(args, setup, rows, table_s), args.out)


def random_ones(setup: Setup, args: argparse.Namespace) -> Iterator[tuple[str, Architecture]]:
    """Architectures at random, as many as asked for."""
    draw = random.Random(args.seed)
    for number in range(args.architectures):
        yield "random", drawn(setup.space, draw, SHARES[number % len(SHARES)])


def solvers(setup: Setup, folder: Path) -> Iterator[tuple[str, Architecture]]:
    """The integer program's answers of each family alone and of all together at each budget of MACs, each once."""
    seen = set()
    for family, begins in FAMILIES.items():
        narrow = replace(setup, space=family_space(setup.space, begins))
        if not narrow.space.sites and not narrow.space.groups:
            continue
        for share in BUDGETS:
            found = solved_for_macs(narrow, folder, share)
            if found is not None and found.digest not in seen:
                seen.add(found.digest)
                yield family, found


def opened(args: argparse.Namespace) -> Setup:
    """The setup of a network."""
    if args.net == "lite0":
        return open_sample(Path(args.data), args.space, seed=args.seed)
    return open_setup(RunConfig(
        model=f"ghostsearch:{args.net}", weights=str(args.weights / f"cifar_{args.net}_jpeg.safetensors"),
        data=args.data, validation_list=args.validation_list, space=args.space, train_images=2000,
        calibration_images=args.images, seed=args.seed, out=str(args.work),
    ))  # fmt: skip


def drawn(space: SearchSpace, draw: random.Random, share: float) -> Architecture:
    """An architecture that changes about a share of the sites and groups."""

    def some(options_of: Any) -> dict[str, str]:
        return {name: draw.choice(options[1:]) for name, options in options_of.items() if draw.random() < share}

    return space.architecture(some(space.sites), some(space.groups))


def summed(architecture: Architecture, loss: dict[tuple[str, str, str], float], power: float = 1.0) -> float:
    """What the table says, of divergences that are added as powers."""
    single = [loss["site", name, str(choice)] for name, choice in architecture.sites.items()]
    single += [loss["group", name, str(w)] for name, w in architecture.groups.items()]
    return float(sum(max(x, 0.0) ** power for x in single) ** (1 / power))


def divergence(model: nn.Module, batches: Sequence[Any], wanted: Sequence[torch.Tensor]) -> float:
    """Mean KL divergence of the model's class probabilities from the baseline's."""
    total = images = 0.0
    with torch.inference_mode():
        for (x, _), logs in zip(batches, wanted, strict=True):
            total += float(F.kl_div(model.eval()(x).log_softmax(1), logs, log_target=True, reduction="sum"))
            images += len(x)
    return total / images


def ranks(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Kendall's τ of the table's sums and of MACs alone with the real divergence, where MACs differ much and little."""
    low, high = MIDDLE
    groups = {
        "random": [r for r in rows if r["kind"] == "random"],
        f"random, {low:g} to {high:g} of the MACs": [
            r for r in rows if r["kind"] == "random" and low <= float(r["macs"]) <= high
        ],
        "the solver's": [r for r in rows if r["kind"] != "random"],
    }
    return [
        {"architectures": name, "count": len(some)}
        | {said: f"{kendalltau([sign * float(r[c]) for r in some], [float(r['divergence']) for r in some])[0]:.3f}"
           for said, c, sign in (("table: τ", "sum 1", 1), ("MACs alone: τ", "macs", -1))}
        for name, some in groups.items()
    ]  # fmt: skip


def adding(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """How well each kind of sum gives the real divergence of random and of solved architectures."""
    found = []
    for power in POWERS:
        row: dict[str, Any] = {"sum of divergences to the power": power}
        for name, some in (
            ("random", [r for r in rows if r["kind"] == "random"]),
            ("solver's", [r for r in rows if r["kind"] != "random"]),
        ):
            sums, real = (np.array([float(r[c]) for r in some]) for c in (f"sum {power:g}", "divergence"))
            factor = np.log(sums / real)
            row |= {
                f"{name}: τ": f"{kendalltau(sums, real)[0]:.3f}",
                f"{name}: sum over divergence": f"{np.exp(np.median(factor)):.2f}",
                f"{name}: factor of error": f"{np.exp(factor.std()):.2f}",
            }
        found.append(row)
    return found


def page(args: argparse.Namespace, setup: Setup, rows: list[dict[str, str]], table_s: float) -> ResultPage:
    """Kendall's τ with a bootstrap interval, how single divergences add up, and every architecture."""
    some = [r for r in rows if r["kind"] == "random"]
    ours, real = (np.array([float(r[c]) for r in some]) for c in ("sum 1", "divergence"))
    tau = kendalltau(ours, real)[0]
    generator = np.random.default_rng(args.seed)
    picks = [generator.integers(len(ours), size=len(ours)) for _ in range(1000)]
    low, high = np.nanpercentile([kendalltau(ours[p], real[p])[0] for p in picks], [2.5, 97.5])
    numbers = [{k: r[k] if k in ("digest", "kind") else f"{float(r[k]):.4g}" for k in r} for r in rows]
    choices = sum(len(o) - 1 for o in [*setup.space.sites.values(), *setup.space.groups.values()])
    timing = f"; the table took {table_s:.0f} CPU seconds" if table_s > 5 else ""
    return ResultPage(
        name=f"table_rank_{args.net}", title=f"Does the candidate table rank architectures of {args.net}?",
        claim=f"Rank correlation (Kendall's τ) of the candidate table's sums with the real divergence of {len(some)} "
        f"refitted random architectures, {args.net}",
        figure=f"{tau:.3f} (95 % interval {low:.3f} to {high:.3f}; aim 0.85)", command=script_command(),
        device=compute_device(), seed=args.seed, tables=[
            ResultTable("The table's ranks, and those of MACs alone", ranks(rows)),
            ResultTable("How single divergences add up", adding(rows)), ResultTable("Architectures", numbers),
        ],
        notes=[
            f"{choices} candidates in the space `{args.space}`{timing}. The architectures are fitted to "
            f"{sum(len(b) for b in setup.calibration or [])} images from the first change to the end, the table's "
            "single changes with three layers behind them; KL divergence on images of the selection split.",
            "The aim is for random architectures, among which MACs alone rank nearly as well or better; the solver's "
            "own answers, which a search begins with, are what the table is for.",
            *([FLATTERED] if args.net.startswith("resnet") else []),
            "The solver's: the integer program's answers of each family (its kind) at "
            f"{', '.join(f'{b:g}' for b in BUDGETS)} of the MACs. Sum over divergence: the median; factor of error: e "
            "to the deviation of the logarithms, what one may be wrong by once the median is known.",
        ],
    )  # fmt: skip


def arguments(about: str | None = __doc__, work: str = "runs/table_rank") -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=("resnet20", "resnet56", "lite0"), default="resnet20")
    parser.add_argument("--weights", type=Path, default=Path())
    parser.add_argument("--data", required=True)
    parser.add_argument("--validation-list")
    parser.add_argument("--space", default="families")
    parser.add_argument("--images", type=int, default=128, help="calibration images of a CIFAR network")
    parser.add_argument("--architectures", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(work), help="folder of the table and the rows")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
