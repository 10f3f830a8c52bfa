"""Would smaller kernels or a re-parameterised ghost pay as choices? Closed-form loss and measured time by layer.

    python benchmarks/other_blocks.py --data cifar10 --validation-list val.txt --weights resnet20.safetensors

`kernel 1` is a 3×3 convolution fitted with its middle tap alone. `1×1 first` is the re-parameterised ghost with
addition (RepGhost, Chen et al. 2022, section 3) in the place of a convolution: y = P(x) + D(P(x)), P 1×1 and D
depthwise, which fuse into a 1×1 and a depthwise 3×3; the product's `separable(multiplier=1)` has them the other way
round. Both are fitted by least squares to the baseline's values, as the product's own choices are, nothing behind them
refitted. The integer program then says what each adds to a space without separable convolutions and to the whole one.
`kernel 3 for 5` takes the time of networks with depthwise 5×5 convolutions when all of them become 3×3.
`--only time` takes the latencies alone, on a machine that should be quiet; what is done is kept in --work.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import FLATTERED, network_arguments, opened
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rows import append_row, read_rows
from ghostsearch.fits.least_squares import patches
from ghostsearch.fits.problem import FitSettings
from ghostsearch.machine import processor
from ghostsearch.measure.latency import measure_pairs
from ghostsearch.measure.layers import TimedLayer, timed_layers
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import example_input, load_model
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice_text import parse_layer_choice
from ghostsearch.space.costs import passes_channels
from ghostsearch.study.interactions import decompose
from ghostsearch.study.program import Exclusion, Problem, Program
from ghostsearch.study.setup import Setup
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.convert import convert

BEFORE = ("ghost(ratio=2, kernel=3)", "lowrank(rank=0.5)", "skip")
SEPARABLE = tuple(f"separable(multiplier={m})" for m in (1, 2, 3))
OURS, NEW = (*BEFORE, *SEPARABLE), ("kernel 1", "1×1 first")
SPACES = {
    "without separable": BEFORE, "without separable, kernel 1": (*BEFORE, NEW[0]),
    "without separable, 1×1 first": (*BEFORE, NEW[1]), "whole": OURS, "whole, kernel 1": (*OURS, NEW[0]),
    "whole, 1×1 first": (*OURS, NEW[1]),
}  # fmt: skip
WITH_5X5 = ("torchvision:efficientnet_b0", "torchvision:mobilenet_v3_large", "torchvision:mnasnet1_0")
DEVICES = {"float": "onnxruntime:cpu", "int8": "onnxruntime:cpu:int8"}
SHARES = (0.85, 0.7)
ROUNDS, RIDGE = 12, 1e-3
JUDGED = 8
"""Batches of the selection images that divergence is taken on."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    folder = args.work / args.net
    folder.mkdir(parents=True, exist_ok=True)
    setup = opened(args)
    layers = [x for x in timed_layers(setup.baseline.module, setup.example, setup.anatomy) if x.path in sites(setup)]
    if args.only in (None, "loss"):
        losses(setup, folder)
    if args.only in (None, "time"):
        times(layers, folder, args.time_limit)
        smaller_kernels(folder, args.time_limit / 4)
    if args.only in (None, "page"):
        publish(page(args, setup, layers, folder), args.out)


def sites(setup: Setup) -> list[str]:
    """The 3×3 convolutions that are sites."""
    return [s.path for s in setup.anatomy.sites if s.kernel == (3, 3)]


def losses(setup: Setup, folder: Path) -> None:
    """Divergence from the baseline's outputs of every single change, as far as it is not there."""
    known = {(r["site"], r["choice"]) for r in read_rows(folder / "losses.csv")}
    model, ends = setup.baseline.module, {b.end for b in setup.anatomy.branches}
    images = [x for (x, _), _ in zip(setup.data.validation, range(JUDGED), strict=False)]
    with torch.inference_mode():
        wanted = [model(x).log_softmax(1) for x in images]
    statistics = BaselineStatistics(model, setup.calibration or [], FitSettings(reach=0))
    for path in sites(setup):
        for choice in (*OURS, *NEW):
            if (path, choice) in known or (choice == "skip" and path not in ends):
                continue
            if choice in OURS:
                changed = convert(
                    model, Architecture.of({path: choice}), example=setup.example, anatomy=setup.anatomy,
                    statistics=statistics, settings=FitSettings(reach=0),
                )  # fmt: skip
            else:
                changed = copy.deepcopy(model)
                changed.set_submodule(path, fitted(model, path, choice, setup.calibration or []))
            row = {"site": path, "choice": choice, "divergence": divergence(changed, images, wanted)}
            append_row(folder / "losses.csv", row)
            print(row, flush=True)


def block(conv: Any, choice: str) -> nn.Module:
    """The new block of a 3×3 convolution, with fresh weights and a bias."""
    c, n, stride = conv.in_channels, conv.out_channels, conv.stride
    if choice == "kernel 1":
        return nn.Conv2d(c, n, 1, stride)
    return nn.Sequential(nn.Conv2d(c, n, 1, bias=False), nn.Conv2d(n, n, 3, stride, 1, groups=n))


def fitted(model: nn.Module, path: str, choice: str, batches: list[Tensor]) -> nn.Module:
    """The new block with the weights that come nearest to the convolution's outputs on images, means exact."""
    conv: Any = model.get_submodule(path)
    mean, covariance = moments(model, conv, batches)
    wanted = conv.weight.detach().double().flatten(1)
    covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(mean))
    made: Any = block(conv, choice)
    if choice == "kernel 1":
        middle = torch.arange(conv.in_channels) * 9 + 4
        weight = torch.linalg.solve(covariance[middle][:, middle], covariance[middle] @ wanted.T).T
        whole = torch.zeros_like(wanted)
        whole[:, middle] = weight
        made.weight.data = weight.float()[:, :, None, None]
    else:
        channels, taps = outer_product(wanted.reshape(len(wanted), -1, 9), covariance)
        whole = (channels[:, :, None] * taps[:, None]).flatten(1)
        made[0].weight.data = channels.float()[:, :, None, None]
        made[1].weight.data = taps.float().reshape(-1, 1, 3, 3)
    last = made if choice == "kernel 1" else made[1]
    last.bias.data = ((wanted - whole) @ mean).float()
    return made.eval()


def moments(model: nn.Module, conv: Any, batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what a convolution's filters read: (f,), (f, f)."""
    sums: list[Any] = [0, 0.0, 0.0]

    def add(_: Any, args: tuple[Tensor, ...]) -> None:
        columns = patches(F.pad(args[0], (1, 1, 1, 1)), conv)[0].double()
        sums[0], sums[1] = sums[0] + columns.shape[1], sums[1] + columns.sum(1)
        sums[2] = sums[2] + columns @ columns.T

    handle = conv.register_forward_pre_hook(add)
    with torch.no_grad():
        for batch in batches:
            model(batch)
    handle.remove()
    mean = sums[1] / sums[0]
    return mean, sums[2] / sums[0] - torch.outer(mean, mean)


def outer_product(wanted: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Per filter the (C,) and (9,) whose outer product predicts best, by alternating least squares: (n, C), (n, 9)."""
    n, c, _ = wanted.shape
    four = covariance.reshape(c, 9, c, 9)
    crossed = (wanted.flatten(1) @ covariance).reshape(n, c, 9)
    u, s, v = torch.linalg.svd(wanted)
    channels, taps = u[:, :, 0] * s[:, :1], v[:, 0]
    for _ in range(ROUNDS):
        matrix = torch.einsum("nk,ckdl,nl->ncd", taps, four, taps)
        channels = torch.linalg.solve(matrix, torch.einsum("nck,nk->nc", crossed, taps))
        matrix = torch.einsum("nc,ckdl,nd->nkl", channels, four, channels)
        taps = torch.linalg.solve(matrix, torch.einsum("nck,nc->nk", crossed, channels))
    return channels, taps


def divergence(changed: nn.Module, images: list[Tensor], wanted: list[Tensor]) -> float:
    """Mean Kullback-Leibler divergence from the baseline's log probabilities `wanted`, nats."""
    with torch.inference_mode():
        found = [
            F.kl_div(changed.eval()(x).log_softmax(1), y, log_target=True, reduction="none")
            for x, y in zip(images, wanted, strict=True)
        ]
    return float(torch.cat(found).sum(1).mean())


def times(layers: list[TimedLayer], folder: Path, seconds: float) -> None:
    """Each kind of layer under each choice beside itself unchanged, with its norm and ReLU, on both devices."""
    (folder / "times.csv").unlink(missing_ok=True)
    kinds = list({x.name: x for x in layers}.values())
    for precision, device in DEVICES.items():
        for layer in kinds:
            pairs = {name: (model, x) for name, model, x in stacks(layer)}
            found = measure_pairs(
                pairs, pairs["keep"], device=device, setting=Setting(time_limit=seconds / len(kinds) / len(DEVICES))
            )
            for choice, latency in found.items():
                row = {"precision": precision, "layer": layer.name, "choice": choice, "us": 1e6 * latency.median_s}
                append_row(folder / "times.csv", row | {"ratio": latency.ratio})


def stacks(layer: TimedLayer) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """The layer with what follows it, under each choice."""
    c, n = layer.inputs.total, layer.outputs.total
    for choice in ("keep", *(c for c in OURS if c != "skip")):
        yield (choice, *layer.tiny(layer.cell(parse_layer_choice(choice), c, n), 1))
    plain, x = layer.tiny(layer.cell(parse_layer_choice("keep"), c, n), 1)
    for choice in NEW:
        changed = copy.deepcopy(plain)
        changed.set_submodule("0", block(layer.module, choice))
        yield choice, changed.eval(), x


def smaller_kernels(folder: Path, seconds: float) -> None:
    """Networks whose depthwise 5×5 convolutions all become 3×3, beside themselves, on both devices."""
    (folder / "kernels.csv").unlink(missing_ok=True)
    for name in WITH_5X5:
        loaded = load_model(name)
        model, example = loaded.module.eval(), example_input(loaded.input)
        small, changed = copy.deepcopy(model), 0
        for conv in small.modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (5, 5) and passes_channels(conv):
                conv.weight = nn.Parameter(conv.weight[:, :, 1:4, 1:4].clone())
                conv.kernel_size, conv.padding, changed = (3, 3), (1, 1), changed + 1
        for precision, device in DEVICES.items():
            pairs = {"small": (small, example), "given": (model, example)}
            setting = Setting(time_limit=seconds)
            found = measure_pairs(pairs, pairs["given"], device=device, setting=setting)["small"]
            low, high = found.ratio_interval or (float("nan"),) * 2
            row = {"network": name.partition(":")[2], "layers": changed, "precision": precision}
            append_row(folder / "kernels.csv", row | {"latency": f"{found.ratio:.3f} [{low:.3f}, {high:.3f}]"})


def solved(setup: Setup, layers: list[TimedLayer], folder: Path, space: str) -> Iterator[dict[str, Any]]:
    """The least predicted loss of the space of some choices at each share of the layers' time."""
    offered = SPACES[space]
    lost = {(r["site"], r["choice"]): float(r["divergence"]) for r in read_rows(folder / "losses.csv")}
    ends = {b.end: b.inside for b in setup.anatomy.branches}
    options = [["keep", *(c for c in offered if c != "skip" or x.path in ends)] for x in layers]
    tables = [np.array([lost.get((x.path, c), 0.0) for c in row]) for x, row in zip(layers, options, strict=True)]
    paths = [x.path for x in layers]
    gone = {i: tuple(paths.index(p) for p in ends[x] if p in paths) for i, x in enumerate(paths) if x in ends}
    rules = tuple(Exclusion(i, options[i].index("skip"), others) for i, others in gone.items())
    for precision in DEVICES:
        us = {(r["layer"], r["choice"]): float(r["us"]) for r in read_rows(folder / "times.csv")
              if r["precision"] == precision}  # fmt: skip
        cells = [np.array([us.get((x.name, c), 0.0) for c in row]) for x, row in zip(layers, options, strict=True)]

        def predict(codes: np.ndarray, cells: list[np.ndarray] = cells) -> np.ndarray:
            each = np.stack([cell[codes[:, i]] for i, cell in enumerate(cells)], 1)
            for i, others in gone.items():
                each[np.ix_(codes[:, i] == options[i].index("skip"), others)] = 0.0
            return each.sum(1)[None] / sum(cell[0] for cell in cells)

        program = Program(Problem(tables, decompose(predict, [len(x) for x in options]), ("time",), rules))
        for share in SHARES:
            found = program.solve({"time": share})
            taken = [options[i][c] for i, c in enumerate(found.code)] if found else []
            yield {
                "precision": precision, "share of the layers' time": share, "space": space,
                "divergence": program.problem.loss(found.code) if found else None,
                "taken": ", ".join(f"{n} × {c}" for c, n in Counter(taken).items() if c != "keep"),
            }  # fmt: skip


def page(args: argparse.Namespace, setup: Setup, layers: list[TimedLayer], folder: Path) -> ResultPage:
    """Layer kinds by choice, and what the program makes of them."""
    lost = read_rows(folder / "losses.csv")
    timed = {(r["precision"], r["layer"], r["choice"]): float(r["ratio"]) for r in read_rows(folder / "times.csv")}
    rows, programs = [], []
    kernels = [dict(row) for row in read_rows(folder / "kernels.csv")]
    for name in dict.fromkeys(x.name for x in layers):
        paths, first = [x.path for x in layers if x.name == name], next(x for x in layers if x.name == name)
        for choice in (*OURS, *NEW):
            values = [float(r["divergence"]) for r in lost if r["site"] in paths and r["choice"] == choice]
            if values:
                shape = f"{first.inputs.total} to {first.outputs.total} at {'x'.join(map(str, first.shapes[0][2:]))}"
                rows.append({
                    "layer": shape, "layers": len(values), "choice": choice,
                    "median divergence": float(np.median(values)),
                    **{f"{p} time": 0.0 if choice == "skip" else timed[p, name, choice] for p in DEVICES},
                })  # fmt: skip
    for space in SPACES:
        programs += solved(setup, layers, folder, space)
    best = {(r["precision"], r["share of the layers' time"], r["space"]): r["divergence"] for r in programs}
    gains = []
    for what, before, after in (
        ("separable", "without separable", "whole"), *((name, "whole", f"whole, {name}") for name in NEW),
    ):  # fmt: skip
        told = [
            f"{precision} at {share} {best[precision, share, before]:.3g} to {best[precision, share, after]:.3g}"
            for precision in DEVICES
            for share in SHARES
            if best[precision, share, before] != best[precision, share, after]
        ]
        gains.append(f"{what}: {', '.join(told) or 'never taken'}")
    return ResultPage(
        name=f"other_blocks_{args.net}",
        title=f"Separable convolutions, kernel 1 and the re-parameterised ghost as choices on {args.net}",
        claim="Predicted divergence of the best architecture without and with the choice, at a share of the time",
        figure="; ".join(gains), command=script_command(every_step=True), seed=args.seed,
        device=f"{processor()}, ONNX Runtime, 1 thread, batch 1",
        tables=[
            ResultTable("The integer program's best", programs), ResultTable("By kind of layer", rows),
            ResultTable("All depthwise 5×5 convolutions as 3×3, latency over the network's", kernels),
        ],
        notes=(
            "kernel 1: crop(kernel=1). 1×1 first: a re-parameterised ghost (RepGhost), a 1×1 convolution and then a "
            f"depthwise 3×3. Divergence in nats from the baseline's probabilities on {JUDGED} batches of selection "
            f"images, one change at a time, fitted in closed form to {args.images} images, nothing behind it refitted; "
            "the program adds them up. Times are over the unchanged layer's with its norm and ReLU; a "
            "skipped branch takes the time of both its layers away.",
            FLATTERED,
        ),
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = network_arguments(__doc__, ("resnet20", "resnet56"), "runs/other_blocks", required=True)
    parser.add_argument("--only", choices=("loss", "time", "page"))
    parser.add_argument("--time-limit", type=float, default=40.0, help="seconds of timing in all")
    return parser.parse_args()


if __name__ == "__main__":
    main()
