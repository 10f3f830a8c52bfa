"""The table of file formats; a new one is one file and one row here."""

from __future__ import annotations

import importlib

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
    file, _, kind = FORMATS[name].partition(":")
    found: Format = getattr(importlib.import_module(f"{__package__}.{file}"), kind)()
    found.check()
    return found
