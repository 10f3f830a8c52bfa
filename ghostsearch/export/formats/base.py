"""What a file format for exported models is, behind one small interface."""

from __future__ import annotations

import abc
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor
from torch.export import ExportedProgram

from ghostsearch.errors import MissingExtraError

Runner = Callable[[Tensor], tuple[np.ndarray, ...]]
"""Runs an exported file on images (N, C, H, W); its outputs in the module's order."""

OUTPUT_NAME = "output"


class Format(abc.ABC):
    """A file format: written from one exported program, and run again by its own runtime. Holds no state."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    package: ClassVar[str] = ""
    """What must be importable beyond the dependencies; the extra of the same name installs it."""
    max_batch: ClassVar[int] = 1024
    """Upper bound of a dynamic batch."""

    def check(self) -> None:
        """Raise MissingExtraError when the runtime is not installed."""
        if self.package and importlib.util.find_spec(self.package) is None:
            raise MissingExtraError(f"format {self.name!r}: {self.package}", self.package)

    @abc.abstractmethod
    def write(self, program: ExportedProgram, path: Path, notes: Mapping[str, str]) -> None:
        """Write the program to `path`; `notes` go into the file's metadata where it has any."""

    @abc.abstractmethod
    def open(self, path: Path) -> Runner:
        """The file, loaded by its runtime."""
