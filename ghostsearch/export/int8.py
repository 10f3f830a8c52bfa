"""Post-training quantization to int8 by ONNX Runtime: size, latency and score before and after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghostsearch.export.detector import write_detector
from ghostsearch.export.formats.base import INPUT_NAME
from ghostsearch.export.formats.onnx_format import Onnx
from ghostsearch.export.writer import exported_program, notes, publish, workplace
from ghostsearch.graph.capture import copied
from ghostsearch.graph.detector import is_detector
from ghostsearch.measure.devices.base import refusals
from ghostsearch.measure.devices.onnxruntime_cpu import OnnxRuntimeCpu
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.int8_module import feeds, single_images
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.onnx_graph.quantize import Int8Options, float_nodes, quantized, weight_bits
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import LoadedModel, example_input
from ghostsearch.training.evaluate import evaluate
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.tasks.classification import Classification

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Int8Result:
    """The quantized file beside the float one it was made from."""

    path: str
    size_bytes: int
    float_size_bytes: int
    latency_s: float
    """Median seconds per forward at batch 1 on ONNX Runtime, one thread, interleaved with the float file."""
    float_latency_s: float
    latency_ratio: float
    ratio_interval: tuple[float, float] | None
    """95 % confidence interval of `latency_ratio`; below 1 the quantized file is faster."""
    metric: str
    score: float
    float_score: float
    calibration_images: int
    weight_bits: int
    """7 where the processor's 8-bit products would saturate (x86 without VNNI), else 8."""
    float_nodes: tuple[str, ...]
    """Operators that still compute in float."""
    seconds: float
    """Wall time of everything."""


def quantize(
    model: LoadedModel,
    calibration: Iterable[Tensor],
    test: Iterable[Any],
    out: Path,
    *,
    task: Task | None = None,
    options: Int8Options | None = None,
    time_limit_s: float = 10.0,
    progress: Progress | None = None,
) -> Int8Result:
    """Write a model as ONNX with int8 weights and activations, and measure what that costs and gains.

    `calibration` yields images (N, C, H, W), whose ranges set the activations' scales (static quantization,
    weights per channel); `test` yields (images, target) batches for the score of both files.
    Raises GhostsearchError when the model cannot be exported or quantized, or the file cannot be written.
    """
    started, task = time.perf_counter(), task or Classification()
    module = copied(model.module).to("cpu", torch.float32).eval().requires_grad_(False)
    batches = list(calibration)
    with refusals("int8"), workplace(out) as folder, workplace(out) as drafts:
        baseline, small = folder / "float.onnx", drafts / out.name
        if is_detector(module):
            write_detector(module, model.input, baseline, notes(model))
            batches = single_images(batches)
        else:
            program, _ = exported_program(module, model, Onnx.max_batch)
            Onnx().write(program, baseline, notes(model))
        small.write_bytes(quantized(baseline.read_bytes(), feeds((INPUT_NAME,), batches), options))
        files = {"float": OnnxModule.read(baseline), "int8": OnnxModule.read(small)}
        scores = {name: evaluate(file, test, task, progress=progress) for name, file in files.items()}
        latency = measure_latency(
            {"int8": files["int8"]}, example_input(model.input), device=OnnxRuntimeCpu(), baseline=files["float"],
            setting=Setting(time_limit=time_limit_s), progress=progress,
        )["int8"]  # fmt: skip
        sizes, left = (baseline.stat().st_size, small.stat().st_size), float_nodes(files["int8"].graph)
        publish(drafts, out)
    before, ratio = latency.baseline_median_s, latency.ratio
    assert before is not None
    assert ratio is not None
    return Int8Result(
        str(out), sizes[1], sizes[0], latency.median_s, before, ratio, latency.ratio_interval, task.metric,
        scores["int8"], scores["float"], sum(map(len, batches)), weight_bits(), tuple(left),
        time.perf_counter() - started,
    )  # fmt: skip
