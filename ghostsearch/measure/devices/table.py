"""Which devices there are: one row each, and those that other packages bring by the entry point
`ghostsearch.devices`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.base import Device
from ghostsearch.space.architecture import nearest_names
from ghostsearch.usercode import brought_along, entry_points

DEVICES: Mapping[str, str] = {
    "onnxruntime:cpu": "onnxruntime_cpu:OnnxRuntimeCpu",
    "torch:cpu": "torch_cpu:TorchCpu",
    "torch-compile:cpu": "torch_compile_cpu:TorchCompileCpu",
    "openvino:cpu": "openvino_cpu:OpenVinoCpu",
    "onnxruntime:cpu:int8": "int8:OnnxRuntimeCpuInt8",
    "openvino:cpu:int8": "int8:OpenVinoCpuInt8",
    "executorch:xnnpack": "executorch_xnnpack:ExecutorchXnnpack",
    "executorch:xnnpack:int8": "executorch_xnnpack:ExecutorchXnnpackInt8",
    "torch:cuda": "torch_cuda:TorchCuda",
    "onnxruntime:cuda": "onnxruntime_cuda:OnnxRuntimeCuda",
}
"""Device by name: file in this folder and class. A new runtime is one file and one row here."""

GRAPH_DEVICES = tuple(name.removesuffix(":int8") for name, row in DEVICES.items() if row.startswith("int8:"))
"""Devices that run one ONNX graph as it is, in float and in int8 alike."""
SSH = "ssh:"
"""Beginning of the name of another machine, `ssh:user@host`."""
DEFAULT_DEVICE = "onnxruntime:cpu"
ENTRY_POINTS = "ghostsearch.devices"


@dataclass(frozen=True)
class DeviceStatus:
    """A device, whether it can be used here, and a remark: how to make it usable, or what to know of it here."""

    name: str
    available: bool
    reason: str
    versions: dict[str, str]
    place: str


def device_names() -> list[str]:
    """Every device's name, the shipped ones first; imports none of them."""
    return list(dict.fromkeys([*DEVICES, *_brought()]))


def get_device(name: str) -> Device:
    """The device of a name, ready to use.

    Raises MissingExtraError when its runtime is not installed, GhostsearchError when the name is unknown or
    its hardware absent.
    """
    device = _load(name)
    device.check()
    return device


def list_devices(names: Sequence[str] = ()) -> list[DeviceStatus]:
    """Devices, by default every one, with versions where they are available and the reason where not.

    Raises GhostsearchError for a name that no device has.
    """
    for name in names:
        _check_known(name)
    rows = []
    for name in names or device_names():
        try:
            device = get_device(name)
        except GhostsearchError as error:
            rows.append(DeviceStatus(name, False, str(error), {}, ""))
        else:
            rows.append(DeviceStatus(name, True, device.remark(), device.versions(), device.place()))
    return rows


def _brought() -> list[str]:
    return [point.name for point in entry_points(ENTRY_POINTS)]


def _check_known(name: str) -> None:
    if not name.startswith(SSH) and name not in device_names():
        near = nearest_names(name, device_names())
        raise GhostsearchError(f"no device is called {name!r}; nearest: {near}; another machine is ssh:user@host")


def _load(name: str) -> Device:
    if name.startswith(SSH) and name not in _brought():
        far: Device = importlib.import_module(f"{__package__}.ssh").SshOnnxRuntime(name)
        return far
    if name in DEVICES:
        file, _, kind = DEVICES[name].partition(":")
        device: Device = getattr(importlib.import_module(f"{__package__}.{file}"), kind)()
        return device
    _check_known(name)
    made = brought_along(ENTRY_POINTS, name, "device", lambda kind: kind())
    if not isinstance(made, Device):
        kind = type(made).__name__
        raise GhostsearchError(f"device {name!r}: {kind} must subclass ghostsearch.measure.devices.base.Device")
    return made
