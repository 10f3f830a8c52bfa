"""What all devices share that run a model as an ONNX graph."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ghostsearch.measure.devices.base import Device, Prepared, refusals
from ghostsearch.measure.devices.torch_cpu import as_array
from ghostsearch.measure.inputs import flat_inputs
from ghostsearch.measure.onnx_graph.capture import onnx_module
from ghostsearch.measure.setting import Setting

Feed = Mapping[str, np.ndarray]


def fed(session: Any, feed: Feed) -> dict[str, np.ndarray]:
    """The inputs that a session's graph has."""
    known = {x.name for x in session.get_inputs()}
    return {name: array for name, array in feed.items() if name in known}


class OnnxDevice(Device):
    """A device that runs an ONNX graph, or a model exported to one."""

    reads_onnx = True

    def lowered(self, model: nn.Module, example: Any) -> nn.Module:
        """The ONNX graph, exported once."""
        with refusals(self.name):
            return onnx_module(model, example)

    def prepare(self, model: nn.Module, example: Any, setting: Setting) -> Prepared:
        """The model's graph, opened with the example as its inputs."""
        with refusals(self.name):
            module = onnx_module(model, example)
            # In the graph's own precision; the runtimes take no bfloat16 from NumPy.
            arrays = (
                as_array(x) if x.dtype == torch.bfloat16 else x.detach().cpu().numpy() for x in flat_inputs(example)
            )
            feed = dict(zip(module.names or module.inputs, arrays, strict=True))
            return self.open(module.graph, feed, setting)

    @abc.abstractmethod
    def open(self, graph: bytes, feed: Feed, setting: Setting) -> Prepared:
        """A graph ready to run. `feed`: by the model's inputs, of which the exporter drops those that it does not use
        (a flag turned constant).
        """
