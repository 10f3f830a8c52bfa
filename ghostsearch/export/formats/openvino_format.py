"""OpenVINO's intermediate representation (.xml and .bin), through ONNX; run by OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.export import ExportedProgram

from ghostsearch.export.formats.base import Format, Runner
from ghostsearch.export.formats.onnx_format import onnx_model
from ghostsearch.files import temporary_folder


class OpenVino(Format):
    """A .xml file with the graph and a .bin beside it with the weights, in float32."""

    name = "openvino"
    suffix = ".xml"
    package = "openvino"

    def write(self, program: ExportedProgram, path: Path, notes: Mapping[str, str]) -> None:
        """Convert the ONNX graph and save both files."""
        import openvino

        with temporary_folder() as folder:
            graph = folder / "model.onnx"
            graph.write_bytes(onnx_model(program, notes).SerializeToString())
            model = openvino.convert_model(graph)
            for key, value in notes.items():
                model.set_rt_info(value, ["ghostsearch", key])
            # Its default would halve the weights' precision.
            openvino.save_model(model, path, compress_to_fp16=False)

    def open(self, path: Path) -> Runner:
        """The model compiled for this CPU in float32, whatever the processor would prefer."""
        import openvino

        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run(images: Tensor) -> tuple[np.ndarray, ...]:
            return tuple(np.array(y) for y in compiled([images.numpy()]).values())

        return run
