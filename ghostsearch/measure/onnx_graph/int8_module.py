"""A model quantized to int8, as a module that computes what the deployed file will compute."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn

from ghostsearch.graph.detector import is_detector
from ghostsearch.measure.inputs import flat_inputs
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.onnx_graph.quantize import Feed, Int8Graph, Int8Options, quantized


def int8_module(
    model: nn.Module, example: Any, calibration: Iterable[Any], options: Int8Options | None = None, *,
    free_batch: bool = False,
) -> OnnxModule:  # fmt: skip
    """The model quantized by the ranges of its activations on calibration inputs; an OnnxModule is returned as it is.

    example: the forward input that fixes the shapes, but for the batch with `free_batch`. calibration: inputs like it,
    of the example's batch unless `free_batch`. Raises whatever the exporter or the quantizer raises.
    """
    if isinstance(model, OnnxModule):
        return model
    found = int8_graph(model, example, calibration, options, free_batch=free_batch)
    return OnnxModule(found.graph)


def int8_graph(
    model: nn.Module, example: Any, calibration: Iterable[Any], options: Int8Options | None = None, *,
    free_batch: bool = False,
) -> Int8Graph:  # fmt: skip
    """The graph of `int8_module`, with what it was made from."""
    graph, names = onnx_bytes(model, example, free_batch=free_batch)
    if is_detector(model):
        calibration = single_images(calibration)
    return quantized(graph, feeds(names, calibration), options)


def single_images(batches: Iterable[Tensor]) -> list[Tensor]:
    """The images of batches (N, C, H, W), each a batch of one: what a detector's graph takes."""
    return [image[None] for batch in batches for image in batch]


def feeds(names: tuple[str, ...], batches: Iterable[Any]) -> list[Feed]:
    """Calibration inputs by the names of a graph's inputs."""
    return [
        dict(zip(names, (np.ascontiguousarray(x.detach().cpu().numpy()) for x in flat_inputs(batch)), strict=True))
        for batch in batches
    ]
