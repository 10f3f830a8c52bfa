"""ONNX, by PyTorch's exporter over torch.export; run by ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from ghostsearch.errors import GhostsearchError
from ghostsearch.export.formats.base import OUTPUT_NAME, Format, Runner
from ghostsearch.measure.devices.base import quiet_exporter
from ghostsearch.measure.onnx_graph.affine_sums import fold_affine_sums
from ghostsearch.measure.onnx_graph.capture import OPSET
from ghostsearch.measure.onnx_graph.module import BATCH_NAME, INPUT_NAME, cpu_session

MAX_BYTES = 2**31 - 1
"""A protocol buffer holds no more, and one file is easier to pass on than two."""


class Onnx(Format):
    """One .onnx file, weights inside, batch dimension named `batch`."""

    name = "onnx"
    suffix = ".onnx"

    def write(self, program: ExportedProgram, path: Path, notes: Mapping[str, str]) -> None:
        """Export, drop the exporter's notes on source files, save."""
        path.write_bytes(onnx_model(program, notes).SerializeToString())

    def open(self, path: Path) -> Runner:
        """A session of one thread."""
        session = cpu_session(path.read_bytes(), 1)
        name = session.get_inputs()[0].name

        def run(images: Tensor) -> tuple[np.ndarray, ...]:
            return tuple(np.asarray(y) for y in session.run(None, {name: images.numpy()}))

        return run


def onnx_model(program: ExportedProgram, notes: Mapping[str, str]) -> Any:
    """The program as an ONNX ModelProto; raises GhostsearchError when it is too large for one file."""
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if size > MAX_BYTES:
        raise GhostsearchError(f"an ONNX file holds at most 2 GiB, the weights take {size} bytes; use torch-export")
    with quiet_exporter(), torch.no_grad():
        outputs = len(program.graph_signature.user_outputs)
        made = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=[INPUT_NAME], verbose=False,
            output_names=[OUTPUT_NAME] if outputs == 1 else [f"{OUTPUT_NAME}{i}" for i in range(outputs)],
        )  # fmt: skip
    assert made is not None
    model = made.model_proto  # made anew at every access
    if any("zeros_like" in str(node.target) for node in program.graph.nodes):
        fold_affine_sums(model)
    _name_batch(model.graph)
    return with_notes(model, notes)


def _name_batch(graph: Any) -> None:
    """Call the free batch by its name, which the exporter replaces by a symbol such as `s31`."""
    first = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for place in value.type.tensor_type.shape.dim:
            if first and place.dim_param:
                place.dim_param = re.sub(rf"\b{re.escape(first)}\b", BATCH_NAME, place.dim_param)


def with_notes(model: Any, notes: Mapping[str, str]) -> Any:
    """A ModelProto with notes in its metadata, and without the exporter's own on source files."""
    # The exporter writes the author's source paths into every node, a fifth of a small file.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer,
                 *model.graph.input, *model.graph.output, *model.functions):  # fmt: skip
        del part.metadata_props[:]
        part.doc_string = ""
    for key, value in notes.items():
        model.metadata_props.add(key=f"ghostsearch.{key}", value=value)
    return model
