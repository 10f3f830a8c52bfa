"""GhostNet beside the small networks of its time (section 4.2, table 7): params, multiply-adds, latency."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from torch import nn

from ghostsearch.errors import MissingExtraError
from ghostsearch.measure.latency import measure_latency
from ghostsearch.models.loading import IMAGENET_INPUT, example_input, load_model
from ghostsearch.models.repghost import fused
from ghostsearch.paper.counted import Row, compared
from ghostsearch.paper.options import PaperOptions
from ghostsearch.paper.printed import MILLION, SMALL_NETS

Progress = Callable[[int, int, str], None]

REFERENCE = "torchvision:mobilenet_v3_large"
"""The network that GhostNet is compared with in the paper; latencies are ratios to it, timed in turns."""


def small_net_rows(options: PaperOptions, progress: Progress | None = None) -> tuple[list[Row], list[str]]:
    """Rows of the table and remarks on networks that could not be built; latency interleaved with MobileNetV3-L.

    Weights are random: they change neither counts nor, on a CPU, the time.
    """
    built: dict[str, nn.Module] = {}
    remarks = []
    for spec in SMALL_NETS:
        try:
            built[spec] = fused(load_model(spec, seed=options.seed).module)
        except MissingExtraError as error:
            remarks.append(f"{spec} is left out: {error}")
    example = example_input(IMAGENET_INPUT)
    latencies = measure_latency(
        built, example, device=options.device,
        plain=built[REFERENCE], threads=options.threads, time_limit_s=options.time_limit,
        seed=options.seed, progress=progress,
    )  # fmt: skip
    rows = []
    for spec, network in built.items():
        row = compared(SMALL_NETS[spec], network, example, MILLION, spec=spec)
        seconds, reference = median(latencies[spec].times_s), median(latencies[spec].plain_times_s)
        low, high = latencies[spec].ratio_interval or (None, None)
        row |= {
            "latency ms": seconds * 1e3,
            "÷ MobileNetV3-L": seconds / reference,
            "95 % from": low,
            "95 % to": high,
            "MACs/ns": row["MACs, counted"] / (seconds * 1e9),
        }
        rows.append(row)
    return rows, remarks
