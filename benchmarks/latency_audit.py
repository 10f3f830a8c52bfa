"""Audit of the latency table on whole models: 30 unseen random architectures each, beside MACs and FLOPs interpolation.

    python benchmarks/latency_audit.py --device onnxruntime:cpu --model resnet18 --model resnet50 --model mobilenet_v2

Writes results/latency_audit.csv (one row an architecture) and results/latency_audit.md (the errors, and how they were
taken).
"""

from __future__ import annotations

import argparse
import csv
import datetime
import tempfile
import time
from pathlib import Path

import torch
import torchvision

from ghostsearch.convert.sites import find_sites
from ghostsearch.measure.audit import AUDIT_MODELS, Audit, audit, fit_correction
from ghostsearch.measure.table import Setting, profile
from ghostsearch.presets import load_preset


def run(name: str, setting: Setting, size: int, space: str, models: int, model_s: float) -> tuple[Audit, float, int]:
    """The audit of one torchvision model, the seconds that its profile took and its vetoed choices."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    example = torch.randn(1, 3, size, size)
    anatomy = find_sites(model, example)
    offered = load_preset(space).resolve(anatomy)
    start = time.perf_counter()
    # A table of its own: cells kept from a busier hour would be audited instead of the method.
    with tempfile.TemporaryDirectory() as directory:
        table = profile(model, example, anatomy, offered, setting, directory=Path(directory), progress=_print)
        took = time.perf_counter() - start
        fit_correction(table, model, example, anatomy, model_s=model_s, progress=_print)
    result = audit(table, model, example, anatomy, count=models, model_s=model_s, progress=_print)
    return result, took, len(table.vetoed())


def _print(done: int, total: int, text: str) -> None:
    if done == total or done % 20 == 0:
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append")
    parser.add_argument("--device", default="onnxruntime:cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--space", default="ghost")
    parser.add_argument("--models", type=int, default=AUDIT_MODELS)
    parser.add_argument("--model-s", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=Path("results/latency_audit"))
    given = parser.parse_args()
    setting = Setting.of(given.device, threads=given.threads, batch=given.batch)
    names = given.model or ["resnet18", "resnet50", "mobilenet_v2"]
    rows, lines = [], []
    for name in names:
        result, took, vetoed = run(name, setting, given.size, given.space, given.models, given.model_s)
        rows += [{"model": name, **row} for row in result.models]
        noisy = sum(row["noisy"] for row in result.models)
        for row in result.rows:
            figures = f"{row.mape:.1%} | {row.tau:.3f} | {row.worst:.1%}"
            taken = f"{result.plain_s * 1e3:.1f} ms | {took:.0f} s | {vetoed} | {noisy}"
            lines.append(f"| {name} | {row.predictor} | {figures} | {taken} |")
            print(lines[-1], flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    given.out.with_suffix(".md").write_text(_page(given, setting, lines), encoding="utf-8")


def _page(given: argparse.Namespace, setting: Setting, lines: list[str]) -> str:
    device = setting.device
    versions = ", ".join(f"{k} {v}" for k, v in device.versions().items())
    return "\n".join(
        [
            "# Audit of the latency table",
            "",
            f"{given.models} unseen random architectures of the space `{given.space}`, built, measured interleaved",
            "with the plain model, compared with what was predicted. Errors are of the ratio to the plain model.",
            "",
            "| model | predictor | MAPE | Kendall τ | worst | plain | profile took | vetoed | noisy of the measured |",
            "|---|---|---|---|---|---|---|---|---|",
            *lines,
            "",
            f"Device {device.name}, {device.place()}, {given.threads} thread(s), batch {given.batch}, {given.size}².",
            f"{versions}. {datetime.datetime.now(datetime.UTC):%Y-%m-%d}.",
            f"Command: `python benchmarks/latency_audit.py --device {given.device} --batch {given.batch} "
            f"--space {given.space} --models {given.models}`.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
