"""Latency beside the counts: of whole networks, and of single layers beside the formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.paper.counted import Family, Layer, Row, compared
from benchmarks.paper.options import PaperOptions
from benchmarks.paper.printed import MILLION, SMALL_NETS
from ghostsearch.errors import MissingExtraError
from ghostsearch.measure.latency import measure_latency, measure_pairs
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import IMAGENET_INPUT, example_input, load_model
from ghostsearch.models.repghost import fused

Progress = Callable[[int, int, str], None]

REFERENCE = "torchvision:mobilenet_v3_large"
"""The network that GhostNet is compared with in the paper; latencies are ratios to it, interleaved with it."""
LAYER_S = 0.35
"""Timing a layer at most, in seconds, once for the baseline and once for each ghost."""


def timed_rows(family: Family, options: PaperOptions, progress: Progress | None = None) -> list[Row]:
    """The family's rows with latency, each network interleaved with the baseline.

    Weights are random: they change neither counts nor, on a CPU, the time.
    """
    times = measure_latency(
        {str(i): network.eval() for i, (_, network) in enumerate(family.members)}, family.example,
        device=options.device, baseline=family.baseline.eval(),
        setting=Setting(threads=options.threads, time_limit=options.time_limit, seed=options.seed), progress=progress,
    )  # fmt: skip
    rows = []
    for i, row in enumerate(family.rows):
        latency = times[str(i)]
        low, high = latency.ratio_interval or (None, None)
        measured = {
            "latency ms": 1e3 * latency.median_s,
            "÷ baseline": latency.ratio,
            "95 % from": low,
            "95 % to": high,
        }
        rows.append(row | measured)
    return rows


def small_nets() -> tuple[Family, list[str]]:
    """GhostNet and the small networks of its time (section 4.2, table 7), and remarks on those that are not at hand."""
    example, members, remarks = example_input(IMAGENET_INPUT), [], []
    for spec, printed in SMALL_NETS.items():
        try:
            network = fused(load_model(spec).module)
        except MissingExtraError as error:
            remarks.append(f"{spec} is left out: {error}")
            continue
        members.append((compared(printed, network, example, MILLION, spec=spec), network))
    baseline = next(network for row, network in members if row["spec"] == REFERENCE)
    return Family(baseline, example, members), remarks


def layer_speedups(
    layers: Sequence[Layer], options: PaperOptions, progress: Progress | None = None
) -> list[list[float]]:
    """Baseline latency over ghost latency of every layer and choice; layers of one shape are timed once."""
    known: dict[Any, list[float]] = {}
    for done, layer in enumerate(layers):
        if _shape(layer) in known:
            continue
        if progress:
            progress(done, len(layers), f"timing {layer.site.path}")
        times = measure_pairs(
            {str(choice): (block.eval(), layer.example) for choice, block in layer.ghosts.items()},
            (layer.conv.eval(), layer.example), device=options.device,
            setting=Setting(threads=options.threads, time_limit=LAYER_S * (1 + len(layer.ghosts)), seed=options.seed),
        )  # fmt: skip
        known[_shape(layer)] = [1 / (times[str(choice)].ratio or float("nan")) for choice in layer.ghosts]
    return [known[_shape(layer)] for layer in layers]


def _shape(layer: Layer) -> tuple[Any, ...]:
    site = layer.site
    return site.in_shape, site.out_channels, site.kernel, site.stride, site.groups
