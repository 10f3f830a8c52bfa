"""Post-training quantization to int8 by ONNX Runtime: size, latency and score before and after."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.export.formats.base import INPUT_NAME
from ghostsearch.export.formats.onnx_format import with_notes
from ghostsearch.export.writer import notes, publish, workplace
from ghostsearch.graph.capture import copied, tensors
from ghostsearch.graph.detector import is_detector
from ghostsearch.measure.devices.base import refusals
from ghostsearch.measure.devices.onnxruntime_cpu import OnnxRuntimeCpu
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.int8_module import feeds, single_images
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.onnx_graph.names import layer_of, require_layers
from ghostsearch.measure.onnx_graph.noise import LayerNoise
from ghostsearch.measure.onnx_graph.quantize import Int8Options, float_nodes, quantized, weight_bits
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import LoadedModel, example_input
from ghostsearch.training.evaluate import evaluate
from ghostsearch.training.tasks.base import Task

SHOWN = 5
"""Layers named as the noisiest."""


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
    runtime: str = "ONNX Runtime"
    """What the file is for, and was timed on."""


@dataclass(frozen=True)
class Judges:
    """How the files are judged: images with their targets, the task that scores, and the time for latencies."""

    test: Iterable[Any]
    task: Task | None = None
    """None for a model that no task here scores: its file is then run without a score."""
    time_limit_s: float = 10.0
    options: Int8Options = field(default_factory=Int8Options)


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
        graph, batched = _graph(model)
        batches = list(calibration) if batched else single_images(calibration)
        require_layers(options.keep_float, map(layer_of, onnx.load_from_string(graph).graph.node))
        made = quantized(graph, feeds((INPUT_NAME,), batches), options)
        noise = made.noise()
        files = {
            "float": OnnxModule(graph),
            "int8": OnnxModule(with_notes(onnx.load_from_string(made.graph), notes(model)).SerializeToString()),
        }
        if noise:
            spared = replace(options, keep_float=(*options.keep_float, noise[0].layer))
            files["kept"] = OnnxModule(quantized(graph, feeds((INPUT_NAME,), batches), spared).graph)
        (drafts / out.name).write_bytes(files["int8"].graph)
        scores = {name: score_of_file(file, judges, batched=batched, images=batches[0]) for name, file in files.items()}
        timed = measure_latency(
            {name: files[name] for name in files if name != "float"}, example_input(model.input),
            device=OnnxRuntimeCpu(), baseline=files["float"], setting=Setting(time_limit=judges.time_limit_s),
        )  # fmt: skip
        publish(drafts, out)
    latency = timed["int8"]
    before, ratio = latency.baseline_median_s, latency.ratio
    assert before is not None
    assert ratio is not None
    kept = None
    if noise:
        kept = KeptFloat(noise[0].layer, timed["kept"].median_s / latency.median_s, scores["kept"])
    return Int8Result(
        str(out), len(files["int8"].graph), len(graph), latency.median_s, before, ratio, latency.ratio_interval,
        judges.task.metric if judges.task else "", scores["int8"], scores["float"], sum(map(len, batches)),
        weight_bits(), tuple(float_nodes(made.graph)), noise[:SHOWN], kept, time.perf_counter() - started,
    )  # fmt: skip


def _graph(model: LoadedModel) -> tuple[bytes, bool]:
    """The model's ONNX graph, and whether it takes any batch; traced, so that its nodes bear their layers' names."""
    module = copied(model.module).to("cpu", torch.float32).eval().requires_grad_(False)
    example = example_input(model.input)
    if is_detector(module):
        return onnx_bytes(module, example, input_names=(INPUT_NAME,))[0], False
    try:
        graph = onnx_bytes(module, example, free_batch=True, input_names=(INPUT_NAME,))[0]
        _check_batch(graph, module, example_input(model.input, 2))
    # Anything may be raised by tracing and running with a free batch; a fixed one may still do.
    except Exception:  # noqa: BLE001
        return onnx_bytes(module, example, input_names=(INPUT_NAME,))[0], False
    return graph, True


def _check_batch(graph: bytes, module: nn.Module, images: Tensor) -> None:
    """Raise when a graph gives other shapes than the module on a batch that it was not traced with."""
    with torch.no_grad():
        wanted = [y.shape for y in tensors(module(images))]
    found = OnnxModule(graph)(images)
    if [y.shape for y in (found if isinstance(found, tuple) else (found,))] != wanted:
        raise GhostsearchError("the graph's batch is fixed")


def score_of_file(file: nn.Module, judges: Judges, *, batched: bool, images: Tensor) -> float | None:
    """The task's score of a file; without a task the file is run once.

    Raises GhostsearchError when its outputs there are no numbers.
    """
    if judges.task is not None:
        # A detector's graph takes the images of a batch one by one as it is.
        test = judges.test if batched or getattr(file, "detects", False) else _one_by_one(judges.test)
        return evaluate(file, test, judges.task)
    outputs = file(images)
    for value in outputs if isinstance(outputs, tuple) else (outputs,):
        if not np.isfinite(value.numpy()).all():
            raise GhostsearchError("the output of the quantized file on a calibration image is not finite")
    return None


def _one_by_one(batches: Iterable[Any]) -> Iterator[Any]:
    for images, target in batches:
        for i in range(len(images)):
            yield images[i : i + 1], None if target is None else target[i : i + 1]
