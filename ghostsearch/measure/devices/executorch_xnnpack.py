"""ExecuTorch with the XNNPACK delegate, in float and in int8: what PyTorch deploys on phones, run on this CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError, MissingExtraError
from ghostsearch.graph.capture import copied, moved
from ghostsearch.measure.devices.base import Device, Prepared, quiet_exporter, refusals
from ghostsearch.measure.devices.int8 import INT8_TOLERANCE, int8_remark
from ghostsearch.measure.devices.torch_cpu import as_array
from ghostsearch.measure.inputs import Flat, flat_inputs
from ghostsearch.measure.setting import Setting


class LoweredProgram(nn.Module):
    """A model as the bytes of an ExecuTorch program; lowering takes seconds, loading milliseconds."""

    def __init__(self, program: bytes) -> None:
        super().__init__()
        self.program = program


def xnnpack_program(exported: torch.export.ExportedProgram) -> bytes:
    """An exported model lowered to XNNPACK, as the bytes of a .pte file."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with quiet_exporter():
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)


class ExecutorchPrepared(Prepared):
    """A loaded program's forward method."""

    def __init__(self, program: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        self.program = program
        self.method = program.load_method("forward")
        self.inputs = inputs

    def run(self) -> Any:
        return self.method.execute(self.inputs)

    def outputs(self) -> tuple[np.ndarray, ...]:
        return tuple(as_array(y).copy() for y in self.run())


class ExecutorchXnnpack(Device):
    """The model through torch.export, lowered to XNNPACK, executed by ExecuTorch's own runtime."""

    name = "executorch:xnnpack"
    packages: ClassVar[tuple[str, ...]] = ("executorch", "torch")

    def check(self) -> None:
        """Raise MissingExtraError without ExecuTorch, which is an extra."""
        import importlib.util

        if importlib.util.find_spec("executorch") is None:
            raise MissingExtraError("ExecuTorch", "executorch")

    @contextmanager
    def session(self, threads: int) -> Iterator[None]:
        """XNNPACK's thread pool is global to the process; it may only be resized while nothing runs.

        Raises GhostsearchError where it cannot have so many threads.
        """
        from executorch.extension.pybindings import portable_lib

        before = portable_lib._threadpool_get_thread_count()
        portable_lib._unsafe_reset_threadpool(threads)
        try:
            if portable_lib._threadpool_get_thread_count() != threads:
                raise GhostsearchError(f"{self.name} cannot run on {threads} threads here; try --threads {before}")
            yield
        finally:
            portable_lib._unsafe_reset_threadpool(before)

    def lowered(self, model: nn.Module, example: Any) -> nn.Module:
        """The model as a program's bytes: only loading them is done anew."""
        if isinstance(model, LoweredProgram):
            return model
        with refusals(self.name), quiet_exporter(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            example = moved(example, "cpu")
            flat = Flat(copied(model).to("cpu"), example).eval().requires_grad_(False)
            inputs = _inputs(example)
            return LoweredProgram(
                xnnpack_program(torch.export.export(self.captured(flat, inputs), inputs, strict=False))
            )

    def prepare(self, model: nn.Module, example: Any, setting: Setting) -> Prepared:
        """The lowered program, loaded from memory."""
        del setting
        from executorch.runtime import Runtime

        lowered = self.lowered(model, example)
        assert isinstance(lowered, LoweredProgram)
        with refusals(self.name):
            prepared = ExecutorchPrepared(Runtime.get().load_program(lowered.program), _inputs(moved(example, "cpu")))
            prepared.run()
        return prepared

    def captured(self, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> nn.Module:  # noqa: ARG002
        """What is lowered of a model."""
        return model


def _inputs(example: Any) -> tuple[torch.Tensor, ...]:
    return tuple(t.contiguous() for t in flat_inputs(example))


class ExecutorchXnnpackInt8(ExecutorchXnnpack):
    """The same with weights and activations quantized by XNNPACK's own quantizer: static, weights per channel.

    Ranges are of the example: a latency does not depend on them.
    """

    name = "executorch:xnnpack:int8"
    packages = ("executorch", "torchao", "torch")
    tolerance = INT8_TOLERANCE

    def captured(self, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> nn.Module:
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        observed = prepare_pt2e(torch.export.export(model, inputs, strict=False).module(), quantizer)
        observed(*inputs)
        quantized: nn.Module = convert_pt2e(observed)
        return quantized

    def remark(self) -> str:
        return int8_remark()
