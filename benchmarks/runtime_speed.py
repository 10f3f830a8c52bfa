"""The same ghost networks on several runtimes: how the ratio of MACs and the ratio of times differ.

    python benchmarks/runtime_speed.py

Every convolution but the stem becomes ghost(ratio=2) with cheap kernel 3 or 1; both variants are timed interleaved with
the baseline. Writes results/runtime_speed.md and results/runtime_speed_rows.csv; rows that are there already are not
measured again.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
import torchvision

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rows import append_row, read_rows
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.devices.table import get_device
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting
from ghostsearch.space.preset import load_preset
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.sites import find_sites

MODELS = ["resnet18", "resnet50", "vgg16_bn"]
RUNTIMES = ["torch:cpu", "onnxruntime:cpu", "openvino:cpu", "executorch:xnnpack"]
CHOICES = ["ghost(ratio=2, kernel=3)", "ghost(ratio=2, kernel=1)"]


def measure(name: str, device: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Both variants of one model on one device."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    example = torch.randn(1, 3, given.size, given.size)
    anatomy = find_sites(model, example, widths=False)
    space = load_preset("ghost").resolve(anatomy)
    built = {c: convert(model, space.uniform(c), example=example, anatomy=anatomy) for c in CHOICES}
    baseline_macs = measure_cost(model, example).macs
    found = measure_latency(
        built,
        example,
        device=device,
        baseline=model,
        setting=Setting(threads=given.threads, time_limit=given.time_limit),
    )
    rows = []
    for choice, latency in found.items():
        assert latency.ratio_interval is not None
        assert latency.baseline_median_s is not None
        low, high = latency.ratio_interval
        macs = measure_cost(built[choice], example).macs
        rows.append(
            {"model": name, "choice": choice, "device": device, "macs_ratio": macs / baseline_macs,
             "time_ratio": latency.ratio, "low": low, "high": high, "baseline_ms": 1e3 * latency.baseline_median_s,
             "ms": 1e3 * latency.median_s, "calls": len(latency.times_s), "stopped": latency.stopped,
             "noisy": latency.noisy, "cores_busy": latency.cores_busy, "load_average": round(os.getloadavg()[0], 1)}
        )  # fmt: skip
    return rows


def write(rows: list[dict[str, str]], given: argparse.Namespace) -> None:
    """The page and the index."""
    devices = [d for d in RUNTIMES if any(r["device"] == d for r in rows)]
    table = []
    for name, choice in dict.fromkeys((r["model"], r["choice"]) for r in rows):
        some = {r["device"]: r for r in rows if (r["model"], r["choice"]) == (name, choice)}
        row: dict[str, Any] = {"model": name, "choice": choice}
        row["MACs"] = f"{float(next(iter(some.values()))['macs_ratio']):.2f}"
        for device in devices:
            row[device] = _shown(some[device]) if device in some else ""
        table.append(row)
    milliseconds = {(r["model"], r["device"]): float(r["baseline_ms"]) for r in rows}
    names = list(dict.fromkeys(r["model"] for r in rows))
    baseline = [{"model": name, **{d: milliseconds.get((name, d)) for d in devices}} for name in names]
    slower = sum(float(r["low"]) > 1 for r in rows)
    losing = sum(float(r["time_ratio"]) > float(r["macs_ratio"]) for r in rows)
    ratios = [float(r["time_ratio"]) for r in rows]
    versions = {k: v for d in devices for k, v in get_device(d).versions().items()}
    page = ResultPage(
        name="runtime_speed",
        title="MACs fall, time falls less, and the runtime decides",
        claim="Times of networks with half the MACs (ghost convolutions everywhere but the stem) over the baseline's "
        f"on {len(devices)} runtimes: less was saved than MACs promise in {losing} of {len(rows)} cases, and "
        f"{slower} {'is' if slower == 1 else 'are'} slower than the baseline",
        figure=f"from {min(ratios):.2f} to {max(ratios):.2f} times the baseline's time",
        command=script_command(),
        device=f"{get_device('torch:cpu').place()}, {given.threads} thread, batch 1, {given.size}²",
        tables=[
            ResultTable("Time over the baseline's, with its 95 % interval", table),
            ResultTable("The baseline, milliseconds", baseline),
        ],
        notes=[
            "–: not measured yet, rerun the command to resume. *: calls spread over more than a tenth of the median. "
            "All in float32, both variants interleaved with the baseline, random weights. Runtimes: "
            + ", ".join(f"{k} {v}" for k, v in versions.items())
            + ". One row per measurement, with the load average of the shared machine: runtime_speed_rows.csv; the "
            "time that a thread waits for a core is subtracted. No GPU was at hand.",
        ],
    )  # fmt: skip
    publish(page, given.out)


def _shown(row: dict[str, str]) -> str:
    """A ratio, its interval, and a star where the calls spread widely."""
    ratio, low, high = (float(row[key]) for key in ("time_ratio", "low", "high"))
    return f"{ratio:.2f} ({low:.2f}–{high:.2f})" + "*" * (row["noisy"] == "True")


def main() -> None:
    """Measure what is missing, for as long as allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append")
    parser.add_argument("--device", action="append")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time-limit", type=float, default=8.0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no measurement after this time")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    started, path = time.perf_counter(), given.out / "runtime_speed_rows.csv"
    for name in given.model or MODELS:
        for device in given.device or RUNTIMES:
            known = {(r["model"], r["device"]) for r in read_rows(path)}
            if (name, device) not in known and time.perf_counter() - started < given.seconds:
                for row in measure(name, device, given):
                    append_row(path, row)
                    print(row, flush=True)
    write(read_rows(path), given)


if __name__ == "__main__":
    main()
