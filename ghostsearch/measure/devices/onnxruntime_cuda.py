"""ONNX Runtime on an NVIDIA GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.base import Prepared
from ghostsearch.measure.devices.onnx_device import Feed, OnnxDevice, fed
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


class OnnxRuntimeCuda(OnnxDevice):
    """ONNX Runtime's CUDA provider; an operator that it does not have runs on the CPU and counts."""

    name = "onnxruntime:cuda"
    packages = ("onnxruntime-gpu", "onnx", "torch")
    limits_threads = False

    def check(self) -> None:
        """Raise GhostsearchError unless onnxruntime-gpu stands in the place of onnxruntime."""
        import onnxruntime

        if PROVIDER not in onnxruntime.get_available_providers():
            raise GhostsearchError(
                "onnxruntime:cuda is not installed: pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
            )

    def place(self) -> str:
        """The GPU's name, as PyTorch reports it."""
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "GPU 0"

    def open(self, graph: bytes, feed: Feed, setting: Setting) -> Prepared:
        """The graph in a session on the GPU; raises GhostsearchError where there is none."""
        session = cpu_session(graph, setting.threads, (PROVIDER, "CPUExecutionProvider"))
        if session.get_providers()[0] != PROVIDER:
            raise GhostsearchError(f"{self.name} finds no GPU; use --device onnxruntime:cpu")
        prepared = BoundPrepared(session, fed(session, feed))
        prepared.run()
        return prepared
