"""Post-training quantization to int8 by XNNPACK's quantizer: an ExecuTorch program beside the float one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from ghostsearch.errors import GhostsearchError
from ghostsearch.export.int8 import Int8Result, Judges, score_of_file
from ghostsearch.export.writer import publish, workplace
from ghostsearch.measure.devices.base import refusals
from ghostsearch.measure.devices.executorch_xnnpack import ExecutorchXnnpack, ExecutorchXnnpackInt8
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.int8_module import single_images
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import LoadedModel, example_input


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
            before, score = (score_of_file(file, judges, images[0]) for file in (floating, small))
        latency = measure_latency(
            {"int8": small}, example, device=runtime, baseline=floating, setting=Setting(time_limit=judges.time_limit_s)
        )["int8"]
        publish(drafts, out)
    assert latency.baseline_median_s is not None
    assert latency.ratio is not None
    return Int8Result(
        path=str(out), size_bytes=len(small.program), float_size_bytes=len(floating.program), runtime="ExecuTorch",
        latency_s=latency.median_s, float_latency_s=latency.baseline_median_s, latency_ratio=latency.ratio,
        ratio_interval=latency.ratio_interval, metric=judges.task.metric if judges.task else "", score=score,
        float_score=before, calibration_images=len(images), weight_bits=8, float_nodes=small.in_float, noisiest=(),
        kept_float=None, seconds=time.perf_counter() - started,
    )  # fmt: skip
