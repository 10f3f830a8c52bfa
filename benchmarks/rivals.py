"""Fronts of several tools on one network: same data, same recipe, same number of labelled images for all.

    python benchmarks/rivals.py --model ghostsearch:resnet20 --weights cifar_resnet20_jpeg.safetensors \\
        --data folder:cifar10 --validation-list cifar10-jpeg-val.txt --study results/mine --out results/rivals

Every model becomes one row of rivals.csv as soon as it is done; the same command goes on. `--tools`, `--train-images`,
`--epochs 0` make it small. ModelOpt (FastNAS) is run where nvidia-modelopt and torchprofile==0.0.4 are installed.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ghostsearch.choices import Ghost
from ghostsearch.files import write_text
from ghostsearch.measure.audit import random_architectures
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.latency import measure_latency
from ghostsearch.pareto import hypervolume
from ghostsearch.search.bench import Bench, open_bench, train_baseline
from ghostsearch.search.config import RunConfig
from ghostsearch.space import Architecture
from ghostsearch.tracing import copied

RATIOS = (0.15, 0.3, 0.45, 0.6, 0.75)
"""Pruning ratios of torch-pruning: from most of the MACs to a quarter."""
FASTNAS_MACS = (0.75, 0.6, 0.5, 0.4)
COLUMNS = (
    "tool", "point", "seed", "macs", "params", "macs_ratio", "latency_ratio", "before", "after", "test", "epochs",
    "train_images", "search_s", "train_s",
)  # fmt: skip
REFERENCE = (1.0, 1.05)
"""Hypervolume's reference: no accuracy at all, and 5 % above the plain model's cost."""
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
    )  # fmt: skip
    bench = open_bench(config)
    train_baseline(bench, args.out)
    file = args.out / "rivals.csv"
    done = {(r["tool"], r["point"], int(r["seed"])) for r in read(file)}
    for tool in args.tools.split(";"):
        for point, build in TOOLS[tool](bench, args):
            if (tool, point, args.seed) not in done:
                append(file, row(bench, tool, point, build, args))
                print(tool, point, flush=True)
    table = pd.read_csv(file)
    summary = pd.DataFrame(
        {
            "models": table.groupby("tool").size(),
            "least MACs": table.groupby("tool")["macs_ratio"].min(),
            "hypervolume, MACs": volumes(table, "macs_ratio", "after"),
            "hypervolume, latency": volumes(table, "latency_ratio", "after"),
            "hypervolume, MACs, no label": volumes(table, "macs_ratio", "before"),
            "CPU s of search": table.groupby("tool")["search_s"].sum(),
            "CPU s of training": table.groupby("tool")["train_s"].sum(),
        }
    )
    write_text(args.out / "rivals.md", summary.round(4).to_markdown() + "\n")
    print(summary.round(4).to_string())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ghostsearch:digits_cnn")
    parser.add_argument("--weights")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--validation-list")
    parser.add_argument("--space", default="ghost_width")
    parser.add_argument("--study", type=Path, help="a finished ghostsearch study of the same model: its front enters")
    parser.add_argument("--tools", default=";".join(TOOLS), help="names joined by semicolons")
    parser.add_argument("--train-images", type=int)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--baseline-epochs", type=int)
    parser.add_argument("--random", type=int, default=12, help="architectures of random search")
    parser.add_argument("--time-limit", type=float, default=4.0, help="seconds of timing a model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("rivals"))
    return parser.parse_args()


def row(bench: Bench, tool: str, point: str, build: Build, args: argparse.Namespace) -> dict[str, Any]:
    """Build a model, count and time it, score it before and after the common recipe."""
    started = time.process_time()
    model = build()
    search_s = time.process_time() - started
    cost = measure_cost(model, bench.example)
    latency = measure_latency(
        {"model": model}, bench.example, plain=bench.plain.module, time_limit_s=args.time_limit, seed=args.seed
    )["model"]
    before = bench.score(model, "validation", 0).value
    started = time.process_time()
    if args.epochs:
        bench.train(model, args.epochs)
    return {
        "tool": tool, "point": point, "seed": args.seed, "macs": cost.macs, "params": cost.params,
        "macs_ratio": cost.macs / bench.plain_cost.macs, "latency_ratio": latency.ratio, "before": before,
        "after": bench.score(model, "validation", args.epochs).value,
        "test": bench.score(model, "test", args.epochs).value, "epochs": args.epochs,
        "train_images": args.train_images or "all", "search_s": round(search_s, 1),
        "train_s": round(time.process_time() - started, 1),
    }  # fmt: skip


def ghostsearch_front(bench: Bench, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """The finalists of a study, converted anew, so that they get the common recipe and no more."""
    if args.study is None:
        raise SystemExit("--tools ghostsearch needs --study DIR")
    from ghostsearch.search.view import load_study

    for record in load_study(args.study).finalists:
        if record.digest != "plain":
            yield record.digest, partial(bench.convert, record.architecture)


def uniform_ghosts(bench: Bench, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """Every site a ghost with random weights, as the published code does it."""
    for choice in ("ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)"):
        yield choice, partial(random_ghosts, bench, choice, args.seed)


def random_ghosts(bench: Bench, choice: str, seed: int) -> nn.Module:
    from ghostsearch.blocks.table import build_block
    from ghostsearch.choices import parse_choice

    ghost = parse_choice(choice)
    assert isinstance(ghost, Ghost)
    torch.manual_seed(seed)
    return swapped(bench, lambda conv: build_block(conv, ghost))


def vega(bench: Bench, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """Vega's operator at random halves of the sites and at all of them."""
    for share in (0.25, 0.5, 0.75, 1.0):
        yield f"{share:g} of the sites", partial(vega_model, bench, share, args.seed)


def vega_model(bench: Bench, share: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    draw = random.Random(seed)
    paths = {s.path for s in bench.anatomy.sites if draw.random() < share or share == 1}
    return swapped(bench, VegaGhost, paths)


def swapped(bench: Bench, make: Callable[[nn.Conv2d], nn.Module], paths: set[str] | None = None) -> nn.Module:
    model = copied(bench.plain.module)
    for site in bench.anatomy.sites:
        if paths is None or site.path in paths:
            conv = model.get_submodule(site.path)
            assert isinstance(conv, nn.Conv2d)
            model.set_submodule(site.path, make(conv))
    return model


def pruning(importance: str, bench: Bench, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:  # noqa: ARG001
    """torch-pruning at several ratios, on the groups whose width can change."""
    for ratio in RATIOS:
        yield f"{importance} {ratio:g}", partial(pruned, bench, importance, ratio)


def pruned(bench: Bench, importance: str, ratio: float) -> nn.Module:
    import torch_pruning as tp

    model = copied(bench.plain.module).eval()
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
    pruner = tp.pruner.BasePruner(
        model, bench.example, importance=kinds[importance](), pruning_ratio=ratio, ignored_layers=ignored,
        global_pruning=importance == "Taylor", round_to=bench.space.width_multiple,
    )  # fmt: skip
    pruner.step()
    model.zero_grad(set_to_none=True)
    return model


def fastnas(bench: Bench, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """NVIDIA ModelOpt's FastNAS at several FLOPs budgets, channel divisor 8, scored on the selection split."""
    for share in FASTNAS_MACS:
        yield f"{share:g} of the MACs", partial(fastnas_model, bench, share, args)


def fastnas_model(bench: Bench, share: float, args: argparse.Namespace) -> nn.Module:
    import modelopt.torch.prune as mtp

    settings = {"nn.Conv2d": {"*": {"channel_divisor": 8}}, "nn.BatchNorm2d": {"*": {"feature_divisor": 8}}}
    model, _ = mtp.prune(
        model=copied(bench.plain.module), mode=[("fastnas", settings)], constraints={"flops": f"{100 * share:g}%"},
        dummy_input=bench.example,
        config={
            "data_loader": bench.data.train, "score_func": lambda m: bench.score(m, "validation", 0).value,
            "checkpoint": str(args.out / f"fastnas-{share:g}.pth"), "verbose": False,
            "collect_func": lambda batch: batch[0],
        },
    )  # fmt: skip
    return model


def random_search(bench: Bench, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """Random architectures of our space with our closed-form weights."""
    for architecture in random_architectures(bench.space, args.random, args.seed):
        yield architecture.digest, partial(bench.convert, architecture)


def uniform_inherited(bench: Bench, args: argparse.Namespace) -> Iterator[tuple[str, Build]]:  # noqa: ARG001
    """Every site the same ghost, every group the same width, with our closed-form weights."""
    texts = {t for options in (*bench.space.sites.values(), *bench.space.groups.values()) for t in options[1:]}
    for text in sorted(texts):
        architecture: Architecture = bench.space.uniform(text)
        yield text, partial(bench.convert, architecture)


TOOLS: dict[str, Callable[[Bench, argparse.Namespace], Iterator[tuple[str, Build]]]] = {
    "ghostsearch": ghostsearch_front,
    "uniform, inherited": uniform_inherited,
    "random search": random_search,
    "uniform ghost": uniform_ghosts,
    "Vega": vega,
    "L1": partial(pruning, "L1"),
    "group norm": partial(pruning, "group norm"),
    "Taylor": partial(pruning, "Taylor"),
    "FastNAS": fastnas,
}


def volumes(table: pd.DataFrame, axis: str, score: str) -> pd.Series:
    """Hypervolume of each tool's models on error and one cost axis."""
    return table.groupby("tool").apply(lambda t: hypervolume(list(zip(1 - t[score], t[axis], strict=True)), REFERENCE))


def read(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def append(file: Path, values: dict[str, Any]) -> None:
    rows = [*read(file), values]
    write_text(file, pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False))


if __name__ == "__main__":
    main()
