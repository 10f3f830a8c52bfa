"""ONNX Runtime on an NVIDIA GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.base import Device, Prepared, refusals
from ghostsearch.measure.devices.torch_cpu import as_array
from ghostsearch.measure.inputs import flat_inputs
from ghostsearch.measure.onnx_graph.capture import onnx_module
from ghostsearch.measure.onnx_graph.module import cpu_session
from ghostsearch.measure.setting import Setting

PROVIDER = "CUDAExecutionProvider"


class BoundPrepared(Prepared):
    """A session whose input and outputs stay in the GPU's memory, so that no copy is timed."""

    def __init__(self, session: Any, feed: dict[str, np.ndarray]) -> None:
        import onnxruntime

        self.session = session
        self.binding = session.io_binding()
        for name, value in feed.items():
            self.binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value, "cuda", 0))
        for output in session.get_outputs():
            self.binding.bind_output(output.name, "cuda")

    def run(self) -> Any:
        # It returns when the GPU is done: the session waits for its stream after each run.
        self.session.run_with_iobinding(self.binding)

    def outputs(self) -> tuple[np.ndarray, ...]:
        self.run()
        return tuple(self.binding.copy_outputs_to_cpu())


class OnnxRuntimeCuda(Device):
    """ONNX Runtime's CUDA provider; a graph that falls back to the CPU in part is refused."""

    name = "onnxruntime:cuda"
    packages = ("onnxruntime-gpu", "onnx", "torch")
    limits_threads = False
    reads_onnx = True

    def check(self) -> None:
        """It takes onnxruntime-gpu in the place of onnxruntime, and a GPU."""
        import onnxruntime

        if PROVIDER not in onnxruntime.get_available_providers():
            raise GhostsearchError(
                "onnxruntime:cuda is not installed: pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
            )

    def place(self) -> str:
        """The GPU's name, as PyTorch reports it."""
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "GPU 0"

    def prepare(self, model: nn.Module, example: Any, setting: Setting) -> Prepared:
        """The model as an ONNX graph in a session on the GPU."""
        with refusals(self.name):
            module = onnx_module(model, example)
            session = cpu_session(module.graph, setting.threads, (PROVIDER, "CPUExecutionProvider"))
            if session.get_providers()[0] != PROVIDER:
                raise GhostsearchError(f"{self.name} finds no GPU; use --device onnxruntime:cpu")
            feed = dict(zip(module.names or module.inputs, map(as_array, flat_inputs(example)), strict=True))
            known = {x.name for x in session.get_inputs()}
            prepared = BoundPrepared(session, {k: v for k, v in feed.items() if k in known})
            prepared.run()
        return prepared
