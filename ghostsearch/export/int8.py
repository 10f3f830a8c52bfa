"""Post-training quantization to int8, an ONNX file or an ExecuTorch program: size, latency, score before and after."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.export.formats.onnx_format import with_notes
from ghostsearch.export.writer import notes, publish, workplace
from ghostsearch.graph.capture import tensors
from ghostsearch.measure.devices.base import refusals
from ghostsearch.measure.devices.executorch_xnnpack import ExecutorchXnnpack, ExecutorchXnnpackInt8
from ghostsearch.measure.devices.onnxruntime_cpu import OnnxRuntimeCpu
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.int8_module import FloatFile, single_images
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.onnx_graph.names import layer_of, require_layers
from ghostsearch.measure.onnx_graph.noise import NOISIEST, LayerNoise
from ghostsearch.measure.onnx_graph.quantize import Int8Options, float_nodes, weight_bits
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import LoadedModel, example_input
from ghostsearch.records import Latency
from ghostsearch.training.evaluate import evaluate
from ghostsearch.training.tasks.base import Task


@dataclass(frozen=True)
class KeptFloat:
    """What it would cost to keep the noisiest layer in float."""

    layer: str
    latency_ratio: float
    """Over the int8 file's latency."""
    score: float | None


@dataclass(frozen=True)
class Int8Result:
    """The quantized file beside the float one it was made from."""

    path: str
    size_bytes: int
    float_size_bytes: int
    latency_s: float
    """Median seconds per forward at batch 1 on the file's runtime, one thread, interleaved with the float file."""
    float_latency_s: float
    latency_ratio: float
    ratio_interval: tuple[float, float] | None
    """95 % confidence interval of `latency_ratio`; below 1 the quantized file is faster."""
    metric: str
    """Empty where no task scores the model."""
    score: float | None
    float_score: float | None
    calibration_images: int
    weight_bits: int
    """7 where the processor's 8-bit products would saturate (x86 without VNNI), else 8."""
    float_nodes: tuple[str, ...]
    """Layer and operator of what still computes in float."""
    noisiest: tuple[LayerNoise, ...]
    """The layers into which int8 puts most noise, each by itself, worst first."""
    kept_float: KeptFloat | None
    """The worst of them in float instead; None where nothing was quantized."""
    seconds: float
    """Wall time of everything."""
    runtime: str
    """What the file is for, and was timed on."""
    batch: str
    """Which batches the file takes: `any`, or `1`."""


@dataclass(frozen=True)
class Judges:
    """How the files are judged: images with their targets, the task that scores, and how latencies are measured."""

    test: Iterable[Any]
    task: Task | None = None
    """None for a model that no task here scores: its file is then run without a score."""
    setting: Setting = field(default_factory=lambda: Setting(time_limit=10.0))
    options: Int8Options = field(default_factory=Int8Options)
    must_match: bool = True
    """Whether each pattern of what stays in float must name a layer: a study's may be of layers that a model lost."""


def quantize(model: LoadedModel, calibration: Iterable[Tensor], out: Path, judges: Judges) -> Int8Result:
    """Write a model as ONNX with int8 weights and activations, run it, and measure what that costs and gains.

    `calibration` yields images (N, C, H, W), whose ranges set the activations' scales (static quantization, weights per
    channel); `judges.test` yields (images, target) batches for the score of both files. A model that takes one image
    at a time gets its images one by one.
    Raises GhostsearchError when the model cannot be exported or quantized, or the file cannot be written or run.
    """
    import onnx

    started, options = time.perf_counter(), judges.options
    with refusals("int8"), workplace(out) as drafts:
        file, batches = FloatFile.of(model.module, example_input(model.input)), list(calibration)
        file.check(model.module, batches[0])
        if judges.must_match:
            require_layers(options.keep_float, map(layer_of, onnx.load_from_string(file.graph).graph.node))
        made = file.int8(batches, options)
        noise = made.noise()
        files = {
            "float": OnnxModule(file.graph),
            "int8": OnnxModule(with_notes(onnx.load_from_string(made.graph), notes(model)).SerializeToString()),
        }
        if noise:
            spared = replace(options, keep_float=(*options.keep_float, noise[0].layer))
            files["kept"] = OnnxModule(file.int8(batches, spared).graph)
        (drafts / out.name).write_bytes(files["int8"].graph)
        scores = {name: score_of_file(module, judges, batches[0]) for name, module in files.items()}
        timed = measure_latency(
            {name: files[name] for name in files if name != "float"}, example_input(model.input),
            device=OnnxRuntimeCpu(), baseline=files["float"], setting=judges.setting,
        )  # fmt: skip
        publish(drafts, out)
    kept = None
    if noise:
        kept = KeptFloat(noise[0].layer, timed["kept"].median_s / timed["int8"].median_s, scores["kept"])
    return _result(
        out, (len(file.graph), len(files["int8"].graph)), timed["int8"], scores, judges, runtime="ONNX Runtime",
        batch="1" if next(iter(files["int8"].inputs.values()))[0] == 1 else "any",
        calibration_images=sum(map(len, batches)), weight_bits=weight_bits(), noisiest=noise[:NOISIEST],
        kept_float=kept, float_nodes=tuple(float_nodes(made.graph)), seconds=time.perf_counter() - started,
    )  # fmt: skip


def quantize_for_executorch(model: LoadedModel, calibration: Iterable[Tensor], out: Path, judges: Judges) -> Int8Result:
    """Write a model as an int8 ExecuTorch program (.pte) for one image, run it, and measure what that costs and gains.

    calibration: images (N, C, H, W), whose ranges set the activations' scales. No layer's noise is judged.
    Raises GhostsearchError without ExecuTorch, for layers to keep in float, when the model cannot be lowered, or the
    file cannot be written or run.
    """
    started, runtime, quantizer = time.perf_counter(), ExecutorchXnnpack(), ExecutorchXnnpackInt8()
    if judges.options.keep_float:
        raise GhostsearchError("--keep-float is for ONNX files; leave it or --format executorch out")
    quantizer.check()
    example, images = example_input(model.input), single_images(calibration)
    with workplace(out) as drafts:
        floating, small = runtime.lower(model.module, example, []), quantizer.lower(model.module, example, images)
        (drafts / out.name).write_bytes(small.program)
        with refusals(quantizer.name):
            scores = {n: score_of_file(f, judges, images[0]) for n, f in (("float", floating), ("int8", small))}
        timed = measure_latency({"int8": small}, example, device=runtime, baseline=floating, setting=judges.setting)
        publish(drafts, out)
    return _result(
        out, (len(floating.program), len(small.program)), timed["int8"], scores, judges, runtime="ExecuTorch",
        batch="1", calibration_images=len(images), weight_bits=8, noisiest=(), kept_float=None,
        float_nodes=small.in_float, seconds=time.perf_counter() - started,
    )  # fmt: skip


def _result(
    out: Path, sizes: tuple[int, int], latency: Latency, scores: Mapping[str, float | None], judges: Judges,
    **others: Any,
) -> Int8Result:  # fmt: skip
    """What was found of a file; sizes: bytes of the float file and its own."""
    assert latency.baseline_median_s is not None
    assert latency.ratio is not None
    return Int8Result(
        path=str(out), size_bytes=sizes[1], float_size_bytes=sizes[0], latency_s=latency.median_s,
        float_latency_s=latency.baseline_median_s, latency_ratio=latency.ratio, ratio_interval=latency.ratio_interval,
        metric=judges.task.metric if judges.task else "", score=scores["int8"], float_score=scores["float"], **others,
    )  # fmt: skip


def score_of_file(file: nn.Module, judges: Judges, images: Tensor) -> float | None:
    """The task's score of a file; without a task the file is run once, on images.

    Raises GhostsearchError when its outputs there are no numbers.
    """
    if judges.task is not None:
        return evaluate(file, judges.test, judges.task)
    for value in tensors(file(images)):
        if not np.isfinite(value.numpy()).all():
            raise GhostsearchError("the output of the quantized file on a calibration image is not finite")
    return None
