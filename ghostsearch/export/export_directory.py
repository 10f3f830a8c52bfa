"""The last daily job in one call: export the model of a directory, quantized where asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.data.calibration import calibration_batches
from ghostsearch.data.load import Data, load_data, runs_code
from ghostsearch.errors import GhostsearchError
from ghostsearch.export.card import known_figures, notes_of, write_card
from ghostsearch.export.formats.table import get_format
from ghostsearch.export.int8 import Int8Result, Judges, quantize, quantize_for_executorch
from ghostsearch.export.options import Exporting
from ghostsearch.export.writer import check_suffix, descriptive_name, export
from ghostsearch.graph.detector import is_detector
from ghostsearch.measure.onnx_graph.quantize import Int8Options
from ghostsearch.models.load import LoadedModel, example_input
from ghostsearch.options import without_effect
from ghostsearch.study.config import configure
from ghostsearch.study.directory import model_directory, study_of
from ghostsearch.study.images import calibration_of, for_ranges, open_data
from ghostsearch.study.split import split_of
from ghostsearch.surgery.saved import load_directory
from ghostsearch.training.tasks.base import Task, split_output
from ghostsearch.training.tasks.classification import Classification
from ghostsearch.training.tasks.table import load_task, task_for, task_of_kind
from ghostsearch.usercode import is_object_name
from ghostsearch.yaml_files import RUN

ONNX = Exporting()
QUANTIZERS = {"onnx": quantize, "executorch": quantize_for_executorch}
"""By format what makes an int8 file."""


def export_directory(directory: Path, wanted: Exporting = ONNX, *, allow_code: bool = False) -> dict[str, Any]:
    """Export the model in a directory that ghostsearch wrote, of a study the chosen one; returns plain data.

    A model card is written beside the file. With `int8` the file, ONNX or an ExecuTorch program, is quantized with
    images of `calibrate` and scored by `task`, by default the one that the data's targets are for; a study's model
    without `calibrate` as the study scored it. See `export` and `quantize`.
    """
    if not wanted.int8:
        _refuse_int8_options(wanted)
    study = study_of(directory)
    if (directory / RUN).is_file():
        directory = model_directory(directory)
    model, known = load_directory(directory, allow_code=allow_code), known_figures(directory)
    if wanted.with_softmax:
        model = dataclasses.replace(model, module=with_softmax(model))
    model = dataclasses.replace(model, notes=notes_of(known, softmax=wanted.with_softmax))
    name = descriptive_name(model)
    if wanted.int8:
        stem = directory / f"{name}_int8"
        split = split_of(directory)
        seed = split.seed if split else 0
        result: Any = _quantized(model, wanted, stem, None if wanted.calibrate else study, allow_code, seed)
    else:
        result = export(model, wanted.to, _out(wanted, directory / (name + get_format(wanted.to).suffix)))
    found = dataclasses.asdict(result)
    card = write_card(Path(found["path"]), model, known, found)
    return found | {"card": str(card), "study": str(study) if study else None}


class Softmaxed(nn.Module):
    """A network and a softmax over its classes; its layers keep their names in a file."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.ghostsearched = model

    def forward(self, x: Tensor) -> Tensor:
        """x: as the network takes it -> (N, classes, …), each position's sum 1."""
        found: Tensor = self.ghostsearched(x)
        return found.softmax(1)


def with_softmax(model: LoadedModel) -> nn.Module:
    """The network ended by a softmax over dimension 1; raises GhostsearchError where it gives no classes."""
    with torch.no_grad():
        output = None if is_detector(model.module) else model.module(example_input(model.input))
    if not isinstance(output, Tensor) or output.ndim < 2 or output.shape[1] < 2:
        raise GhostsearchError("--with-softmax takes a network with one output of several classes, (N, classes, …)")
    return Softmaxed(model.module).eval()


def _refuse_int8_options(wanted: Exporting) -> None:
    """Raise GhostsearchError for options that say how int8 is made, where it is not asked for."""
    plain = Exporting()
    for name in ("calibrate", "calibration_images", "task", "keep_float", "validation_list"):
        if getattr(wanted, name) != getattr(plain, name):
            raise without_effect(name, "--int8")


def _out(wanted: Exporting, default: Path) -> Path:
    return Path(wanted.out) if wanted.out else default


def _quantized(
    model: LoadedModel, wanted: Exporting, stem: Path, study: Path | None, allow_code: bool, seed: int
) -> Int8Result:
    """The int8 file; without other images as the study that the model comes from scored it. seed: of the splits."""
    if wanted.to not in QUANTIZERS:
        instead = "OpenVINO reads the ONNX file too; " if wanted.to == "openvino" else ""
        raise GhostsearchError(f"--int8 writes {' or '.join(QUANTIZERS)}, not {wanted.to}; {instead}leave --format out")
    config, asked = configure({}, study / RUN) if study else None, bool(wanted.keep_float)
    if config and config.calibration_images:
        if wanted.validation_list:
            raise GhostsearchError(
                f"--validation-list goes with --calibrate; without it {study} says which images are used"
            )
        if not allow_code and (runs_code(config.data) or is_object_name(config.task)):
            raise GhostsearchError(
                f"{study}: its images ({config.data[:100]}) or its task ({config.task[:100]}) are code that exporting "
                "would run; if you trust it add --allow-code, else --calibrate DATA"
            )
        if config.keep_float and not wanted.keep_float and wanted.to != "onnx":
            raise GhostsearchError(
                f"{study} keeps layers in float ({', '.join(config.keep_float)[:100]}), which only ONNX files can; "
                f"leave --format {wanted.to} out, or add --calibrate DATA for a file wholly in int8"
            )
        data = open_data(config, model.input)
        images = for_ranges(calibration_of(config, data, example_input(model.input)), wanted.calibration_images)
        wanted = wanted.but(keep_float=wanted.keep_float or config.keep_float, task=wanted.task or config.task)
    elif wanted.calibrate:
        data = load_data(
            wanted.calibrate, input=model.input, seed=seed, validation_list=wanted.validation_list, trains=False
        )
        images = calibration_batches(data, wanted.calibration_images, seed=seed)
    else:
        raise GhostsearchError("--int8 needs images to calibrate on; add --calibrate DATA")
    kept = Int8Options(keep_float=wanted.keep_float)
    judges = Judges(data.test, task_of(wanted.task, data, model), options=kept, must_match=asked)
    form = get_format(wanted.to)
    out = _out(wanted, stem.with_name(stem.name + form.suffix))
    check_suffix(out, form)
    return QUANTIZERS[wanted.to](model, images, out, judges)


def task_of(name: str | None, data: Data, model: LoadedModel) -> Task | None:
    """The named task, or that of the data's targets and of what the model gives; None where no task reads the latter.

    Where the data have no targets of the task's kind, the task is judged by agreement with the model.
    """
    detects = is_detector(model.module)
    name = name or task_of_kind("boxes" if detects else data.kind)
    task = load_task(name)
    if not detects and isinstance(task, Classification):
        output = _main_output(model)
        if output is None:
            return None
        name = "segmentation" if output.ndim == 4 else name
        task = load_task(name)
    labelled = data.labelled and (not task.kinds or not data.kind or data.kind in task.kinds)
    return task_for(name, labelled=labelled, baseline=model.module)


def _main_output(model: LoadedModel) -> Tensor | None:
    """The main tensor of the model's output on an example; None for a list of what was found in each image."""
    with torch.no_grad():
        output = model.module.eval()(example_input(model.input))
    main: Any = split_output(output)[0]
    return main if isinstance(main, Tensor) else None
