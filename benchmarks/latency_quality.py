"""A/A test of the latency measurement: two copies of one model, measured as if they were different, and in both orders.

    python benchmarks/latency_quality.py --device onnxruntime:cpu --model resnet18

Writes results/latency_quality.csv (one row a try) and results/latency_quality.md.
"""

from __future__ import annotations

import argparse
import copy
import csv
import datetime
import os
import statistics
from pathlib import Path

import torch
import torchvision

from ghostsearch.measure.devices.table import get_device
from ghostsearch.measure.latency import measure_latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append")
    parser.add_argument("--device", action="append")
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time-limit", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("results/latency_quality"))
    given = parser.parse_args()
    rows = []
    for device in given.device or ["onnxruntime:cpu"]:
        for name in given.model or ["resnet18", "mobilenet_v2"]:
            rows += [one_try(name, device, i, given) for i in range(given.tries)]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    page = _page(given, rows)
    given.out.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)


def one_try(name: str, device: str, number: int, given: argparse.Namespace) -> dict[str, object]:
    """Ratio of a copy to its original; every second try exchanges the two, so that neither's place decides."""
    torch.manual_seed(number)
    model = torchvision.models.get_model(name, weights=None).eval()
    pair = [model, copy.deepcopy(model)]
    if number % 2:
        pair.reverse()
    latency = measure_latency(
        {"copy": pair[1]}, torch.randn(1, 3, given.size, given.size), device=device, plain=pair[0],
        threads=given.threads, time_limit_s=given.time_limit, seed=number,
    )["copy"]  # fmt: skip
    assert latency.ratio is not None
    assert latency.ratio_interval is not None
    low, high = latency.ratio_interval
    row = {
        "device": device, "model": name, "try": number, "order": "exchanged" if number % 2 else "as made",
        "ratio": round(latency.ratio, 5), "low": round(low, 5), "high": round(high, 5), "median_s": latency.median_s,
        "calls": len(latency.times_s), "stopped": latency.stopped, "noisy": latency.noisy,
        "disturbed": latency.disturbed, "cores_busy": latency.cores_busy, "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    print(row, flush=True)
    return row


def _page(given: argparse.Namespace, rows: list[dict[str, object]]) -> str:
    lines = [
        "# A/A test of the latency measurement",
        "",
        "Two copies of one model measured as if they were different. The ratio should be 1; the target: a median error",
        f"of at most 2 % over {given.tries} tries on a machine that others use too (its load is in the CSV).",
        "",
        "| device | model | median error | largest error | as made | exchanged | interval held 1 | said noisy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for device, name in dict.fromkeys((r["device"], r["model"]) for r in rows):
        some = [r for r in rows if (r["device"], r["model"]) == (device, name)]
        errors = [abs(float(str(r["ratio"])) - 1) for r in some]
        orders = [
            statistics.median([float(str(r["ratio"])) for r in some if r["order"] == order] or [float("nan")])
            for order in ("as made", "exchanged")
        ]
        held = sum(float(str(r["low"])) <= 1 <= float(str(r["high"])) for r in some)
        figures = f"{statistics.median(errors):.2%} | {max(errors):.2%} | {orders[0]:.4f} | {orders[1]:.4f}"
        noisy = sum(bool(r["noisy"]) for r in some)
        lines.append(f"| {device} | {name} | {figures} | {held} of {len(some)} | {noisy} |")
    first = get_device(str(rows[0]["device"]))
    versions = ", ".join(f"{k} {v}" for k, v in first.versions().items())
    command = "python benchmarks/latency_quality.py" + "".join(f" --device {d}" for d in given.device or [])
    return "\n".join(
        [
            *lines,
            "",
            f"{first.place()}, {given.threads} thread(s), batch 1, {given.size}², {versions}, "
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}. Command: `{command}`.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
