"""A/A test of the latency measurement: two copies of one model measured as if they were different, in both orders.

    python benchmarks/latency_quality.py
    python benchmarks/latency_quality.py --load 0 2    # the same while two other processes burn the cores, too

The share of tries whose 95 % interval holds 1 is the coverage (aim: 95 ± 1.5 %, which takes hundreds of tries to tell:
two small networks have them, in under ten minutes on a quiet machine). Writes results/latency_quality.md and, one row
per try, results/latency_quality_tries.csv; tries that are there already are
not made again.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rows import append_row, read_rows
from ghostsearch.measure.devices.table import get_device
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import example_input, load_model
from ghostsearch.study.statistics import share_error


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes that never rest, within."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def one_try(load: int, device: str, name: str, number: int, given: argparse.Namespace) -> dict[str, Any]:
    """Ratio of a copy to its original; every second try exchanges the two, so that neither's place decides."""
    torch.manual_seed(number)
    loaded = load_model(name)
    model = loaded.module.eval()
    pair = [model, copy.deepcopy(model)]
    if number % 2:
        pair.reverse()
    with busy(load):
        latency = measure_latency(
            {"copy": pair[1]}, example_input(loaded.input), device=device, baseline=pair[0],
            setting=Setting(threads=given.threads, time_limit=given.time_limit, seed=number),
        )["copy"]  # fmt: skip
    assert latency.ratio is not None
    assert latency.ratio_interval is not None
    low, high = latency.ratio_interval
    return {
        "burners": load, "device": device, "model": name, "try": number,
        "order": "exchanged" if number % 2 else "as made", "ratio": round(latency.ratio, 5), "low": round(low, 5),
        "high": round(high, 5), "median_s": latency.median_s, "calls": len(latency.times_s),
        "stopped": latency.stopped, "noisy": latency.noisy, "disturbed": latency.disturbed,
        "cores_busy": latency.cores_busy, "load_average": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def coverage(rows: list[dict[str, str]]) -> float:
    """Share of the tries whose interval holds the true ratio, 1."""
    return sum(float(r["low"]) <= 1 <= float(r["high"]) for r in rows) / len(rows)


def summary(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """One row for each condition, device and model."""
    found = []
    for key in dict.fromkeys((r["burners"], r["device"], r["model"]) for r in rows):
        some = [r for r in rows if (r["burners"], r["device"], r["model"]) == key]
        errors = [abs(float(r["ratio"]) - 1) for r in some]
        orders = {
            order: median([float(r["ratio"]) for r in some if r["order"] == order] or [float("nan")])
            for order in ("as made", "exchanged")
        }
        found.append(
            {"other processes": "as it was" if key[0] == "0" else f"+ {key[0]} busy", "device": key[1],
             "model": key[2], "tries": len(some), "median error": f"{median(errors):.2%}",
             "largest error": f"{max(errors):.2%}", **{f"ratio, {o}": f"{v:.4f}" for o, v in orders.items()},
             "interval holds 1": f"{coverage(some):.1%}",
             "± (standard error)": f"{share_error(coverage(some), len(some)):.1%}",
             "median width": f"{median(float(r['high']) - float(r['low']) for r in some):.2%}",
             "said noisy": sum(r["noisy"] == "True" for r in some),
             "median load": f"{median(float(r['load_average']) for r in some):.1f}"}
        )  # fmt: skip
    return found


def write(rows: list[dict[str, str]], given: argparse.Namespace) -> None:
    """The page and the index."""
    table = summary(rows)
    first = get_device(rows[0]["device"])
    page = ResultPage(
        name="latency_quality",
        title="A/A test of the latency measurement",
        claim="Two copies of one model, measured as if they were different: share of 95 % intervals that hold 1 "
        "(aim: 95 ± 1.5 %)",
        figure="; ".join(
            f"{x['interval holds 1']} of {x['tries']} tries, standard error {x['± (standard error)']}, {x['model']}, "
            f"machine {x['other processes']}"
            for x in table
        ),
        command=script_command(),
        device=f"{first.place()}, {given.threads} thread, batch 1",
        tables=[ResultTable("The ratio of the copies, which should be 1", table)],
        notes=[
            f"A try takes at most {given.time_limit:g} s; the time that a thread waits for a core is subtracted. "
            "An interval is of several builds (export and "
            "session anew) in one process; what another process would change is not in it. Every second "
            "try exchanges the copies. Other processes ran on the machine too (load average as given); where it "
            "says busy, two processes of ours that never rest were added. One row per try: latency_quality_tries.csv.",
        ],
    )  # fmt: skip
    publish(page, given.out)
    for row in table:
        print(row)


def main() -> None:
    """Make the tries that are missing, for as long as allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append")
    parser.add_argument("--device", action="append")
    parser.add_argument("--tries", type=int, default=300, help="per device and model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time-limit", type=float, default=3.0)
    parser.add_argument(
        "--load", type=int, nargs="+", default=[0], help="so many further processes that burn a core each, in turn"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no try after this time")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    started, path = time.perf_counter(), given.out / "latency_quality_tries.csv"
    devices, models = (
        given.device or ["onnxruntime:cpu"],
        given.model or ["ghostsearch:digits_cnn", "ghostsearch:resnet20"],
    )
    for load, device, name, number in product(given.load, devices, models, range(given.tries)):
        known = {(r["burners"], r["device"], r["model"], r["try"]) for r in read_rows(path)}
        if (str(load), device, name, str(number)) not in known and time.perf_counter() - started < given.seconds:
            append_row(path, one_try(load, device, name, number, given))
            print(read_rows(path)[-1], flush=True)
    write(read_rows(path), given)


if __name__ == "__main__":
    main()
