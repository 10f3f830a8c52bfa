"""The paper's tables of parameters and multiply-adds, counted on networks that are really built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.paper.printed import (
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
from ghostsearch.blocks.base import CONVS
from ghostsearch.blocks.table import build_block
from ghostsearch.graph.capture import copied
from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.load import example_input, load_model
from ghostsearch.space.architecture import Site
from ghostsearch.space.choice import Ghost
from ghostsearch.space.costs import theoretical_speedup
from ghostsearch.surgery.sites import find_sites
from ghostsearch.surgery.swap import swap_sites

Row = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """Rows of a table with the networks that they count, and the baseline beside which these are timed."""

    baseline: nn.Module
    example: Tensor
    members: Sequence[tuple[Row, nn.Module]]

    @property
    def rows(self) -> list[Row]:
        """The rows alone, as counted."""
        return [row for row, _ in self.members]


def ghosted(model: nn.Module, choice: Ghost, example: Tensor, *, include_first: bool, seed: int = 0) -> nn.Module:
    """A copy with every convolution that may become a ghost made one, fresh; the stem only with `include_first`."""
    anatomy = find_sites(model, example, include_first=include_first, widths=False)
    network = copied(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        swap_sites(network, {site.path: choice for site in anatomy.sites})
    return network


@dataclass(frozen=True)
class Layer:
    """A convolution as it stands in its network, and what it may become."""

    site: Site
    conv: nn.Module
    example: Tensor
    ghosts: dict[Ghost, nn.Module]


def layers(spec: str, choices: Sequence[Ghost]) -> list[Layer]:
    """Every convolution of a network, the stem too, beside its ghosts; weights are fresh."""
    loaded = load_model(spec)
    anatomy = find_sites(loaded.module, example_input(loaded.input), include_first=True, widths=False)
    made = []
    for site in anatomy.sites:
        conv = CONVS[len(site.kernel)](
            site.in_channels, site.out_channels, cast(Any, site.kernel), cast(Any, site.stride),
            padding=cast(Any, tuple(k // 2 for k in site.kernel)), groups=site.groups, bias=False,
        )  # fmt: skip
        ghosts = {choice: build_block(conv, choice) for choice in choices}
        made.append(Layer(site, conv, torch.zeros(1, *site.in_shape), ghosts))
    return made


def formula_rows(layer: Layer) -> list[Row]:
    """Theoretical speed-up r_s and compression r_c of a layer (section 3.1, equations 4 and 5), and as counted.

    `counted` is the cost of the baseline convolution over that of the built ghost convolution, both from the counter.
    """
    site, baseline = layer.site, measure_cost(layer.conv, layer.example)
    c, k = site.in_channels // site.groups, site.kernel[0]
    rows = []
    for choice, block in layer.ghosts.items():
        s, d, ghost = choice.ratio, choice.kernel, measure_cost(block, layer.example)
        rows.append(
            {
                "site": site.path,
                "c": site.in_channels,
                "n": site.out_channels,
                "k": k,
                "s": s,
                "d": d,
                "r_s formula": c * k * k / (c * k * k / s + (s - 1) / s * d * d),
                "r_s ≈ s·c/(c+s−1)": s * c / (c + s - 1),
                "r_s ours (whole maps)": theoretical_speedup(site, choice),
                "r_s counted": baseline.macs / ghost.macs,
                "r_c counted": baseline.params / ghost.params,
            }
        )
    return rows


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


def vgg16_family() -> Family:
    """The ablation of s and d on VGG-16 (section 4.1): all thirteen convolutions ghosted, the first too."""
    loaded = load_model("ghostsearch:vgg16")
    example = example_input(loaded.input)
    members = [(compared(VGG16, loaded.module, example, MILLION, s=None, d=None), loaded.module)]
    for (s, d), printed in GHOST_VGG16.items():
        net = ghosted(loaded.module, Ghost(s, d), example, include_first=True)
        members.append((compared(printed, net, example, MILLION, s=s, d=d), net))
    return Family(loaded.module, example, members)


def cifar_families() -> list[Family]:
    """VGG-16 and ResNet-56 (section 4.1), counted for each way the ghost network may be meant."""
    return [
        _each_way("ghostsearch:vgg16", VGG16, GHOST_VGG16[2, 3]),
        _each_way("ghostsearch:resnet56", RESNET56, GHOST_RESNET56),
    ]


def _each_way(spec: str, baseline: Printed, ghost: Printed) -> Family:
    loaded = load_model(spec)
    example = example_input(loaded.input)
    members = [(compared(baseline, loaded.module, example, MILLION, d=None, stem=None), loaded.module)]
    for d, first in ((3, True), (3, False), (1, True), (1, False)):
        net = ghosted(loaded.module, Ghost(2, d), example, include_first=first)
        members.append((compared(ghost, net, example, MILLION, d=d, stem="ghosted" if first else "kept"), net))
    return Family(loaded.module, example, members)


def printed_only(columns: Iterable[str]) -> list[Row]:
    """Pruned networks of others, which the paper sets beside its own: nothing of them is run here."""
    return [
        dict.fromkeys(columns)
        | {"net": p.net, "params M, paper": p.params, "MACs M, paper": p.macs, "top-1 %, paper": p.accuracy}
        for p in CIFAR_PEERS
    ]


def resnet50_family() -> Family:
    """ResNet-50 with every convolution but the stem ghosted (section 4.2)."""
    loaded = load_model("torchvision:resnet50")
    example = example_input(loaded.input)
    members = [(compared(RESNET50, loaded.module, example, BILLION, d=None), loaded.module)]
    for s, printed in GHOST_RESNET50.items():
        for d in (3, 1):
            net = ghosted(loaded.module, Ghost(s, d), example, include_first=False)
            members.append((compared(printed, net, example, BILLION, d=d), net))
    return Family(loaded.module, example, members)


def cheap_operation_families() -> list[Family]:
    """VGG-16 and ResNet-20 under each cheap operation that the paper tried (section 4.1)."""
    families = []
    for spec in ("ghostsearch:vgg16", "ghostsearch:resnet20"):
        loaded = load_model(spec)
        example = example_input(loaded.input)
        members = []
        for cheap in (None, "conv", "affine", "wavelet"):
            choice = Ghost(2, 3, cheap) if cheap else None
            net = ghosted(loaded.module, choice, example, include_first=True) if choice else loaded.module
            cost = measure_cost(net, example)
            row = {"net": spec, "choice": str(choice or "keep"), "params": cost.params, "MACs": cost.macs}
            members.append((row, net))
        families.append(Family(loaded.module, example, members))
    return families
