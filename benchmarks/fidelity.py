"""How well each rung ranks architectures: Kendall's tau with longer training, beside MACs, params and the table's sum.

    python benchmarks/fidelity.py --count 12 --longest 20 --work fidelity --out results

One row per architecture and rung in fidelity.csv under `--work`; the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau
from torch import nn

from benchmarks.networks import FLATTERED, NEAR, compute_device, random_near, study_arguments
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.files import write_text
from ghostsearch.graph.capture import copied
from ghostsearch.measure.audit import random_architectures
from ghostsearch.measure.cost_table import encode
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.baseline import trained_setup
from ghostsearch.study.candidates import build_candidates, losses_of
from ghostsearch.study.config import RunConfig
from ghostsearch.study.setup import Setup, open_setup
from ghostsearch.study.watch import Watch


def main() -> None:
    args = arguments()
    config = RunConfig(
        model=args.model, weights=args.weights, data=args.data, validation_list=args.validation_list, space=args.space,
        train_images=args.train_images, seed=args.seed, out=str(args.work), baseline_epochs=args.baseline_epochs,
        calibration_images=args.calibration_images, train_precision=args.train_precision,
    )  # fmt: skip
    bench = trained_setup(open_setup(config), Watch(args.work))
    architectures = drawn(bench, args)
    file = args.work / "fidelity.csv"
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["digest", "epochs", "score"])
    for architecture in architectures:
        known = set(table[table.digest == architecture.digest].epochs)
        missing = [e for e in (*args.rungs, args.longest) if e not in known]
        inherited = bench.convert(architecture) if missing else None
        for epochs in missing:
            assert inherited is not None
            table.loc[len(table)] = [architecture.digest, epochs, scored(bench, inherited, epochs)]
            write_text(file, table.to_csv(index=False))
            print(architecture.digest, epochs, table.score.iloc[-1], flush=True)
    result = taus(bench, architectures, table, args)
    print(result.round(3).to_string(index=False))
    costs = {a.digest: bench.cost(a).macs / bench.baseline_cost.macs for a in architectures}
    scores = table.pivot(index="digest", columns="epochs", values="score").round(4)
    rows = [
        {"architecture": d, "share of MACs": round(costs[d], 3), **{f"{e} epochs": v for e, v in r.items()}}
        for d, r in scores.iterrows()
    ]
    closed = float(result.iloc[0, 1])
    images = len(bench.data.validation.dataset)  # type: ignore[attr-defined]
    page = ResultPage(
        name=args.name, title=f"How well each rung ranks architectures: {args.model}",
        claim=f"Kendall's tau of the closed form's score with {args.longest} epochs, {args.model}, "
        f"{args.count} random architectures{'' if args.macs is None else f' at {args.macs:g} ± {NEAR:g} of the MACs'}",
        figure=f"{closed:.2f}",
        command=script_command(),
        device=compute_device(), seed=args.seed,
        tables=[
            ResultTable("Rank correlation with the longest training", result.round(3).to_dict("records")),
            ResultTable("Scores on the selection split", rows),
        ],
        notes=[
            "Each score is of a whole schedule of so many epochs from the closed form, as in a trial; one seed; an "
            f"epoch has {config.train_images or 'all'} training images, {config.train_precision} precision.",
            f"The scores after {args.longest} epochs spread over {1000 * float(np.ptp(scores[args.longest])):.0f} "
            f"thousandths, and one image of the selection split is {1000 / images:.1f}: where "
            "they lie close, chance orders them.",
            *([FLATTERED] if args.weights else []),
        ],
    )  # fmt: skip
    publish(page, args.out)


def drawn(bench: Setup, args: argparse.Namespace) -> list[Architecture]:
    """Random architectures of the space, all near one share of the MACs where the user asks for that."""
    if args.macs is None:
        return random_architectures(bench.space, args.count, args.seed)
    return random_near(bench, args.count, args.macs, args.seed)


def scored(bench: Setup, inherited: nn.Module, epochs: int) -> float:
    """Score on the selection split after so many epochs from the closed form, each a whole schedule as in a trial."""
    model = copied(inherited)
    if epochs:
        bench.train(model, epochs)
    return bench.score(model, "validation", epochs).value


def taus(
    bench: Setup, architectures: Sequence[Architecture], table: pd.DataFrame, args: argparse.Namespace
) -> pd.DataFrame:
    """Each predictor's rank correlation with the score after the longest training."""
    scores = table.pivot(index="digest", columns="epochs", values="score").loc[[a.digest for a in architectures]]
    losses = losses_of(build_candidates(bench, args.work), bench.space)
    codes = encode(bench.space, architectures)
    predictors = {f"{epochs} epochs": scores[epochs].to_numpy() for epochs in args.rungs}
    predictors["candidate table (sum of divergences)"] = [
        -sum(losses[i][option] for i, option in enumerate(code)) for code in codes
    ]
    predictors["MACs"] = [bench.cost(a).macs for a in architectures]
    predictors["params"] = [bench.cost(a).params for a in architectures]
    truth = scores[args.longest].to_numpy()
    rows = [(name, kendalltau(values, truth).statistic, len(truth)) for name, values in predictors.items()]
    return pd.DataFrame(rows, columns=["predictor", f"tau with {args.longest} epochs", "architectures"])


def arguments() -> argparse.Namespace:
    parser = study_arguments(__doc__)
    parser.add_argument("--baseline-epochs", type=int)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--macs", type=float, help="share of the baseline's MACs that all are near to (default: any)")
    parser.add_argument("--rungs", type=int, nargs="+", default=[0, 1, 3])
    parser.add_argument("--longest", type=int, default=10)
    parser.add_argument("--calibration-images", type=int, default=256)
    parser.add_argument(
        "--train-precision", default="auto", help="bf16-mixed: faster for dense networks on processors that have it"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="fidelity", help="the page's name")
    parser.add_argument("--work", type=Path, default=Path("fidelity"), help="where the rows are kept")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
