"""The last daily job in one call: export the model of a directory, quantized where asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ghostsearch.data.calibration import calibration_batches
from ghostsearch.data.load import load_data
from ghostsearch.errors import GhostsearchError
from ghostsearch.export.formats.table import get_format
from ghostsearch.export.int8 import quantize
from ghostsearch.export.writer import export, telling_name
from ghostsearch.graph.detector import is_detector
from ghostsearch.study.directory import RUN, model_directory
from ghostsearch.surgery.saved import load_directory
from ghostsearch.training.tasks.table import task_for, task_of_kind


def export_directory(
    directory: Path,
    format_name: str = "onnx",
    out: Path | None = None,
    *,
    int8: bool = False,
    data: str | None = None,
    images: int = 128,
    validation_list: Path | None = None,
    task: str | None = None,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Export the model in a directory we wrote and return the result as plain data; see `export`.

    With `int8` the file is ONNX, quantized with `images` of `data` and scored by `task`, by default the one that the
    data's targets are for; see `ghostsearch.export.int8.quantize`.
    """
    if (directory / RUN).is_file():
        directory = model_directory(directory)
    model = load_directory(directory, allow_code=allow_code)
    if not int8:
        return dataclasses.asdict(
            export(model, format_name, out or directory / (telling_name(model) + get_format(format_name).suffix))
        )
    if format_name != "onnx":
        raise GhostsearchError(f"--int8 writes ONNX, not {format_name}; leave --format out")
    if data is None:
        raise GhostsearchError("--int8 needs images to calibrate on; add --calibrate DATA")
    loaders = load_data(data, input=model.input, validation_list=validation_list, trains=False)
    kind = "boxes" if is_detector(model.module) else loaders.kind
    name = task or task_of_kind(kind)
    result = quantize(
        model,
        calibration_batches(loaders, images),
        loaders.test,
        out or directory / f"{telling_name(model)}_int8.onnx",
        task=task_for(name, labelled=loaders.labelled, baseline=model.module),
    )
    return dataclasses.asdict(result)
