"""The paper's tables as pages: what it prints beside what is counted and what is measured here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.paper import counted, measured
from benchmarks.paper.kept import KeptRows
from benchmarks.paper.options import PaperOptions
from benchmarks.result_page import ResultPage, ResultTable
from ghostsearch.machine import processor
from ghostsearch.space.choice import Ghost

Progress = Callable[[int, int, str], None]

KIND = "Figures named paper are printed in Han et al. 2020; its FLOPs are multiply-adds, cut to the digits shown."
HONEST = "A figure that does not agree is left as it is: no counter was tuned to it."


@dataclass(frozen=True)
class Making:
    """What a page is made from."""

    options: PaperOptions
    kept: KeptRows
    progress: Progress | None = None


def formulas(making: Making) -> ResultPage:
    """r_s and r_c of every layer of VGG-16, ResNet-56 and ResNet-50."""
    tables = []
    for spec in ("ghostsearch:vgg16", "ghostsearch:resnet56", "torchvision:resnet50"):
        layers = counted.layers(spec, (Ghost(2, 3), Ghost(4, 3)))
        speedups = measured.layer_speedups(layers, making.options, making.progress)
        rows = [
            row | {"r_s measured": speedup}
            for layer, known in zip(layers, speedups, strict=True)
            for row, speedup in zip(counted.formula_rows(layer), known, strict=True)
        ]
        tables.append(ResultTable(spec, rows))
    every = [row for table in tables for row in table.rows]
    exact = sum(abs(r["r_s formula"] - r["r_s counted"]) < 1e-9 for r in every)
    kept = sum(r["r_s measured"] >= r["r_s counted"] for r in every)
    slower = sum(r["r_s measured"] < 1 for r in every)
    share = median(r["r_s measured"] / r["r_s counted"] for r in every)
    worst = max(every, key=lambda r: r["s"] - r["r_s counted"])
    notes = (
        f"Least of its promise keeps {worst['site']} with s={worst['s']}: r_s = {worst['r_s counted']:.3g} as counted.",
        f"On the device {kept} of {len(every)} ghosts speed their layer up as counted or more, {slower} are slower "
        f"than the baseline layer; the median ghost reaches {share:.0%} of its counted r_s.",
        "r_s measured: median of the baseline layer over median of the ghost, each alone at its size in the network. "
        + _timing(making.options),
    )
    claim = "The speed-up formula r_s of the ghost module: layers for which it is what the built layers count"
    figure = f"{exact} of {len(every)} exact; {kept} reached on the device"
    return _page("paper_formulas", "Module formulas r_s and r_c", claim, figure, making, tables, notes)


def vgg16(making: Making) -> ResultPage:
    """The ablation of s and d on VGG-16."""
    rows = measured.timed_rows(counted.vgg16_family(), making.options, making.progress)
    claim = "VGG-16's ablation of s and d, parameters and multiply-adds counted to the printed digit"
    notes = (_timing(making.options),)
    table = ResultTable("s and d", rows)
    return _page("paper_vgg16", "VGG-16 on CIFAR-10: s and d", claim, _agreement(rows), making, [table], notes)


def cifar(making: Making) -> ResultPage:
    """ResNet-56 and VGG-16 beside pruned ones."""
    families = counted.cifar_families()
    rows = [row for f in families for row in measured.timed_rows(f, making.options, making.progress)]
    notes = (
        "Ghost-ResNet-56's printed 63 M is what d=1 counts; d=3, which its ablation settles on, counts 65 M.",
        "The rows of l1, SBP, CP and AMC are printed only: nothing of them was run here.",
        _timing(making.options),
    )
    claim = "ResNet-56 and VGG-16 with ghost modules, counted for both kernels and with the stem kept or ghosted"
    page = [ResultTable("ResNet-56 and VGG-16", [*rows, *counted.printed_only(rows[0])])]
    return _page("paper_cifar", "CIFAR-10 networks", claim, _agreement(rows), making, page, notes)


def resnet50(making: Making) -> ResultPage:
    """ResNet-50 on ImageNet sizes."""
    rows = measured.timed_rows(counted.resnet50_family(), making.options, making.progress)
    notes = (
        "The printed parameters do not come out with every convolution but the stem ghosted, whatever d.",
        "Top-1 is the paper's alone: no ImageNet was at hand.",
        _timing(making.options),
    )
    claim = "Ghost-ResNet-50: the multiply-adds come out for d=3, the parameters do not"
    table = ResultTable("ResNet-50", rows)
    return _page("paper_resnet50", "ResNet-50", claim, _agreement(rows), making, [table], notes)


def cheap(making: Making) -> ResultPage:
    """The cheap operations beside one another."""
    tables = [
        ResultTable(family.rows[0]["net"], measured.timed_rows(family, making.options, making.progress))
        for family in counted.cheap_operation_families()
    ]
    by = {row["choice"]: row for row in tables[0].rows}
    conv, affine, wavelet = (by[str(Ghost(2, 3, cheap))] for cheap in ("conv", "affine", "wavelet"))
    fewer = 1 - min(affine["MACs"], wavelet["MACs"]) / conv["MACs"]
    notes = (
        "The paper names affine and wavelet transforms, keeps depthwise convolutions, and prints no figure for them.",
        _timing(making.options),
    )
    claim = (
        "VGG-16: multiply-adds that affine or wavelet ghosts save over depthwise ones; time of each over the baseline"
    )
    times = ", ".join(f"{row['÷ baseline']:.2f}" for row in (conv, affine, wavelet))
    figure = f"{fewer:.1%}; conv, affine, wavelet {times}"
    return _page("paper_cheap", "Cheap operations", claim, figure, making, tables, notes)


def small_nets(making: Making) -> ResultPage:
    """GhostNet beside its competitors."""
    family, remarks = measured.small_nets()
    rows = measured.timed_rows(family, making.options, making.progress)
    for row in rows:
        row["MACs/ns"] = row["MACs, counted"] / (row["latency ms"] * 1e6)
    ghost = next(r for r in rows if r["net"] == "GhostNet 1.0×")
    mobile = next(r for r in rows if r["spec"] == measured.REFERENCE)
    claim = "GhostNet 1.0× beside MobileNetV3-L 1.0×: share of its multiply-adds, share of its time"
    figure = (
        f"{ghost['MACs, counted'] / mobile['MACs, counted']:.2f} of the MACs, {ghost['÷ baseline']:.2f} of the latency"
    )
    notes = (
        "The baseline of the ratios is MobileNetV3-L 1.0×; 224×224. " + _timing(making.options),
        "Top-1 is the paper's alone: no ImageNet was at hand.",
        *remarks,
    )
    table = ResultTable("params, MACs, latency", rows)
    return _page("paper_small_nets", "GhostNet and its competitors", claim, figure, making, [table], notes)


def toy(making: Making) -> ResultPage:
    """Feature-map pairs of a trained network."""
    from benchmarks.paper.toy import toy_rows

    options = making.options
    pairs, everywhere = toy_rows(options)
    three = next(r for r in everywhere if r["d"] == 3)["best other map, median"]
    name = options.toy_model.rpartition(":")[2]
    picture = options.toy_image or "scikit-learn's china.jpg"
    notes = (
        f"Network {options.toy_model} with trained weights, output of {options.toy_layer}, image {picture}.",
        "The paper looked into ResNet-50's first block, trained on ImageNet, which is not at hand; its errors are mean "
        "squares in the maps' own units, whose size is not told, so that only their course over d compares.",
        "Error: share of the target map's variance that the best filter leaves, corrected for its degrees of freedom; "
        "MSE is that times the target's variance.",
    )
    claim = (
        f"A feature map of {name}'s first block made from its best other one by a single 3×3 filter: variance left "
        "(0: a perfect ghost), median over maps"
    )
    tables = [ResultTable("the three most similar pairs", pairs), ResultTable("all maps of the layer", everywhere)]
    return _page(
        f"paper_toy_{name}",
        f"Toy experiment: pairs of feature maps of {name}",
        claim,
        f"{three:.1%}",
        making,
        tables,
        notes,
    )


def training(making: Making) -> ResultPage:
    """Short training from scratch."""
    from benchmarks.paper.training import settings, trained_rows

    options = making.options
    rows = trained_rows(options, making.kept, making.progress)
    untrained = len(settings(options.train_model)) - len(rows)
    baseline, ghosts = ([r for r in rows if (r["choice"] == "keep") is wanted] for wanted in (True, False))
    figure = f"{_spread('baseline', baseline)}, {_spread('ghosts', ghosts)}"
    notes = (
        f"A short schedule: {_schedule(options)}, {options.train_seeds} seed(s) from {options.seed} on. It says how "
        "fast each network learns at first and ranks loosely; the published accuracies, after 200 to 400 epochs, "
        "cannot be confirmed or refuted by it.",
        "The paper names affine and wavelet transforms as cheap operations and prints no figure for them.",
        *([f"Not every setting was trained: {untrained} are left out."] if untrained else []),
    )
    name = options.train_model.rpartition(":")[2]
    claim = f"{name} from scratch under a short schedule, each s, d and cheap operation"
    page = [ResultTable("print, count and short schedule", rows)]
    return _page(
        f"paper_training_{name}", f"{name}: accuracy under a short schedule", claim, figure, making, page, notes
    )


def _spread(word: str, rows: Sequence[counted.Row]) -> str:
    accuracies = [row["top-1 %, short schedule"] for row in rows]
    if not accuracies:
        return f"{word} not trained"
    low, high = min(accuracies), max(accuracies)
    return f"{word} {low:.1f} %" if low == high else f"{word} {low:.1f}–{high:.1f} %"


def _schedule(options: PaperOptions) -> str:
    """The training schedule in words."""
    precision = f", {options.train_precision} precision" if options.train_precision != "auto" else ""
    tested = f", scored on {options.test_images} of the test images" if options.test_images else ""
    return (
        f"{options.epochs:g} epoch(s) on {options.train_images or 'all'} training images of {options.data}, batches of "
        f"{options.batch_size}{precision}{tested}"
    )


def ghostnet_search(making: Making) -> ResultPage:
    """Search over GhostNet itself."""
    from benchmarks.paper.ghostnet_space import space_size
    from benchmarks.paper.ghostnet_study import POPULATION
    from benchmarks.paper.searched import draw_search, search_rows, searched

    options = making.options
    candidates = searched(options, making.kept, making.progress)
    front = [c for c in candidates if c.on_front]
    count = sum(c.name.startswith("searched") for c in front)
    bred = max(0, len(candidates) - POPULATION)
    notes = (
        f"{len(candidates)} networks at {options.search_size}×{options.search_size}, each from random weights, one "
        f"seed: {_schedule(options)}; a short schedule that favours networks which learn fast.",
        f"NSGA-II on validation accuracy and MACs over {space_size():.1e} plans: width, and ratio, kernel, "
        f"expansion and SE of every bottleneck. Latency on {options.device}, interleaved with GhostNet 1.0×, for the "
        "front and the uniform networks. The test split chose nothing.",
        f"{bred} networks were bred from better ones; the others are uniform or, of the first generation, drawn at "
        "random. So few say little about what a long search would find.",
    )
    claim = "Networks on the front of accuracy and MACs that the search found, beside uniform GhostNet 0.5–1.3×"
    name, title = "paper_ghostnet_search", "Search over GhostNet itself"
    table = ResultTable("uniform and searched", search_rows(candidates))
    page = _page(name, title, claim, f"{count} of {len(front)}", making, [table], notes)
    return replace(page, pictures={f"{name}.png": lambda path: draw_search(candidates, path)})


TABLES: dict[str, Callable[..., ResultPage]] = {
    "formulas": formulas,
    "toy": toy,
    "cheap": cheap,
    "vgg16": vgg16,
    "cifar": cifar,
    "resnet50": resnet50,
    "small-nets": small_nets,
    "training": training,
    "ghostnet-search": ghostnet_search,
}
"""The paper's tables by name, in its order."""


def _page(
    name: str,
    title: str,
    claim: str,
    figure: str,
    making: Making,
    tables: Sequence[ResultTable],
    notes: Sequence[str] = (),
) -> ResultPage:
    return ResultPage(
        name=name, title=title, claim=claim, figure=figure, command=making.options.command, device=processor(),
        tables=tables, seed=making.options.seed, notes=(KIND, *notes, HONEST),
    )  # fmt: skip


def _timing(options: PaperOptions) -> str:
    return (
        f"Latency: {options.device}, batch 1, {options.threads} thread(s), interleaved with the baseline; medians, "
        "95 % interval of their ratio. Weights are random, which changes neither counts nor times."
    )


def _agreement(rows: Sequence[counted.Row]) -> str:
    verdicts = [row[key] for row in rows for key in ("params agree", "MACs agree") if row[key] is not None]
    return f"{sum(verdicts)} of {len(verdicts)} counts agree with the print"
