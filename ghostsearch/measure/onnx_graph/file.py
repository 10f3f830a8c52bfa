"""An ONNX file in the place of a model by name: its inputs come from its shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.table import get_device
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.models.input import InputSpec, Size, parse_size
from ghostsearch.models.load import LoadedModel, example_input

DTYPES = {
    "tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8, "tensor(int8)": torch.int8, "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64, "tensor(bool)": torch.bool,
}  # fmt: skip
"""Kinds of inputs by ONNX Runtime's names."""


def open_onnx(path: Path, *, size: int | str | None = None) -> LoadedModel:
    """An ONNX file as a model whose module is an OnnxModule; `size` fills free sides of its inputs.

    The input is as `ghostsearch export` noted it, else the first one's shape without a normalisation. Raises
    GhostsearchError for what is no ONNX file, for free sides without `size`, and for a `size` that it does not take.
    """
    if not path.is_file():
        raise GhostsearchError(f"{path}: no such file")
    module = OnnxModule.read(path)
    wanted = parse_size(size)
    shape = tuple(example_inputs(module, None, wanted)[0].shape)
    sides = parse_size((shape[2:] or shape[1:] or (1,))[-3:])
    assert sides is not None
    found = _noted_input(module.notes, sides, shape[1] if len(shape) > 2 else 1)
    if wanted is not None and InputSpec(wanted).dims[-len(found.dims) :] != found.dims:
        raise GhostsearchError(f"{path} takes inputs of {found} alone; leave --size {size} out")
    return LoadedModel(module, str(path), found)


def _noted_input(notes: dict[str, str], size: Size, channels: int) -> InputSpec:
    """The input with the normalisation that `ghostsearch export` noted; files of others have none."""
    try:
        mean, std = (tuple(map(float, notes[key].split())) for key in ("mean", "std"))
        return InputSpec(size, channels, mean, std, int(notes["resize"]), notes["interpolation"])
    except (KeyError, ValueError):
        return InputSpec(size, channels, (0.0,) * channels, (1.0,) * channels)


def check_device(loaded: LoadedModel, name: str) -> None:
    """Raise GhostsearchError unless the device is here and, for an ONNX file, runs such files."""
    device = get_device(name)
    if isinstance(loaded.module, OnnxModule) and not device.reads_onnx:
        raise GhostsearchError(f"{name} does not run ONNX files; use onnxruntime:cpu or openvino:cpu")


def example_of(loaded: LoadedModel, batch: int | None = None) -> Any:
    """Forward input of a model by name or of an ONNX file: x: (batch, C, *dims), a tuple where there are several.

    batch: None for one image, or the batch that an ONNX graph fixes.
    """
    if not isinstance(loaded.module, OnnxModule):
        return example_input(loaded.input, batch or 1)
    made = example_inputs(loaded.module, batch, loaded.input.size)
    return made[0] if len(made) == 1 else made


def example_inputs(module: OnnxModule, batch: int | None, size: Size | None) -> tuple[Tensor, ...]:
    """A tensor for each input, of its shape and kind: noise, or zeros where it takes whole numbers.

    batch: None for the graph's own, or 1 where that is free.

    Raises GhostsearchError where the graph fixes another batch, leaves a side free that `size` does not name, or takes
    no numbers.
    """
    made, draw = [], torch.Generator().manual_seed(0)
    sides = (size, size) if isinstance(size, int) else size
    for x in module.session.get_inputs():
        kind, shape = DTYPES.get(x.type), list(x.shape)
        if kind is None:
            raise GhostsearchError(f"input {x.name} is a {x.type}; inputs are made of {', '.join(DTYPES)}")
        if batch and shape and isinstance(shape[0], int) and shape[0] != batch:
            raise GhostsearchError(f"the graph has a fixed batch of {shape[0]}; give --batch {shape[0]}")
        free = {0: batch or 1}
        if sides:
            # Of a shape (N, C, H, W) the sides, of (N, length) the length.
            free |= dict(zip(range(max(1, len(shape) - len(sides)), len(shape)), sides, strict=False))
        unknown = [f"{n or i}" for i, n in enumerate(shape) if not isinstance(n, int) and i not in free]
        if unknown:
            raise GhostsearchError(
                f"input {x.name} {shape} leaves {', '.join(unknown)} free; give --size 224 or HEIGHTxWIDTH, or export "
                "it with fixed sides"
            )
        filled = [n if isinstance(n, int) else free[i] for i, n in enumerate(shape)]
        noise = kind.is_floating_point
        made.append(torch.randn(filled, generator=draw).to(kind) if noise else torch.zeros(filled, dtype=kind))
    return tuple(made)
