"""The paper's tables of parameters and multiply-adds, counted on networks that are really built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.blocks.conv import CONVS
from ghostsearch.blocks.table import build_block
from ghostsearch.choices import Ghost
from ghostsearch.convert.sites import find_sites
from ghostsearch.convert.swap import swap_sites
from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.loading import example_input, load_model
from ghostsearch.paper.printed import (
    BILLION,
    CIFAR_PEERS,
    GHOST_RESNET50,
    GHOST_RESNET56,
    GHOST_VGG16,
    MILLION,
    RESNET50,
    RESNET56,
    VGG16,
    Printed,
    agrees,
)
from ghostsearch.sitecost import theoretical_speedup
from ghostsearch.space import Site
from ghostsearch.tracing import copied

Row = dict[str, Any]


def ghosted(model: nn.Module, choice: Ghost, example: Tensor, *, include_first: bool, seed: int = 0) -> nn.Module:
    """A copy with every convolution that may become a ghost made one, fresh; the stem only with `include_first`."""
    anatomy = find_sites(model, example, include_first=include_first, widths=False)
    network = copied(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        swap_sites(network, {site.path: choice for site in anatomy.sites})
    return network


def formula_rows(spec: str, choices: Iterable[Ghost]) -> list[Row]:
    """Theoretical speed-up r_s and compression r_c of every layer (section 3.1, equations 4 and 5), and as counted.

    `counted` is the cost of the plain convolution over the cost of the built ghost convolution, both from the counter.
    """
    loaded = load_model(spec)
    anatomy = find_sites(loaded.module, example_input(loaded.input), include_first=True, widths=False)
    return [_formula_row(site, choice) for site in anatomy.sites for choice in choices]


def _formula_row(site: Site, choice: Ghost) -> Row:
    s, d, c, k = choice.ratio, choice.kernel, site.in_channels // site.groups, site.kernel[0]
    kernel: Any = site.kernel
    conv = CONVS[len(site.kernel)](
        site.in_channels, site.out_channels, kernel, padding=k // 2, groups=site.groups, bias=False
    )
    example = torch.zeros(1, site.in_channels, *[8] * len(site.kernel))
    plain, ghost = measure_cost(conv, example), measure_cost(build_block(conv, choice), example)
    return {
        "site": site.path,
        "c": site.in_channels,
        "n": site.out_channels,
        "k": k,
        "s": s,
        "d": d,
        "r_s formula": c * k * k / (c * k * k / s + (s - 1) / s * d * d),
        "r_s ≈ s·c/(c+s−1)": s * c / (c + s - 1),
        "r_s ours (whole maps)": theoretical_speedup(site, choice),
        "r_s counted": plain.macs / ghost.macs,
        "r_c counted": plain.params / ghost.params,
        "pays": ghost.macs < plain.macs,
    }


def compared(printed: Printed, model: nn.Module, example: Tensor, unit: int, **first: Any) -> Row:
    """One row: what the paper prints beside what is counted, and whether they agree to the printed digit."""
    cost = measure_cost(model, example)
    name = "M" if unit == MILLION else "G"
    return {
        "net": printed.net,
        **first,
        "params M, paper": printed.params,
        "params, counted": cost.params,
        "params agree": agrees(printed.params, cost.params, MILLION),
        f"MACs {name}, paper": printed.macs,
        "MACs, counted": cost.macs,
        "MACs agree": agrees(printed.macs, cost.macs, unit),
        "top-1 %, paper": printed.accuracy,
    }


def vgg16_rows() -> list[Row]:
    """The ablation of s and d on VGG-16 (section 4.1): all thirteen convolutions ghosted, the first too."""
    loaded = load_model("ghostsearch:vgg16")
    example = example_input(loaded.input)
    rows = [compared(VGG16, loaded.module, example, MILLION, s=None, d=None)]
    for (s, d), printed in GHOST_VGG16.items():
        net = ghosted(loaded.module, Ghost(s, d), example, include_first=True)
        rows.append(compared(printed, net, example, MILLION, s=s, d=d))
    return rows


def cifar_rows() -> list[Row]:
    """ResNet-56 and VGG-16 beside the pruned ones of others (section 4.1), counted for each way it may be meant."""
    rows = []
    for spec, plain, ghost in (
        ("ghostsearch:vgg16", VGG16, GHOST_VGG16[2, 3]),
        ("ghostsearch:resnet56", RESNET56, GHOST_RESNET56),
    ):
        loaded = load_model(spec)
        example = example_input(loaded.input)
        rows.append(compared(plain, loaded.module, example, MILLION, d=None, stem=None))
        for d, first in ((3, True), (3, False), (1, True), (1, False)):
            net = ghosted(loaded.module, Ghost(2, d), example, include_first=first)
            rows.append(compared(ghost, net, example, MILLION, d=d, stem="ghosted" if first else "kept"))
    empty = dict.fromkeys(rows[0])
    printed_only = [
        empty | {"net": p.net, "params M, paper": p.params, "MACs M, paper": p.macs, "top-1 %, paper": p.accuracy}
        for p in CIFAR_PEERS
    ]
    return rows + printed_only


def resnet50_rows() -> list[Row]:
    """ResNet-50 with every convolution but the stem ghosted (section 4.2)."""
    loaded = load_model("torchvision:resnet50")
    example = example_input(loaded.input)
    rows = [compared(RESNET50, loaded.module, example, BILLION, d=None)]
    for s, printed in GHOST_RESNET50.items():
        for d in (3, 1):
            net = ghosted(loaded.module, Ghost(s, d), example, include_first=False)
            rows.append(compared(printed, net, example, BILLION, d=d))
    return rows


def cheap_operation_rows() -> list[Row]:
    """VGG-16 and ResNet-20 under each cheap operation that the paper tried (section 4.1)."""
    rows = []
    for spec in ("ghostsearch:vgg16", "ghostsearch:resnet20"):
        loaded = load_model(spec)
        example = example_input(loaded.input)
        for cheap in ("conv", "affine", "wavelet"):
            choice = Ghost(2, 3, cheap)
            cost = measure_cost(ghosted(loaded.module, choice, example, include_first=True), example)
            rows.append({"net": spec, "choice": str(choice), "params": cost.params, "MACs": cost.macs})
    return rows
