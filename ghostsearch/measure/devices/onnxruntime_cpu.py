"""ONNX Runtime on the CPU: the default device."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from ghostsearch.measure.devices.base import Device, Prepared, refusals
from ghostsearch.measure.devices.torch_cpu import as_array
from ghostsearch.measure.inputs import flat_inputs
from ghostsearch.measure.onnx_graph.capture import onnx_module
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


class OnnxRuntimeCpu(Device):
    """ONNX Runtime with all graph optimisations, inputs and outputs in the host's memory."""

    name = "onnxruntime:cpu"
    packages = ("onnxruntime", "onnx", "torch")
    reads_onnx = True

    def check(self) -> None:
        """ONNX Runtime is a dependency, so it is there."""

    def lowered(self, model: nn.Module, example: Any) -> nn.Module:
        """The ONNX graph, exported once."""
        with refusals(self.name):
            return onnx_module(model, example)

    def prepare(self, model: nn.Module, example: Any, setting: Setting) -> Prepared:
        """The model as an ONNX graph in a session of its own threads."""
        with refusals(self.name):
            module = onnx_module(model, example)
            session = cpu_session(module.graph, setting.threads)
            feed = dict(zip(module.names or module.inputs, map(as_array, flat_inputs(example)), strict=True))
            # An input that the graph does not use (a flag turned constant) is dropped by the exporter.
            known = {x.name for x in session.get_inputs()}
            prepared = OnnxRuntimePrepared(session, {k: v for k, v in feed.items() if k in known})
            prepared.run()
        return prepared
