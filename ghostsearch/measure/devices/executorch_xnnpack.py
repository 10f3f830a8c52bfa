"""ExecuTorch with the XNNPACK delegate, in float and in int8: what PyTorch deploys on phones, run on this CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx, nn

from ghostsearch.errors import GhostsearchError, MissingExtraError
from ghostsearch.graph.capture import copied, moved
from ghostsearch.measure.devices.base import Device, Prepared, quiet_exporter, refusals
from ghostsearch.measure.devices.int8 import INT8_TOLERANCE, int8_remark
from ghostsearch.measure.devices.torch_cpu import as_array
from ghostsearch.measure.inputs import Flat, flat_inputs, one_by_one
from ghostsearch.measure.setting import Setting


class LoweredProgram(nn.Module):
    """A model as the bytes of an ExecuTorch program; lowering takes seconds, loading milliseconds.

    x: one tensor per input of the model, of the example's shape -> its output, or a tuple where it has several. A
    program for one image is run on each of a batch.
    """

    def __init__(self, program: bytes, in_float: tuple[str, ...] = ()) -> None:
        """`in_float`: layer and operator of what computes in float within an int8 program."""
        super().__init__()
        self.program, self.in_float = program, in_float
        self._prepared: ExecutorchPrepared | None = None

    def forward(self, *images: torch.Tensor) -> Any:
        """The program's outputs."""
        if self._prepared is None:
            self._prepared = ExecutorchPrepared(self.program, images)
        single = len(images[0]) > 1 and self._prepared.batch == 1
        outputs = one_by_one(self._outputs, images) if single else self._outputs(*images)
        return outputs[0] if len(outputs) == 1 else outputs

    def _outputs(self, *images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert self._prepared is not None
        self._prepared.inputs = tuple(x.contiguous() for x in images)
        return tuple(map(torch.from_numpy, self._prepared.outputs()))

    def __getstate__(self) -> dict[str, Any]:
        # What is loaded belongs to its process.
        return {**self.__dict__, "_prepared": None}


def xnnpack_program(exported: torch.export.ExportedProgram) -> bytes:
    """An exported model lowered to XNNPACK, as the bytes of a .pte file."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with quiet_exporter():
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)


class ExecutorchPrepared(Prepared):
    """A loaded program's forward method."""

    def __init__(self, program: bytes, inputs: tuple[torch.Tensor, ...]) -> None:
        from executorch.runtime import Runtime

        self.program = Runtime.get().load_program(program)
        self.method: Any = self.program.load_method("forward")
        self.inputs = inputs

    @property
    def batch(self) -> int:
        """First dimension of the first input."""
        return int(self.method.metadata.input_tensor_meta(0).sizes()[0])

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
        return model if isinstance(model, LoweredProgram) else self.lower(model, example, [example])

    def lower(self, model: nn.Module, example: Any, calibration: Iterable[Any]) -> LoweredProgram:
        """The model for inputs of the example's shapes; in int8 with the ranges of `calibration`, inputs like it.

        Raises GhostsearchError when ExecuTorch cannot lower it.
        """
        with refusals(self.name), quiet_exporter(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            flat = Flat(copied(model).to("cpu"), moved(example, "cpu")).eval().requires_grad_(False)
            inputs = _inputs(example)
            captured = self.captured(flat, inputs, map(_inputs, calibration))
            exported = torch.export.export(captured, inputs, strict=False)
            return LoweredProgram(xnnpack_program(exported), tuple(_in_float(captured)))

    def prepare(self, model: nn.Module, example: Any, setting: Setting) -> Prepared:
        """The lowered program, loaded from memory."""
        del setting
        lowered = self.lowered(model, example)
        assert isinstance(lowered, LoweredProgram)
        with refusals(self.name):
            prepared = ExecutorchPrepared(lowered.program, _inputs(example))
            prepared.run()
        return prepared

    def captured(
        self, model: nn.Module, inputs: tuple[torch.Tensor, ...], calibration: Iterable[tuple[torch.Tensor, ...]]
    ) -> nn.Module:
        """What is lowered of a model."""
        del inputs, calibration
        return model


def _inputs(example: Any) -> tuple[torch.Tensor, ...]:
    return tuple(t.contiguous() for t in flat_inputs(moved(example, "cpu")))


class ExecutorchXnnpackInt8(ExecutorchXnnpack):
    """The same with weights and activations quantized by XNNPACK's own quantizer: static, weights per channel.

    A model to be timed has the ranges of the example: a latency does not depend on them.
    """

    name = "executorch:xnnpack:int8"
    packages = ("executorch", "torchao", "torch")
    tolerance = INT8_TOLERANCE

    def captured(
        self, model: nn.Module, inputs: tuple[torch.Tensor, ...], calibration: Iterable[tuple[torch.Tensor, ...]]
    ) -> nn.Module:
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        # Those for training find nothing, as norms are folded before; tracing them takes most of a small model's time.
        quantizer.SUPPORTED_PATTERNS = [x for x in getattr(quantizer, "SUPPORTED_PATTERNS", ()) if not x.is_qat]
        observed = prepare_pt2e(torch.export.export(model, inputs, strict=False).module(), quantizer)
        for images in calibration:
            observed(*images)
        quantized: nn.Module = convert_pt2e(observed)
        return quantized

    def computes_in(self, setting: Setting) -> str:  # noqa: ARG002
        return "int8"

    def remark(self) -> str:
        return int8_remark()


def _in_float(quantized: nn.Module) -> Iterator[str]:
    """Layer and operator of what computes in float within a quantized graph; nothing of a model that is none."""
    for node in quantized.graph.nodes if isinstance(quantized, fx.GraphModule) else ():
        sources = [n for n in node.all_input_nodes if n.op == "call_function"]
        if node.op != "call_function" or "quantize" in str(node.target) or not sources:
            continue
        fused = any(name in str(node.target) for name in ("relu", "hardtanh", "clamp"))
        moves = any(name in str(node.target) for name in ("getitem", "view", "reshape", "flatten", "permute", "clone"))
        if not (fused or moves or all("dequantize" in str(n.target) for n in sources)):
            stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
            yield f"{stack[-1] if stack else node.name} ({str(node.target).split('.')[1]})"
