"""ONNX Runtime on the CPU: the default device."""

from __future__ import annotations

from typing import Any

import numpy as np

from ghostsearch.measure.devices.base import Prepared
from ghostsearch.measure.devices.onnx_device import Feed, OnnxDevice, fed
from ghostsearch.measure.onnx_graph.module import cpu_session
from ghostsearch.measure.setting import Setting


class OnnxRuntimePrepared(Prepared):
    """An inference session with its input bound."""

    def __init__(self, session: Any, feed: dict[str, np.ndarray]) -> None:
        self.session = session
        self.feed = feed

    def run(self) -> Any:
        return self.session.run(None, self.feed)

    def outputs(self) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(y) for y in self.run())


class OnnxRuntimeCpu(OnnxDevice):
    """ONNX Runtime with all graph optimisations, inputs and outputs in the host's memory."""

    name = "onnxruntime:cpu"
    packages = ("onnxruntime", "onnx", "torch")

    def check(self) -> None:
        """ONNX Runtime is a dependency, so it is there."""

    def open(self, graph: bytes, feed: Feed, setting: Setting) -> Prepared:
        """The graph in a session of its own threads."""
        session = cpu_session(graph, setting.threads)
        prepared = OnnxRuntimePrepared(session, fed(session, feed))
        prepared.run()
        return prepared
