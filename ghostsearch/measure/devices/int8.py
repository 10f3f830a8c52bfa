"""int8 on the CPU: the model quantized by ONNX Runtime's quantizer, run by ONNX Runtime or OpenVINO."""

from __future__ import annotations

from typing import Any

from torch import nn

from ghostsearch.measure.devices.base import Device, Prepared, refusals
from ghostsearch.measure.devices.onnxruntime_cpu import OnnxRuntimeCpu
from ghostsearch.measure.devices.openvino_cpu import OpenVinoCpu
from ghostsearch.measure.onnx_graph.int8_module import int8_module
from ghostsearch.measure.onnx_graph.quantize import fast_int8
from ghostsearch.measure.setting import Setting

INT8_TOLERANCE = 0.2
"""Largest difference from the float module's outputs, relative to the largest output, of a working int8 device."""


def int8_remark() -> str:
    """What a user of int8 must know of this processor; empty where int8 is fast."""
    return "" if fast_int8() else "this processor has no fast int8 instructions (VNNI or dot product): expect no gain"


class Quantized(Device):
    """A float device on models quantized to int8 (static, QDQ), before the device class that runs them.

    A module that is not quantized yet is calibrated on the example: a latency does not depend on the ranges. For a
    score, pass `int8_module(model, example, calibration)`, which runs as it is.
    """

    tolerance = INT8_TOLERANCE
    reads_onnx = False

    def lowered(self, model: nn.Module, example: Any) -> nn.Module:
        """The quantized graph: only sessions over it are built anew."""
        with refusals(self.name):
            return int8_module(model, example, [example])

    def prepare(self, model: nn.Module, example: Any, setting: Setting) -> Prepared:
        """The quantized graph, ready to run."""
        return super().prepare(self.lowered(model, example), example, setting)  # type: ignore[safe-super]

    def computes_in(self, setting: Setting) -> str:  # noqa: ARG002
        return "int8"

    def remark(self) -> str:
        return int8_remark()


class OnnxRuntimeCpuInt8(Quantized, OnnxRuntimeCpu):
    """ONNX Runtime on the quantized graph."""

    name = "onnxruntime:cpu:int8"


class OpenVinoCpuInt8(Quantized, OpenVinoCpu):
    """OpenVINO on the same quantized graph, which it reads from ONNX."""

    name = "openvino:cpu:int8"
    packages = ("onnxruntime", *OpenVinoCpu.packages)
