"""A model as ONNX bytes, for the runtimes that read them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.graph.capture import copied, moved
from ghostsearch.graph.detector import FOUND, OneImage, is_detector
from ghostsearch.measure.devices.base import quiet_exporter
from ghostsearch.measure.inputs import Flat, flat_inputs
from ghostsearch.measure.onnx_graph.affine_sums import fold_affine_sums
from ghostsearch.measure.onnx_graph.module import BATCH_NAME, OnnxModule
from ghostsearch.measure.onnx_graph.names import name_repeated_calls
from ghostsearch.surgery.drop import Nothing

OPSET = 18


def onnx_module(model: nn.Module, example: Any) -> OnnxModule:
    """What a runtime that reads ONNX runs for a model; an OnnxModule stays as it is."""
    if isinstance(model, OnnxModule):
        return model
    graph, names = onnx_bytes(model, example)
    return OnnxModule(graph, names=names)


def onnx_bytes(
    model: nn.Module, example: Any, *, free_batch: bool = False, input_names: Sequence[str] = ()
) -> tuple[bytes, tuple[str, ...]]:
    """An ONNX graph of a copy of the model in eval mode, and its inputs' names.

    The example's shapes are fixed, but for the first dimension where `free_batch` asks for that. A detector, whose
    forward goes from image to image, is then traced for one, and its outputs have the names FOUND.

    The exporter that traces is some five times quicker than the one over torch.export, which takes over where
    it fails; raises what that one raises.
    """
    example = moved(example, "cpu")
    single = is_detector(model) and isinstance(example, Tensor) and (free_batch or len(example) == 1)
    if single:
        free_batch, example = False, example[:1]
    replica = copied(model).to("cpu")
    flat = (OneImage(replica) if single else Flat(replica, example)).eval().requires_grad_(False)
    inputs = flat_inputs(example)
    names = tuple(input_names or (f"x{i}" for i in range(len(inputs))))
    axes = {name: {0: BATCH_NAME} for name in names} if free_batch else None
    with quiet_exporter(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        # Typed as a path, yet the tracing exporter writes to any file.
        buffer: Any = io.BytesIO()
        try:
            torch.onnx.export(
                flat, inputs, buffer, input_names=list(names), opset_version=OPSET, dynamo=False,
                dynamic_axes=axes, output_names=list(FOUND) if single else None,
            )  # fmt: skip
        # The tracing exporter meets operators it does not know; the other one may know them.
        except Exception:
            if free_batch or single:
                raise
            program = torch.onnx.export(
                flat, inputs, input_names=list(names), opset_version=OPSET, dynamo=True, verbose=False
            )
            assert program is not None
            return program.model_proto.SerializeToString(), names
    return _tidied(bytes(buffer.getvalue()), replica), names


def _tidied(graph: bytes, model: nn.Module) -> bytes:
    """A traced graph without what skipped branches leave, its nodes named after the model's modules."""
    import onnx

    paths = dict(model.named_modules(remove_duplicate=False))
    skips = any(isinstance(m, Nothing) for m in paths.values())
    # Most graphs need neither, and reading one that holds a network's weights takes time.
    if not skips and not re.search(rb"_\d+/", graph):
        return graph
    made = onnx.load_from_string(graph)
    if skips:
        fold_affine_sums(made)
    name_repeated_calls(made.graph, paths)
    return bytes(made.SerializeToString())
