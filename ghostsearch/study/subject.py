"""What may be measured: a model by name, a directory, a study (its chosen model) or an ONNX file."""

from __future__ import annotations

from pathlib import Path

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.onnx_graph.file import open_onnx
from ghostsearch.models.load import LoadedModel
from ghostsearch.models.options import ModelOptions
from ghostsearch.study.directory import model_directory
from ghostsearch.surgery.saved import open_model
from ghostsearch.yaml_files import RUN


def open_subject(
    name: str, options: ModelOptions | None = None, *, seed: int = 0, allow_code: bool = False
) -> LoadedModel:
    """The model of a name, as `open_model` has it; of a study its chosen one, of an ONNX file its graph.

    Raises GhostsearchError when it is unknown, or an ONNX file leaves its sides open and no size is given.
    """
    path, options = Path(name), options or ModelOptions()
    if path.suffix.lower() == ".onnx":
        if options.weights or options.classes:
            raise GhostsearchError(f"{name} holds weights of its own; leave --weights and --classes out")
        return open_onnx(path, size=options.size)
    if (path / RUN).is_file():
        name = str(model_directory(path))
    return open_model(name, options, seed=seed, allow_code=allow_code)
