"""The last daily job in one call: export the model of a directory, quantized where asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.data.calibration import calibration_batches
from ghostsearch.data.load import load_data
from ghostsearch.errors import GhostsearchError
from ghostsearch.export.card import known_figures, notes_of, write_card
from ghostsearch.export.formats.table import get_format
from ghostsearch.export.int8 import Int8Result, quantize
from ghostsearch.export.options import Exporting
from ghostsearch.export.writer import export, telling_name
from ghostsearch.graph.detector import is_detector
from ghostsearch.models.load import LoadedModel, example_input
from ghostsearch.study.directory import RUN, model_directory
from ghostsearch.surgery.saved import load_directory
from ghostsearch.training.tasks.table import task_for, task_of_kind

ONNX = Exporting()


def export_directory(directory: Path, wanted: Exporting = ONNX, *, allow_code: bool = False) -> dict[str, Any]:
    """Export the model in a directory we wrote, of a study the chosen one, and return the result as plain data.

    A model card is written beside the file. With `int8` the file is ONNX, quantized with images of `calibrate` and
    scored by `task`, by default the one that the data's targets are for; see `export` and `quantize`.
    """
    if (directory / RUN).is_file():
        directory = model_directory(directory)
    model, known = load_directory(directory, allow_code=allow_code), known_figures(directory)
    if wanted.with_softmax:
        model = dataclasses.replace(model, module=with_softmax(model))
    model = dataclasses.replace(model, notes=notes_of(known, softmax=wanted.with_softmax))
    name = telling_name(model)
    if wanted.int8:
        result: Any = _quantized(model, wanted, directory / f"{name}_int8.onnx")
    else:
        result = export(model, wanted.to, _out(wanted, directory / (name + get_format(wanted.to).suffix)))
    found = dataclasses.asdict(result)
    return found | {"card": str(write_card(Path(found["path"]), model, known, found))}


def with_softmax(model: LoadedModel) -> nn.Module:
    """The network ended by a softmax over dimension 1; raises GhostsearchError where it gives no classes."""
    with torch.no_grad():
        output = None if is_detector(model.module) else model.module(example_input(model.input))
    if not isinstance(output, Tensor) or output.ndim < 2:
        raise GhostsearchError("--with-softmax takes a network with one output of classes, (N, classes, …)")
    return nn.Sequential(model.module, nn.Softmax(dim=1)).eval()


def _out(wanted: Exporting, default: Path) -> Path:
    return Path(wanted.out) if wanted.out else default


def _quantized(model: LoadedModel, wanted: Exporting, default: Path) -> Int8Result:
    if wanted.to != "onnx":
        raise GhostsearchError(f"--int8 writes ONNX, not {wanted.to}; leave --format out")
    if wanted.calibrate is None:
        raise GhostsearchError("--int8 needs images to calibrate on; add --calibrate DATA")
    loaders = load_data(wanted.calibrate, input=model.input, validation_list=wanted.validation_list, trains=False)
    name = wanted.task or task_of_kind("boxes" if is_detector(model.module) else loaders.kind)
    batches = calibration_batches(loaders, wanted.calibration_images)
    task = task_for(name, labelled=loaders.labelled, baseline=model.module)
    return quantize(model, batches, loaders.test, _out(wanted, default), task=task)
