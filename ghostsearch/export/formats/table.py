"""The table of file formats; a new one is one file and one row here."""

from __future__ import annotations

import importlib
from pathlib import Path

from ghostsearch.errors import GhostsearchError
from ghostsearch.export.formats.base import Format

FORMATS = {
    "onnx": "onnx_format:Onnx",
    "torch-export": "torch_export:TorchExport",
    "executorch": "executorch_format:Executorch",
    "openvino": "openvino_format:OpenVino",
}
"""Format by name: file in this folder and class; a file is imported when its format is asked for."""


def get_format(name: str) -> Format:
    """The format of a name, ready to use.

    Raises GhostsearchError when the name is unknown, MissingExtraError when its runtime is not installed.
    """
    if name not in FORMATS:
        raise GhostsearchError(f"no format is called {name!r}; choose from {', '.join(FORMATS)}")
    found = _load(name)
    found.check()
    return found


def format_of(path: Path) -> str:
    """The name of the format that a file's ending stands for; raises GhostsearchError for any other ending."""
    endings = {_load(name).suffix: name for name in FORMATS}
    if path.suffix not in endings:
        raise GhostsearchError(f"{path}: no format ends in {path.suffix!r}; write {', '.join(endings)}")
    return endings[path.suffix]


def _load(name: str) -> Format:
    file, _, kind = FORMATS[name].partition(":")
    found: Format = getattr(importlib.import_module(f"{__package__}.{file}"), kind)()
    return found
