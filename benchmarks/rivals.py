"""Models of several tools on one network: same data, same recipe, same number of labelled images for all.

    python benchmarks/rivals.py --model ghostsearch:resnet20 --weights cifar_resnet20_jpeg.safetensors \\
        --data folder:cifar10-jpeg --validation-list cifar10-jpeg-val.txt --train-images 4000 --lr 0.01 \\
        --study search_resnet20 --out rivals_resnet20

Every model becomes one row of rivals.csv as soon as it is done; the same command goes on. `--time` then measures the
latency of all rows in one interleaved run, on a machine that should be quiet. FastNAS is run where nvidia-modelopt,
pulp and torchprofile==0.0.4 are installed. `rivals_page.py` makes the page.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from rows import append_row, read_rows
from torch import Tensor, nn

from ghostsearch.blocks.table import build_block
from ghostsearch.data.calibration import spread_batches
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text
from ghostsearch.graph.capture import copied
from ghostsearch.measure.audit import random_architectures
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import Ghost, parse_choice
from ghostsearch.study.baseline import trained_setup
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import load_study
from ghostsearch.study.setup import Setup, open_setup
from ghostsearch.study.solve import solve_study
from ghostsearch.study.watch import Watch
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.norm_statistics import recalibrate_batchnorm
from ghostsearch.training.evaluate import evaluate

RATIOS = (0.5, 0.75, 0.25)
"""Pruning ratios of torch-pruning on the widths that can change; 0.5 leaves about half the MACs."""
FASTNAS_MACS, FASTNAS_IMAGES = (0.5, 0.4, 0.75), 1000
"""Its budgets, and the images of the selection split that its score looks at."""
SOLVER_BUDGETS = (("macs", 0.5), ("macs", 0.35), ("macs", 0.28), ("latency", 0.85), ("latency", 0.7), ("macs", 0.7))
COLUMNS = (
    "tool", "point", "seed", "macs", "params", "macs_ratio", "latency_ratio", "before", "bn_reset", "after", "epochs",
    "train_images", "search_s", "train_s", "structure",
)  # fmt: skip
SCORE_IMAGES = 2000
"""Of the selection split, for the accuracy before any label."""
Build = Callable[[], nn.Module]


class VegaGhost(nn.Module):
    """Vega's ghost unit: a 1×1 primary, a 3×3 depthwise cheap operation, random weights. x: (N, C, H, W)"""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        half = -(-conv.out_channels // 2)
        self.channels = conv.out_channels
        self.primary = nn.Conv2d(conv.in_channels, half, 1, conv.stride, bias=False)
        self.cheap = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.primary(x)
        return torch.cat([y, self.cheap(y)], 1)[:, : self.channels]


def main() -> None:
    args = arguments()
    config = RunConfig(
        model=args.model, weights=args.weights, data=args.data, validation_list=args.validation_list, space=args.space,
        train_images=args.train_images, seed=args.seed, out=str(args.out), baseline_epochs=args.baseline_epochs,
        batch_size=128 if args.weights else 64, lr=args.lr,
    )  # fmt: skip
    bench = trained_setup(open_setup(config), Watch(args.out))
    file = args.out / "rivals.csv"
    if args.time:
        add_latencies(bench, file, args)
        return
    points = [[(tool, *made) for made in TOOLS[tool](bench, args)][: args.points] for tool in args.tools.split(";")]
    # The first point of every tool, at half the MACs, then the second of each: a run that is cut short still compares.
    for tool, point, build in (p for turn in zip_longest(*points) for p in turn if p):
        if not any(r["tool"] == tool and r["point"] == point and int(r["seed"]) == args.seed for r in read_rows(file)):
            append_row(file, dict.fromkeys(COLUMNS, "") | row(bench, tool, point, build, args))
            print(tool, point, read_rows(file)[-1]["after"], flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ghostsearch:digits_cnn")
    parser.add_argument("--weights")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--validation-list")
    parser.add_argument("--space", default="ghost_width")
    parser.add_argument(
        "--study", type=Path, nargs="+", default=[],
        help="finished ghostsearch studies of the same model: their fronts enter; 'solver only' asks the first",
    )  # fmt: skip
    parser.add_argument("--tools", default=";".join(TOOLS), help="names joined by semicolons")
    parser.add_argument("--points", type=int, default=6, help="models of a tool, at most")
    parser.add_argument("--train-images", type=int)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--baseline-epochs", type=int)
    parser.add_argument("--random", type=int, default=4, help="architectures of random search")
    parser.add_argument("--time", action="store_true", help="measure the latency of the rows that are there")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds of timing in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("rivals"))
    return parser.parse_args()


def row(bench: Setup, tool: str, point: str, build: Build, args: argparse.Namespace) -> dict[str, Any]:
    """Build a model, count it, score it before any label and after the common recipe; the test split is read once.

    `bn_reset` gives a rival the BatchNorm statistics of the calibration images, which ours have from the start.
    """
    started = time.process_time()
    model = build()
    search_s = time.process_time() - started
    cost = measure_cost(model, bench.example)
    images = spread_batches(bench.data.validation, SCORE_IMAGES)
    before = evaluate(model, images, bench.task)
    reset = copied(model)
    recalibrate_batchnorm(reset, bench.calibration or [])
    started, found = time.process_time(), shapes(model)
    if args.epochs:
        bench.train(model, args.epochs)
    train_s = time.process_time() - started
    return {
        "tool": tool, "point": point, "seed": args.seed, "macs": cost.macs, "params": cost.params,
        "macs_ratio": cost.macs / bench.baseline_cost.macs, "before": before,
        "bn_reset": evaluate(reset, images, bench.task),
        "after": bench.score(model, "test", args.epochs).value, "epochs": args.epochs,
        "train_images": args.train_images or "all", "search_s": round(search_s, 1), "train_s": round(train_s, 1),
        "structure": getattr(model, "structure", "") or json.dumps(found),
    }  # fmt: skip


def add_latencies(bench: Setup, file: Path, args: argparse.Namespace) -> None:
    """Time every row's structure beside the baseline, all in turns; weights do not matter for that."""
    rows, names = read_rows(file), [f"{i}" for i in range(len(read_rows(file)))]
    models = {name: rebuilt(bench, r) for name, r in zip(names, rows, strict=True)}
    timed = measure_latency(
        models,
        bench.example,
        baseline=bench.baseline.module,
        setting=Setting(time_limit=args.time_limit, seed=args.seed),
    )
    for name, values in zip(names, rows, strict=True):
        values["latency_ratio"] = str(timed[name].ratio)
    baseline_ms = 1000 * median(timed[names[0]].baseline_times_s)
    write_text(file, pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False))
    text = {"device": timed[names[0]].device, "forwards": len(timed[names[0]].times_s), "baseline_ms": baseline_ms}
    write_text(args.out / "timing.json", json.dumps(text))
    print(pd.DataFrame(rows)[["tool", "point", "macs_ratio", "latency_ratio", "after"]].to_string())


def rebuilt(bench: Setup, row: dict[str, str]) -> nn.Module:
    """A row's structure with any weights."""
    found = json.loads(row["structure"])
    if "sites" in found or "groups" in found:
        architecture = Architecture.from_dict(found)
        return convert(
            bench.baseline.module, architecture, example=bench.example, anatomy=bench.anatomy,
            width_multiple=bench.space.width_multiple,
        )  # fmt: skip
    model = copied(bench.baseline.module).eval()
    if row["tool"] == "uniform ghost":
        return random_ghosts(bench, row["point"], int(row["seed"])).eval()
    if row["tool"] == "Vega":
        return vega_model(bench, float(row["point"].split()[0]), int(row["seed"])).eval()
    for path, (outputs, inputs) in found.items():
        old: Any = model.get_submodule(path)
        if isinstance(old, nn.Conv2d):
            new: nn.Module = nn.Conv2d(
                inputs, outputs, old.kernel_size, old.stride, old.padding, bias=old.bias is not None  # type: ignore[arg-type]
            )  # fmt: skip
        else:
            new = nn.Linear(inputs, outputs) if isinstance(old, nn.Linear) else nn.BatchNorm2d(outputs)
        model.set_submodule(path, new.eval())
    return model


def shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of every layer that has weights, by path."""
    return {
        path: (m.weight.shape[0], m.weight.shape[1] if m.weight.ndim > 1 else 0)
        for path, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    }


def converted(bench: Setup, architecture: Architecture) -> nn.Module:
    """Our conversion in closed form; the architecture goes along for the row."""
    model = bench.convert(architecture)
    model.structure = json.dumps(architecture.to_dict())  # type: ignore[assignment]
    return model


def ghostsearch_front(bench: Setup, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """The finalists of the studies, converted anew, so that they get the common recipe and no more; half the MACs
    first.
    """
    if not args.study:
        raise SystemExit("--tools ghostsearch needs --study DIR")
    views = [load_study(study) for study in args.study]
    found = [r for v in views for r in v.finalists if r.digest != "baseline" and r.cost]
    for record in sorted(found, key=lambda r: abs(r.cost.macs / bench.baseline_cost.macs - 0.5)):  # type: ignore[union-attr]
        yield record.digest, partial(converted, bench, record.architecture)


def solver_only(bench: Setup, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """What the candidate table of a study answers for several budgets: no trial at all before these."""
    if not args.study:
        raise SystemExit("--tools 'solver only' needs --study DIR")
    for axis, share in SOLVER_BUDGETS:
        try:
            answer = solve_study(args.study[0], {axis: f"{100 * share:g}%"}, count=1)[0]
        except GhostsearchError as error:
            print(f"solver only, {share:g} of the {axis}: {error}", flush=True)
            continue
        yield f"{share:g} of the {axis.replace('macs', 'MACs')}", partial(converted, bench, answer.architecture)


def uniform_ghosts(bench: Setup, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """Every site a ghost with random weights, as the published code does it."""
    for choice in ("ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)"):
        yield choice, partial(random_ghosts, bench, choice, args.seed)


def random_ghosts(bench: Setup, choice: str, seed: int) -> nn.Module:
    """Ghost convolutions with fresh weights at every site."""
    ghost = parse_choice(choice)
    assert isinstance(ghost, Ghost)
    torch.manual_seed(seed)
    return swapped(bench, lambda conv: build_block(conv, ghost))


def vega(bench: Setup, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """Vega's operator at random halves of the sites and at all of them."""
    for share in (0.6, 1.0, 0.3):
        yield f"{share:g} of the sites", partial(vega_model, bench, share, args.seed)


def vega_model(bench: Setup, share: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    draw = random.Random(seed)
    paths = {s.path for s in bench.anatomy.sites if draw.random() < share or share == 1}
    return swapped(bench, VegaGhost, paths)


def swapped(bench: Setup, make: Callable[[nn.Conv2d], nn.Module], paths: set[str] | None = None) -> nn.Module:
    model = copied(bench.baseline.module)
    for site in bench.anatomy.sites:
        if paths is None or site.path in paths:
            conv = model.get_submodule(site.path)
            assert isinstance(conv, nn.Conv2d)
            model.set_submodule(site.path, make(conv))
    return model


def pruning(importance: str, bench: Setup, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:  # noqa: ARG001
    """torch-pruning at several ratios, on the groups whose width can change."""
    for ratio in RATIOS:
        yield f"{importance} {ratio:g}", partial(pruned, bench, importance, ratio)


def pruned(bench: Setup, importance: str, ratio: float, **how: Any) -> nn.Module:
    """torch-pruning on the channels that can change; `how` goes to its pruner."""
    import torch_pruning as tp

    model = copied(bench.baseline.module).eval()
    free = {name for g in bench.anatomy.groups if not g.fixed for name in g.members}
    ignored = [m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and name not in free]
    kinds = {
        "L1": lambda: tp.importance.MagnitudeImportance(p=1),
        "group norm": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "Taylor": tp.importance.GroupTaylorImportance,
    }
    if importance == "Taylor":
        batch, target = next(iter(bench.data.train))
        bench.task.loss(model(batch), target).backward()
    how = {"global_pruning": importance == "Taylor", "round_to": bench.space.width_multiple} | how
    pruner = tp.pruner.BasePruner(
        model, bench.example, importance=kinds[importance](), pruning_ratio=ratio, ignored_layers=ignored, **how
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    return model


def fastnas(bench: Setup, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """NVIDIA ModelOpt's FastNAS at several FLOPs budgets, channel divisor 8, scored on the selection split."""
    for share in FASTNAS_MACS:
        yield f"{share:g} of the MACs", partial(fastnas_model, bench, share, args)


def fastnas_model(bench: Setup, share: float, args: argparse.Namespace) -> nn.Module:
    import modelopt.torch.prune as mtp

    images = spread_batches(bench.data.validation, FASTNAS_IMAGES)
    settings = {"nn.Conv2d": {"*": {"channel_divisor": 8}}, "nn.BatchNorm2d": {"*": {"feature_divisor": 8}}}
    model, _ = mtp.prune(
        model=copied(bench.baseline.module), mode=[("fastnas", settings)], constraints={"flops": f"{100 * share:g}%"},
        dummy_input=bench.example,
        config={
            "data_loader": bench.data.train, "score_func": lambda m: evaluate(m, images, bench.task),
            "checkpoint": str(args.out / "fastnas.pth"), "verbose": False, "collect_func": lambda batch: batch[0],
        },
    )  # fmt: skip
    return model


def random_search(bench: Setup, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """Random architectures of our space with our closed-form weights; the nearest to half the MACs first."""
    found = random_architectures(bench.space, args.random, args.seed)
    for architecture in sorted(found, key=lambda a: abs(bench.cost(a).macs / bench.baseline_cost.macs - 0.5)):
        yield architecture.digest, partial(converted, bench, architecture)


TOOLS: dict[str, Callable[[Setup, argparse.Namespace], Iterator[tuple[str, Build]]]] = {
    "ghostsearch": ghostsearch_front,
    "solver only": solver_only,
    "random search": random_search,
    "uniform ghost": uniform_ghosts,
    "Vega": vega,
    "L1": partial(pruning, "L1"),
    "group norm": partial(pruning, "group norm"),
    "Taylor": partial(pruning, "Taylor"),
    "FastNAS": fastnas,
}


if __name__ == "__main__":
    main()
