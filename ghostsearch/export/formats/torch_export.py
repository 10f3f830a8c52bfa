"""PyTorch's own exported programs (.pt2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from ghostsearch.export.formats.base import Format, Runner
from ghostsearch.graph.capture import call, tensors
from ghostsearch.measure.devices.base import quiet_exporter
from ghostsearch.measure.devices.torch_cpu import as_array


class TorchExport(Format):
    """One .pt2 file: `torch.export.load(path).module()` runs it, without this package."""

    name = "torch-export"
    suffix = ".pt2"

    def write(self, program: ExportedProgram, path: Path, notes: Mapping[str, str]) -> None:
        """Save the program with the notes as a file of its archive."""
        with quiet_exporter():
            torch.export.save(program, path, extra_files={f"ghostsearch.{k}": v for k, v in notes.items()})

    def open(self, path: Path) -> Runner:
        """The loaded program as a module."""
        with quiet_exporter():
            module = torch.export.load(path).module()

        def run(images: Tensor) -> tuple[np.ndarray, ...]:
            with torch.no_grad():
                return tuple(as_array(y) for y in tensors(call(module, images)))

        return run
