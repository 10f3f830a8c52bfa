"""The A/A test under load: a model against itself, alone and beside two trainings.

    python benchmarks/quiet.py --results results

Each repetition times the same network as candidate and as baseline, so the ratio should be 1 and the median that of
a quiet machine: what the trainings take of the cores is subtracted as CPU wait time, and both networks share the rest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.machine import processor
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import example_input, load_model

TRAINING = """
import torch
from ghostsearch.data.load import load_data
from ghostsearch.models.load import DIGITS_INPUT, load_model
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe
torch.set_num_threads(1)
data = load_data("digits", input=DIGITS_INPUT, batch=64)
model = load_model("ghostsearch:digits_cnn").module
while True:
    train(model, data, Recipe(epochs=1))
"""
WAYS = ("nothing beside", "two trainings")


def beside(way: str, repetitions: int, seconds: float) -> dict[str, Any]:
    """Repetitions of the A/A test in one way."""
    loaded = load_model("ghostsearch:resnet20")
    example, twin = example_input(loaded.input), load_model("ghostsearch:resnet20").module
    trainings: list[subprocess.Popen[bytes]] = []
    if way != WAYS[0]:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        trainings = [subprocess.Popen([sys.executable, "-c", TRAINING], env=env) for _ in range(2)]
        time.sleep(15)
    found = []
    try:
        for seed in range(repetitions):
            found.append(
                measure_latency(
                    {"twin": twin},
                    example,
                    baseline=loaded.module,
                    setting=Setting(time_limit=seconds, narrow=0.001, seed=seed),
                )["twin"]
            )
            # The trainings go on between two timings, as in a search.
            time.sleep(1)
    finally:
        for training in trainings:
            training.kill()
            training.wait()
    ratios = [x.ratio or 0 for x in found]
    intervals = [x.ratio_interval or (0, 9) for x in found]
    medians = [1e3 * x.median_s for x in found]
    return {
        "beside": way, "repetitions": repetitions,
        "median ms": round(statistics.median(medians), 3),
        "largest over smallest median": round(max(medians) / min(medians), 3),
        "largest |ratio − 1|": round(max(abs(r - 1) for r in ratios), 4),
        "intervals that hold 1": sum(low <= 1 <= high for low, high in intervals),
        "noisy": sum(x.noisy for x in found), "visits taken again": sum(x.disturbed for x in found),
    }  # fmt: skip


def main() -> None:
    """All ways, and the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    rows = []
    for way in WAYS:
        rows.append(beside(way, given.repetitions, given.seconds))
        print(rows[-1], flush=True)
    alone, loaded = (r["median ms"] for r in rows)
    page = ResultPage(
        name="quiet", title="The A/A test under load",
        claim="Median latency of ResNet-20 against a quiet machine: beside two trainings",
        figure=f"{loaded / alone:.2f} times",
        command=script_command(),
        device=f"{processor()}, onnxruntime:cpu, one thread",
        tables=[ResultTable("A model against itself (the ratio should be 1)", rows)],
    )  # fmt: skip
    if given.results:
        publish(page, given.results)


if __name__ == "__main__":
    main()
