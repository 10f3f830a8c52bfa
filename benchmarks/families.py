"""Pruning, decomposition, ghosts and quantization side by side on one trained net, before any label is used.

Stages, each of which goes on where it was stopped:

    python benchmarks/families.py fit     closed-form weights of every family, a model directory each
    python benchmarks/families.py score   float and int8 files of each, and their test accuracy
    python benchmarks/families.py time    all files in one interleaved run, on a quiet machine
    python benchmarks/families.py page    results/families.* and results/int8.*; without latencies where none were taken

Run from a folder with cifar10-jpeg/, cifar10-jpeg-val.txt and cifar_resnet20_jpeg.safetensors.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ghostsearch.data.calibration import calibration_batches
from ghostsearch.data.load import Data, load_data
from ghostsearch.export.convert_directory import convert_and_save
from ghostsearch.export.int8 import Judges, quantize
from ghostsearch.export.writer import export
from ghostsearch.files import write_text
from ghostsearch.machine import processor
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.devices.onnxruntime_cpu import OnnxRuntimeCpu
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.onnx_graph.quantize import Int8Options
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import LoadedModel, example_input, load_model
from ghostsearch.records import Latency
from ghostsearch.report.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.saved import load_directory, save
from ghostsearch.training.tasks.classification import Classification

MODEL, WEIGHTS = "ghostsearch:resnet20", Path("cifar_resnet20_jpeg.safetensors")
FAMILIES = {
    "baseline": ("none", ""),
    "ghost": ("ghost", "ghost(ratio=2, kernel=3)"),
    "ghost1": ("ghost", "ghost(ratio=2, kernel=1)"),
    "lowrank": ("decomposition", "lowrank(rank=0.5)"),
    "width": ("pruning", "width(0.5)"),
}
"""A short name, the family and the choice that goes everywhere it fits: each about half the multiply-adds."""
FIT_IMAGES, SCALE_IMAGES, TIMING_S = 512, 256, 90.0
TIMES = "latencies.json"


def fit(work: Path, seed: int) -> None:
    """Convert the baseline by every choice, calibrated without labels."""
    for name, (_, choice) in FAMILIES.items():
        folder = work / f"{name}-{seed}"
        if (folder / "done.json").exists():
            continue
        loaded = load_model(MODEL, weights=WEIGHTS)
        if choice:
            data = "folder:cifar10-jpeg"
            convert_and_save(loaded, folder, choice=choice, calibration=data, images=FIT_IMAGES, seed=seed)
        else:
            save(loaded.module, folder, source=loaded, architecture=Architecture())
        write_text(folder / "done.json", "true\n")
        print(folder)


def score(work: Path, seed: int, data: Data) -> None:
    """Write each model as float and as int8 ONNX and score the files on the test split."""
    for name in FAMILIES:
        folder = work / f"{name}-{seed}"
        model = load_directory(folder)
        if not (folder / "float.onnx").exists():
            export(model, "onnx", folder / "float.onnx")
        # The quantizer by itself, without our split of the ghosts' norms, for comparison.
        for kind, split in (("int8", True), *((("unsplit", False),) if name.startswith("ghost") else ())):
            row = folder / f"{kind}.json"
            if not row.exists():
                found = int8_row(model, data, folder / f"{kind}.onnx", seed, split=split)
                write_text(row, json.dumps(found))
                print(row, found)


def int8_row(model: LoadedModel, data: Data, out: Path, seed: int, *, split: bool) -> dict[str, Any]:
    """Quantize to `out` and score both files; the timing here is not used."""
    batches = calibration_batches(data, SCALE_IMAGES, seed=seed)
    options = Int8Options(split_norms=split, equalize=split)
    result = quantize(model, batches, out, Judges(data.test, Classification(), 0.2, options))
    return dataclasses.asdict(result)


def float_rows(work: Path, seeds: Sequence[int], timings: dict[str, Latency]) -> list[dict[str, Any]]:
    """The families in float32: cost, latency, accuracy."""
    rows = []
    baseline = measure_cost(load_directory(work / "baseline-0").module, example_input(load_model(MODEL).input))
    for name, (family, choice) in FAMILIES.items():
        model = load_directory(work / f"{name}-0")
        cost, latency = measure_cost(model.module, example_input(model.input)), timings.get(f"{name} float")
        scores = [read(work / f"{name}-{seed}" / "int8.json")["float_score"] for seed in seeds]
        rows.append(
            {
                "family": family, "choice": choice or "keep", "params": cost.params, "macs": cost.macs,
                "macs_share": cost.macs / baseline.macs, "latency_ms": latency.median_s * 1e3 if latency else None,
                "latency_share": latency.ratio if latency else None, "accuracy_percent": 100 * statistics.mean(scores),
                "spread": 100 * (max(scores) - min(scores)),
            }
        )  # fmt: skip
    int8 = read(work / "baseline-0" / "int8.json")
    latency = timings.get("baseline int8")
    rows.append(
        {
            "family": "quantization", "choice": "int8", "params": baseline.params, "macs": baseline.macs,
            "macs_share": 1.0,
            "latency_ms": latency.median_s * 1e3 if latency else None,
            "latency_share": latency.ratio if latency else None,
            "accuracy_percent": 100 * int8["score"], "spread": None,
        }
    )  # fmt: skip
    return rows


def int8_rows(work: Path, seeds: Sequence[int], timings: dict[str, Latency]) -> list[dict[str, Any]]:
    """Each family's float file beside its int8 file."""
    rows = []
    for name, (_, choice) in FAMILIES.items():
        for kind in ("int8", "unsplit"):
            found = [read(p) for seed in seeds if (p := work / f"{name}-{seed}" / f"{kind}.json").exists()]
            if not found:
                continue
            before, after = (x.median_s if (x := timings.get(f"{name} {k}")) else None for k in ("float", kind))
            drops = [100 * (x["score"] - x["float_score"]) for x in found]
            rows.append(
                {
                    "model": choice or "baseline", "quantizer": "ours" if kind == "int8" else "ONNX Runtime's alone",
                    "float_kB": found[0]["float_size_bytes"] / 1e3, "int8_kB": found[0]["size_bytes"] / 1e3,
                    "float_ms": before and before * 1e3, "int8_ms": after and after * 1e3,
                    "time_share": before and after and after / before,
                    "float_percent": 100 * statistics.mean(x["float_score"] for x in found),
                    "int8_percent": 100 * statistics.mean(x["score"] for x in found),
                    "change_points": statistics.mean(drops), "worst_change": min(drops),
                }
            )  # fmt: skip
    return rows


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


def measure(work: Path) -> None:
    """Time every file of the first seed in turns with the baseline's float file on one thread; keep the times."""
    files = {
        f"{name} {kind}": OnnxModule.read(path)
        for name in FAMILIES
        for kind in ("float", "int8", "unsplit")
        if (path := work / f"{name}-0" / f"{kind}.onnx").exists()
    }
    example = example_input(load_model(MODEL).input)
    found = measure_latency(
        files, example, device=OnnxRuntimeCpu(), baseline=files["baseline float"], setting=Setting(time_limit=TIMING_S)
    )
    write_text(work / TIMES, json.dumps({name: x.model_dump(mode="json") for name, x in found.items()}))


def timings_of(work: Path) -> dict[str, Latency]:
    """The kept latencies; none before the stage that takes them."""
    path = work / TIMES
    return {name: Latency.model_validate(x) for name, x in read(path).items()} if path.exists() else {}


def pages(work: Path, seeds: Sequence[int], timings: dict[str, Latency]) -> list[ResultPage]:
    """Two pages from the same rows: the families in float, and what int8 does to each."""
    floats, ints = float_rows(work, seeds, timings), int8_rows(work, seeds, timings)
    common = {"command": commands(), "device": f"{processor()}, ONNX Runtime, 1 thread, batch 1", "seed": 0}
    test = (
        f"CIFAR-10 (JPEG), all 10,000 test images; mean over calibration seed {', '.join(map(str, seeds))}. "
        f"No label was used: weights in closed form from {FIT_IMAGES} training images, int8 scales from {SCALE_IMAGES}."
    )
    noisy = [name for name, x in timings.items() if x.noisy]
    timed = f"All files timed in one interleaved run; noisy: {', '.join(noisy) or 'none'}."
    timed = timed if timings else "Latency was not taken in this run."
    best = max((r for r in floats if r["family"] not in ("none", "quantization")), key=lambda r: r["accuracy_percent"])
    ghost = [r for r in ints if r["model"].startswith("ghost") and r["quantizer"] == "ours"]
    alone = [r for r in ints if r["model"].startswith("ghost") and r["quantizer"] != "ours"]
    baseline = next(r for r in ints if r["model"] == "baseline")
    changes = [", ".join(f"{r['change_points']:+.2f}" for r in rows) for rows in (ghost, alone)]
    return [
        ResultPage(
            name="families", title="Four families of compression on ResNet-20, before any label",
            claim="At about half the multiply-adds and without training, the best single family, used everywhere",
            figure=f"{best['choice']}: {best['accuracy_percent']:.1f} % (baseline "
            f"{floats[0]['accuracy_percent']:.1f} %, "
            f"int8 of the baseline {floats[-1]['accuracy_percent']:.1f} %)",
            tables=[ResultTable("Float32, and int8 of the baseline", floats)],
            notes=(test, f"spread: points between the best and the worst seed. {timed}"), **common,
        ),
        ResultPage(
            name="int8", title="Do ghost nets quantize badly?",
            claim="Points of accuracy that int8 costs: ghost nets, beside the baseline",
            figure=f"{changes[0]} against {baseline['change_points']:+.2f}; by the quantizer alone {changes[1]}",
            tables=[ResultTable("Post-training quantization by ONNX Runtime, static, weights per channel", ints)],
            notes=(
                test,
                "ONNX Runtime's alone: the same quantizer on the file as exported. It folds BatchNorm only into the "
                "convolution right before it; behind a ghost stands a concatenation, which ours splits first, exactly.",
                "Why kernel=1 loses so much more than kernel=3 was not found out.",
                timed,
            ),
            **common,
        ),
    ]  # fmt: skip


def commands() -> str:
    """The stages, as they were run."""
    last = script_command()
    return " && ".join(last.replace(" page", f" {stage}") for stage in ("fit", "score", "time", "page"))


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("fit", "score", "time", "page"))
    parser.add_argument("--work", type=Path, default=Path("families"), help="where models and rows are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stage == "time":
        measure(options.work)
        return
    if options.stage == "page":
        for page in pages(options.work, options.seeds, timings_of(options.work)):
            for path in publish(page, options.out):
                print(path)
        return
    data = load_data("folder:cifar10-jpeg", input=load_model(MODEL).input, validation_list=Path("cifar10-jpeg-val.txt"))
    for seed in options.seeds:
        fit(options.work, seed) if options.stage == "fit" else score(options.work, seed, data)


if __name__ == "__main__":
    main()
