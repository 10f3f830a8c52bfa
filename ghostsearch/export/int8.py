"""Post-training quantization to int8 by ONNX Runtime: size, latency and score before and after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.export.formats.base import INPUT_NAME, quiet
from ghostsearch.export.formats.ghost_norm import split_ghost_norms
from ghostsearch.export.formats.onnx_format import Onnx, onnx_runner
from ghostsearch.export.writer import exported_program, notes, publish, workplace
from ghostsearch.graph.capture import copied
from ghostsearch.measure.devices.base import RunOptions, refusals
from ghostsearch.measure.devices.onnxruntime_cpu import OnnxRuntimeCpu, OnnxRuntimePrepared, cpu_session
from ghostsearch.measure.latency import measure_latency
from ghostsearch.models.load import LoadedModel, example_input
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.tasks.classification import Classification
from ghostsearch.training.train import evaluate

Progress = Callable[[int, int, str], None]

VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})
"""Processor flags (as in /proc/cpuinfo) of 8-bit dot products that do not saturate halfway."""


@dataclass(frozen=True)
class Int8Result:
    """The quantized file beside the float one it was made from."""

    path: str
    size_bytes: int
    float_size_bytes: int
    latency_s: float
    """Median seconds a forward at batch 1 on ONNX Runtime, one thread, timed in turns with the float file."""
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
    seconds: float
    """Wall time of everything."""


def quantize(
    model: LoadedModel,
    calibration: Iterable[Tensor],
    test: Iterable[Any],
    out: Path,
    *,
    task: Task | None = None,
    split_norms: bool = True,
    time_limit_s: float = 10.0,
    progress: Progress | None = None,
) -> Int8Result:
    """Write a model as ONNX with int8 weights and activations, and tell what that costs and gains.

    `calibration` yields images (N, C, H, W), whose ranges set the activations' scales (static quantization,
    weights per channel); `test` yields (images, target) batches for the score of both files. `split_norms` splits the
    BatchNorm behind a ghost, so that it can be folded; without it the quantizer is left to itself, for comparison.
    Raises GhostsearchError when the model cannot be exported or quantized, or the file cannot be written.
    """
    started, task = time.perf_counter(), task or Classification()
    module = copied(model.module).to("cpu", torch.float32).eval().requires_grad_(False)
    batches = list(calibration)
    bits = 8 if VNNI_FLAGS & processor_flags() else 7
    with refusals("int8"), workplace(out) as folder, workplace(out) as drafts:
        baseline, small = folder / "float.onnx", drafts / out.name
        program, _ = exported_program(module, model, Onnx.max_batch)
        Onnx().write(program, baseline, notes(model))
        _quantize_file(baseline, small, batches, bits, split_norms=split_norms)
        files = {"float": OnnxFile(baseline), "int8": OnnxFile(small)}
        scores = {name: evaluate(file, test, task, progress=progress) for name, file in files.items()}
        latency = measure_latency(
            {"int8": files["int8"]}, example_input(model.input), device=OnnxFileDevice(), baseline=files["float"],
            time_limit_s=time_limit_s, progress=progress,
        )["int8"]  # fmt: skip
        sizes = baseline.stat().st_size, small.stat().st_size
        publish(drafts, out)
    before, ratio = latency.baseline_median_s, latency.ratio
    assert before is not None
    assert ratio is not None
    return Int8Result(
        str(out), sizes[1], sizes[0], latency.median_s, before, ratio, latency.ratio_interval, task.metric,
        scores["int8"], scores["float"], sum(map(len, batches)), bits, time.perf_counter() - started,
    )  # fmt: skip


def _quantize_file(source: Path, target: Path, batches: list[Tensor], bits: int, *, split_norms: bool) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Hands calibration images to the quantizer, batch by batch."""

        def __init__(self) -> None:
            self.feeds: Iterator[Mapping[str, np.ndarray]] = iter(
                {INPUT_NAME: np.ascontiguousarray(b.numpy())} for b in batches
            )

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.feeds, None)

    prepared = source.with_name("prepared.onnx")
    graph = onnx.load(source)
    if split_norms:
        split_ghost_norms(graph)
    onnx.save(graph, prepared)
    with quiet():
        # Folds BatchNorm into convolutions, so that both are quantized as one.
        quant_pre_process(prepared, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=bits == 7,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip


def processor_flags() -> frozenset[str]:
    """Flags of this processor as Linux tells them; empty elsewhere, which stands for the cautious choice."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return frozenset()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return frozenset(word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split())


class OnnxFile(nn.Module):
    """An ONNX file in the place of a module, so that scoring and timing treat both alike."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.run = onnx_runner(path)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The file's outputs: one tensor, or a tuple where it has several."""
        outputs = tuple(map(torch.from_numpy, self.run(images.contiguous())))
        return outputs[0] if len(outputs) == 1 else outputs


class OnnxFileDevice(OnnxRuntimeCpu):
    """ONNX Runtime on the CPU, running `OnnxFile`s as they are."""

    def prepare(self, model: nn.Module, example: Any, options: RunOptions) -> OnnxRuntimePrepared:
        """A session over the file."""
        if not isinstance(model, OnnxFile):
            raise GhostsearchError(f"{type(model).__name__} is no ONNX file")
        session = cpu_session(model.path.read_bytes(), options.threads)
        return OnnxRuntimePrepared(session, {INPUT_NAME: example.numpy()})
