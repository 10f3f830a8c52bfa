"""Timed cells on disk, one file per device and versions, so that the next search on the device starts at once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock
from pydantic import Field, ValidationError

from ghostsearch.errors import GhostsearchError, text_of
from ghostsearch.files import cannot_write, read_json, write_text
from ghostsearch.measure.devices.base import Device
from ghostsearch.measure.devices.table import get_device
from ghostsearch.measure.setting import Setting
from ghostsearch.options import Frozen

FORMAT = "ghostsearch.latency"
VERSION = 4
"""Raise it whenever cells are timed differently: older files are then left alone."""


class CellTime(Frozen):
    """What was measured of one cell."""

    median_s: float = Field(gt=0)
    ratio: float = Field(gt=0)
    """Over the baseline layer's median in the same interleaved run."""
    interval: tuple[float, float]
    """95 % confidence interval of the ratio."""


class Correction(Frozen):
    """End-to-end correction of one model: measured ratio to baseline - 1, linear in the predicted terms."""

    coefficients: tuple[float, ...]
    baseline_s: float = Field(gt=0)
    """Median seconds of the baseline in the runs that the fit saw."""
    models: int
    """Random architectures in the fit."""
    error: float = 0.0
    """The largest relative error of the corrected prediction on them."""


class CellFile(Frozen):
    """The content of one file."""

    format: str = FORMAT
    version: int = VERSION
    fingerprint: dict[str, str]
    cells: dict[str, CellTime] = Field(default_factory=dict)
    corrections: dict[str, Correction] = Field(default_factory=dict)
    """By the digest of the model's layers and the space."""


class CellStore:
    """Cells of one device, its versions, threads, batch and precision; other devices' files are never read."""

    def __init__(
        self, device: str | Device, setting: Setting, directory: Path | None = None, *, corrected: bool = True
    ) -> None:
        """Without `corrected`, corrections on file stay there. Raises GhostsearchError for an unknown or absent device,
        or a precision that it has not.
        """
        device = get_device(device) if isinstance(device, str) else device
        device.require_precision(setting.precision)
        self.device, self.setting = device, setting
        self.fingerprint = fingerprint(device, setting)
        digest = hashlib.sha256(json.dumps(self.fingerprint, sort_keys=True).encode()).hexdigest()[:16]
        folder = directory or Path(platformdirs.user_cache_dir("ghostsearch")) / "latency"
        # A device of another machine may have a path in its name.
        readable = re.sub(r"[^\w.@-]", "-", device.name)
        self.path = folder / f"{readable}-{digest}.json"
        self.note = ""
        """Why an existing file was not used; empty when there was none or it served."""
        found = self._read()
        self.cells: Mapping[str, CellTime] = found.cells
        self.corrections: Mapping[str, Correction] = found.corrections if corrected else {}
        self._before, self._timed = len(found.cells), 0

    @property
    def history(self) -> str:
        """How many of the cells this search has timed; empty where all are its own."""
        if not self._before:
            return ""
        return f"latency table on {self.device.name}: {self._timed} cells timed by this search, the others before it"

    def take(self, times: Mapping[str, CellTime]) -> None:
        """Add timed cells, or better times of known ones; `write` keeps them."""
        self._timed += len(times.keys() - self.cells.keys())
        self.cells = {**self.cells, **times}

    def correct(self, digest: str, correction: Correction) -> None:
        """Take the correction of a model's layers and space; `write` keeps it."""
        self.corrections = {**self.corrections, digest: correction}

    def _read(self) -> CellFile:
        nothing = CellFile(fingerprint=self.fingerprint)
        if not self.path.is_file():
            return nothing
        try:
            found = CellFile.model_validate(read_json(self.path))
        except (GhostsearchError, ValidationError) as error:
            self.note = f"{self.path} is damaged and was not used ({text_of(error, 120)})"
            return nothing
        if (found.format, found.version, found.fingerprint) != (FORMAT, VERSION, self.fingerprint):
            self.note = f"{self.path} is of another device or version and was not used"
            return nothing
        return found

    def write(self) -> None:
        """Add every cell to the file; a reader finds the old file or the new one, and no other writer's cells go.

        Raises GhostsearchError where the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock")):
                before = self._read()
                merged = CellFile(
                    fingerprint=self.fingerprint,
                    cells={**before.cells, **self.cells},
                    corrections={**before.corrections, **self.corrections},
                )
                write_text(self.path, merged.model_dump_json(indent=1))
        except OSError as error:
            raise cannot_write(self.path, error.strerror or str(error)) from None


def fingerprint(device: Device, setting: Setting) -> dict[str, str]:
    """Everything that a stored latency depends on besides the layer: all of it must be equal for a cell to be used."""
    how: dict[str, Any] = {"threads": setting.threads, "precision": setting.precision, "batch": setting.batch}
    if not setting.channels_last:
        how["memory order"] = "channels first"
    return {
        "device": device.name,
        "place": device.place(),
        **{f"version of {name}": version for name, version in device.versions().items()},
        **{key: str(value) for key, value in how.items()},
    }
