"""A model as ONNX bytes, for the runtimes that read them."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ghostsearch.graph.capture import copied, moved
from ghostsearch.measure.inputs import Flat, flat_inputs

OPSET = 18


def onnx_bytes(model: nn.Module, example: Any) -> tuple[bytes, tuple[str, ...]]:
    """An ONNX graph of a copy of the model in eval mode with the example's shapes fixed, and its inputs'
    names.

    The exporter that traces is some five times quicker than the one over torch.export, which takes over where
    it fails; raises what that one raises.
    """
    example = moved(example, "cpu")
    flat = Flat(copied(model).to("cpu"), example).eval().requires_grad_(False)
    inputs = flat_inputs(example)
    names = tuple(f"x{i}" for i in range(len(inputs)))
    with _quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        # Typed as a path, yet the tracing exporter writes to any file.
        buffer: Any = io.BytesIO()
        try:
            torch.onnx.export(flat, inputs, buffer, input_names=list(names), opset_version=OPSET, dynamo=False)
        # The tracing exporter meets operators it does not know; the other one may know them.
        except Exception:  # noqa: BLE001
            program = torch.onnx.export(flat, inputs, input_names=list(names), opset_version=OPSET, dynamo=True)
            assert program is not None
            return program.model_proto.SerializeToString(), names
    return bytes(buffer.getvalue()), names


@contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger("torch.onnx")
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before
