"""A model quantized to int8: as a module to time, and as the file that is deployed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghostsearch.graph.capture import call, copied, tensors
from ghostsearch.graph.detector import is_detector
from ghostsearch.measure.agreement import require_agreement
from ghostsearch.measure.inputs import batched, flat_inputs
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.module import INPUT_NAME, OnnxModule
from ghostsearch.measure.onnx_graph.quantize import Feed, Int8Graph, Int8Options, quantized

COMPARED = 4
"""Images on which a graph is compared with its model."""

GRAPH = "the ONNX graph (which has one way only of a forward that branches on its values)"


def int8_module(
    model: nn.Module, example: Any, calibration: Iterable[Any], options: Int8Options | None = None
) -> OnnxModule:
    """The model quantized by the ranges of its activations on calibration inputs; an OnnxModule is returned as it is.

    example: the forward input that fixes the shapes. calibration: inputs like it. Raises whatever the exporter or the
    quantizer raises.
    """
    if isinstance(model, OnnxModule):
        return model
    graph, names = onnx_bytes(model, example)
    if is_detector(model):
        calibration = single_images(calibration)
    return OnnxModule(quantized(graph, feeds(names, calibration), options).graph)


@dataclass(frozen=True)
class FloatFile:
    """A model as the float ONNX graph that an int8 file is made of; its nodes bear their layers' names."""

    graph: bytes
    """Its input is called INPUT_NAME."""
    takes_batches: bool
    """Whether for any batch; else for one image."""

    @classmethod
    def of(cls, model: nn.Module, example: Tensor) -> FloatFile:
        """The file of a model that takes images like the example (N, C, *dims); raises what the exporter raises."""
        module, one = copied(model).to("cpu", torch.float32).eval().requires_grad_(False), batched(example, 1)
        if not is_detector(module):
            try:
                graph = onnx_bytes(module, one, free_batch=True, input_names=(INPUT_NAME,))[0]
                if _gives_shapes_of(module, graph, batched(example, 2)):
                    return cls(graph, True)
            # Anything may be raised by tracing and running with a free batch; a fixed one may still do.
            except Exception:  # noqa: BLE001, S110
                pass
        return cls(onnx_bytes(module, one, input_names=(INPUT_NAME,))[0], False)

    def check(self, model: nn.Module, images: Tensor) -> None:
        """Raise GhostsearchError unless the graph gives what the model gives on the first of images (N, C, *dims).

        Of a forward that branches in Python on its values the graph has one way only. A detector is not compared: a
        box at a threshold may come or go by rounding.
        """
        if is_detector(model):
            return
        module, graph = copied(model).to("cpu", torch.float32).eval(), OnnxModule(self.graph)
        few = images[:COMPARED].cpu()
        for batch in [few] if self.takes_batches else single_images([few]):
            with torch.no_grad():
                wanted = list(tensors(call(module, batch)))
            pairs = zip(tensors(graph(batch)), wanted, strict=True)
            floats = [(got, want) for got, want in pairs if want.is_floating_point()]
            require_agreement([x.numpy() for x, _ in floats], [y.numpy() for _, y in floats], GRAPH)

    def int8(self, calibration: Iterable[Tensor], options: Int8Options | None = None) -> Int8Graph:
        """The graph in int8, its ranges from images (N, C, *dims); raises whatever the quantizer raises."""
        batches = calibration if self.takes_batches else single_images(calibration)
        return quantized(self.graph, feeds((INPUT_NAME,), batches), options)


def _gives_shapes_of(module: nn.Module, graph: bytes, images: Tensor) -> bool:
    """Whether a graph gives the module's shapes on a batch that it was not traced with."""
    with torch.no_grad():
        wanted = [y.shape for y in tensors(call(module, images))]
    return [y.shape for y in tensors(OnnxModule(graph)(images))] == wanted


def single_images(batches: Iterable[Tensor]) -> list[Tensor]:
    """The images of batches (N, C, H, W), each a batch of one: what a detector's graph takes."""
    return [image[None] for batch in batches for image in batch]


def feeds(names: tuple[str, ...], batches: Iterable[Any]) -> list[Feed]:
    """Calibration inputs by the names of a graph's inputs."""
    return [
        dict(zip(names, (np.ascontiguousarray(x.detach().cpu().numpy()) for x in flat_inputs(batch)), strict=True))
        for batch in batches
    ]
