"""How many architectures per second the cost table prices, and that its figures are those of the built models.

    python benchmarks/cost_rate.py

Writes results/cost_rate.md.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torchvision

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.machine import processor
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.cost_table import CostTable
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.space.preset import load_preset
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.sites import find_sites

MODELS = ["resnet18", "resnet50", "mobilenet_v2", "vgg16_bn", "efficientnet_b0"]
TARGET = 50_000
REPEATS = 5


def measure(name: str, preset: str, given: argparse.Namespace) -> dict[str, Any]:
    """Rate and exactness for one model and space."""
    model = torchvision.models.get_model(name, weights=None).eval()
    example = torch.zeros(1, 3, given.size, given.size)
    anatomy = find_sites(model, example, widths=preset == "ghost_width")
    space = load_preset(preset).resolve(anatomy)
    start = time.perf_counter()
    table = CostTable(model, example, anatomy, width_multiple=space.width_multiple)
    built = time.perf_counter() - start
    rng = np.random.default_rng(0)
    sizes = [len(x) for x in (*space.sites.values(), *space.groups.values())]
    codes = np.stack([rng.integers(0, size, given.count) for size in sizes], axis=1)
    seconds = []
    for _ in range(REPEATS):
        # Of this thread: what other people's work on the machine takes is no part of it.
        start = time.thread_time()
        table.predict_codes(space, codes)
        seconds.append(time.thread_time() - start)
    exact = 0
    for number in range(given.checked):
        architecture = _drawn(space, random.Random(number))
        counted = measure_cost(convert(model, architecture, example=example, anatomy=anatomy), example)
        predicted = table.predict(architecture)
        exact += (predicted.params, predicted.macs, predicted.size_bytes) == (
            counted.params, counted.macs, counted.size_bytes
        )  # fmt: skip
    row = {
        "model": name, "space": preset, "sites": len(space.sites), "groups": len(space.groups),
        "table built, s": round(built, 2), "architectures per second": round(given.count / median(seconds)),
        "equal to the built model": f"{exact} of {given.checked}",
    }  # fmt: skip
    print(row, flush=True)
    return row


def _drawn(space: SearchSpace, rng: random.Random) -> Architecture:
    return Architecture.of(
        {path: rng.choice(texts) for path, texts in space.sites.items()},
        {name: rng.choice(texts) for name, texts in space.groups.items()},
    )


def main() -> None:
    """Measure every model in both spaces and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--count", type=int, default=100_000, help="architectures priced at once")
    parser.add_argument("--checked", type=int, default=3, help="architectures built and counted")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(name, preset, given) for preset in ("ghost", "ghost_width") for name in given.model or MODELS]
    rates = [row["architectures per second"] for row in rows]
    met = sum(rate >= TARGET for rate in rates)
    page = ResultPage(
        name="cost_rate",
        title="Cost by formula: speed and exactness",
        claim=f"Params, MACs and bytes of random architectures by formula (target: {TARGET:,} per second, met in "
        f"{met} of {len(rows)} cases), equal to the count of the built model to the unit",
        figure=f"{min(rates):,} to {max(rates):,} architectures per second",
        command=script_command(),
        device=f"{processor()}, one thread",
        tables=[ResultTable(f"{given.count:,} random architectures at once, {given.size}²", rows)],
        notes=[
            f"Seconds are the thread's own, the median of {REPEATS}. The formulas are also compared with a count on "
            "the meta device on every builder of torchvision: coverage.md.",
        ],
    )  # fmt: skip
    publish(page, given.out)


if __name__ == "__main__":
    main()
