"""OpenVINO on the CPU."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ghostsearch.errors import MissingExtraError
from ghostsearch.measure.devices.base import Prepared
from ghostsearch.measure.devices.onnx_device import Feed, OnnxDevice
from ghostsearch.measure.setting import Setting

PRECISION_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoPrepared(Prepared):
    """An infer request with its input set."""

    def __init__(self, request: Any, inputs: list[np.ndarray]) -> None:
        self.request = request
        self.inputs = inputs

    def run(self) -> Any:
        return self.request.infer(self.inputs, share_inputs=True, share_outputs=True)

    def outputs(self) -> tuple[np.ndarray, ...]:
        return tuple(np.array(y) for y in self.run().values())


class OpenVinoCpu(OnnxDevice):
    """OpenVINO for latency (one stream), the model through ONNX; the precision is always named, since the
    default is bfloat16 on processors that have it.
    """

    name = "openvino:cpu"
    packages: ClassVar[tuple[str, ...]] = ("openvino", "onnx", "torch")
    precisions = tuple(PRECISION_HINTS)

    def check(self) -> None:
        """Raise MissingExtraError without OpenVINO, which is an extra."""
        try:
            import openvino  # noqa: F401
        except ImportError:
            raise MissingExtraError("OpenVINO", "openvino") from None

    def open(self, graph: bytes, feed: Feed, setting: Setting) -> Prepared:
        """The graph compiled for its shapes."""
        import openvino

        core = openvino.Core()
        hints = {
            "INFERENCE_NUM_THREADS": setting.threads,
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[setting.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        compiled = core.compile_model(core.read_model(graph), "CPU", hints)
        wanted = [feed[x.get_any_name()] for x in compiled.inputs]
        prepared = OpenVinoPrepared(compiled.create_infer_request(), wanted)
        prepared.run()
        return prepared
