"""Writes models for runtimes, and checks each file by running it against the module."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ghostsearch.errors import GhostsearchError
from ghostsearch.export.detector import compare_found, write_detector
from ghostsearch.export.formats.base import Format, Runner
from ghostsearch.export.formats.table import get_format
from ghostsearch.files import atomic_path, cannot_write
from ghostsearch.graph.capture import call, copied, tensors
from ghostsearch.graph.detector import is_detector
from ghostsearch.measure.agreement import require_agreement
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.devices.base import quiet_exporter, refusals
from ghostsearch.measure.devices.torch_cpu import as_array
from ghostsearch.models.load import LoadedModel, example_input
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.saved import SavedModel
from ghostsearch.version import VERSION


@dataclass(frozen=True)
class ExportResult:
    """A written file, and how close its outputs came to the module's on the same images."""

    format: str
    path: str
    size_bytes: int
    """Of all files the format writes."""
    batch: str
    """Which batches the file takes: `1 to N`, or `1` where the model itself fixes its batch."""
    max_difference: float
    largest_output: float
    """What `max_difference` is to be compared with."""
    seconds: float
    """Wall time of exporting and checking."""


def export(model: LoadedModel, format_name: str = "onnx", out: Path | None = None) -> ExportResult:
    """Write a model to a file of a format (`onnx`, `torch-export`, `executorch`, `openvino`) in float32.

    The batch stays free wherever the model allows it. The file is run by its own runtime on images of several
    batches before it gets its name; `out` is by default `descriptive_name` in the working directory.
    Raises GhostsearchError when the model cannot be exported, when the file computes something else, or when
    it cannot be written; MissingExtraError when the runtime is not installed.
    """
    started = time.perf_counter()
    form = get_format(format_name)
    out = out or Path(descriptive_name(model) + form.suffix)
    check_suffix(out, form)
    if is_detector(model.module) and form.name != "onnx":
        raise GhostsearchError(f"a detector cannot be written as {form.name}: torch.export does not take it; use onnx")
    module = copied(model.module).to("cpu", torch.float32).eval().requires_grad_(False)
    with refusals(f"format {form.name}"), workplace(out) as folder:
        draft = folder / f"model{form.suffix}"
        if is_detector(module):
            largest = 1
            write_detector(module, model.input, draft, notes(model))
            difference, output = compare_found(draft, module, model.input)
        else:
            program, largest = exported_program(module, model, form.max_batch)
            form.write(program, draft, notes(model))
            difference, output = _compare(form.open(draft), module, model, largest)
        size = publish(folder, out)
    return ExportResult(
        form.name, str(out), size, f"1 to {largest}" if largest > 1 else "1", difference, output,
        time.perf_counter() - started,
    )  # fmt: skip


def check_suffix(out: Path, form: Format) -> None:
    """Raise GhostsearchError unless a file's name ends as its format's files do."""
    if out.suffix != form.suffix:
        raise GhostsearchError(f"--out {out}: a file of format {form.name} ends in {form.suffix}")


def descriptive_name(model: LoadedModel) -> str:
    """A name such as `resnet50_ghost@2.1GMACs`: baseline, kinds of choices, multiply-adds on one image."""
    name = model.spec.rpartition(":")[2] or type(model.module).__name__
    architecture = model.architecture if isinstance(model, SavedModel) else Architecture()
    kinds = {c.name for c in (*architecture.sites.values(), *architecture.groups.values())}
    macs = measure_cost(model.module, example_input(model.input)).macs
    unit, size = next((u, n) for u, n in (("G", 10**9), ("M", 10**6), ("k", 10**3), ("", 1)) if macs >= n or n == 1)
    return "_".join([re.sub(r"[^\w.\-]+", "-", name), *sorted(kinds)]) + f"@{macs / size:.1f}{unit}MACs"


def notes(model: LoadedModel) -> Mapping[str, str]:
    """What a user of the file must know: the model, how its images are made, its classes in order, who wrote it."""
    found = {
        "model": model.spec,
        "size": str(model.input.size) if isinstance(model.input.size, int) else "x".join(map(str, model.input.dims)),
        "mean": " ".join(map(str, model.input.mean)),
        "std": " ".join(map(str, model.input.std)),
        "resize": str(model.input.shorter_side),
        "interpolation": model.input.interpolation,
    }
    if isinstance(model, SavedModel):
        found["digest"] = model.architecture.digest
    if model.categories:
        found["classes"] = json.dumps(model.categories)
    return {**found, "version": VERSION, **model.notes}


def exported_program(module: nn.Module, model: LoadedModel, max_batch: int) -> tuple[ExportedProgram, int]:
    """The module through torch.export and the largest batch it takes: `max_batch`, or 1 where it is fixed."""
    try:
        program = _trace(module, example_input(model.input, 2), {0: Dim("batch", min=1, max=max_batch)})
        largest = max_batch
    # Anything may be raised by tracing with a free batch; a fixed one may still do, and the result says so.
    except Exception:  # noqa: BLE001
        program, largest = _trace(module, example_input(model.input), None), 1
    for node in program.graph.nodes:
        # Source paths of this machine are no business of the file's readers.
        node.meta.pop("stack_trace", None)
    return program, largest


def _trace(module: nn.Module, images: Tensor, shape: dict[int, Any] | None) -> ExportedProgram:
    with quiet_exporter(), torch.no_grad():
        return torch.export.export(module, (images,), dynamic_shapes=(shape,) if shape else None, strict=False)


def _compare(run: Runner, module: nn.Module, model: LoadedModel, largest: int) -> tuple[float, float]:
    """Largest difference between file and module over all outputs, and the largest output, or GhostsearchError."""
    difference = output = 0.0
    for batch in (1, 3) if largest > 1 else (1,):
        images = example_input(model.input, batch)
        with torch.no_grad():
            wanted = [as_array(y) for y in tensors(call(module, images))]
        differs, own = require_agreement(run(images), wanted, "the file")
        difference, output = max(difference, differs), max(output, own)
    return difference, output


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """A folder on the disk of `out` to write drafts in; raises GhostsearchError where the system refuses."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise cannot_write(out, error.strerror or str(error)) from None


def publish(folder: Path, out: Path) -> int:
    """Give checked drafts their names beside `out`, all or none; returns their bytes."""
    drafts = sorted(folder.iterdir())
    size = sum(file.stat().st_size for file in drafts)
    with ExitStack() as stack:
        for draft in drafts:
            os.replace(draft, stack.enter_context(atomic_path(out.with_suffix(draft.suffix))))
    return size
