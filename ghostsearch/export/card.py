"""The model card beside an exported file, and the same figures as notes in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text
from ghostsearch.graph.detector import is_detector
from ghostsearch.models.load import LoadedModel
from ghostsearch.records import Axis, Record
from ghostsearch.surgery.saved import SavedModel
from ghostsearch.units import markdown_table, plain_text, score_text
from ghostsearch.version import VERSION

RECORD = "record.json"
Figures = dict[str, float]
"""By column of the trials table; scores by split and metric, such as `test accuracy`."""

RUN = """```python
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession({file!r}, providers=["CPUExecutionProvider"])
images = np.zeros({shape}, dtype=np.float32)  # normalised as above
outputs = session.run(None, {{session.get_inputs()[0].name: images}})
```"""


def known_figures(directory: Path) -> dict[str, Figures]:
    """The figures of a study's model and of its baseline, trained where that was; empty elsewhere.

    Raises GhostsearchError for a damaged record.
    """
    places = {"model": [directory], "baseline": [directory.parent / d for d in ("baselinetrained", "baseline")]}
    found = {}
    for name, folders in places.items():
        file = next((f / RECORD for f in folders if (f / RECORD).is_file()), None)
        if file:
            try:
                found[name] = figures(Record.model_validate_json(file.read_text(encoding="utf-8")))
            except (ValidationError, UnicodeDecodeError):
                raise GhostsearchError(
                    f"{file} is damaged; run the search's command again, which writes it anew"
                ) from None
    return found if "model" in found else {}


def figures(record: Record) -> Figures:
    """A record's scores, costs and latencies as plain numbers."""
    scores = {f"{split} {s.metric}": s.value for split in ("validation", "test") if (s := record.score(split))}
    costs = record.cost.model_dump(exclude_none=True) if record.cost else {}
    return scores | costs | {Axis.of_latency(x.device).name: x.median_s for x in record.latencies}


def notes_of(known: Mapping[str, Figures], *, softmax: bool) -> dict[str, str]:
    """The metadata that only the directory and the request know, as texts."""
    found = {"record" if name == "model" else name: json.dumps(values) for name, values in known.items()}
    return found | ({"output": "probabilities"} if softmax else {})


def write_card(path: Path, model: LoadedModel, known: Mapping[str, Figures], result: Mapping[str, Any]) -> Path:
    """Write FILE.md beside an exported file: origin, input, output, figures beside the baseline's, how to run it."""
    spec, saved = model.input, model if isinstance(model, SavedModel) else None
    dims = " × ".join(map(str, spec.shape))
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (spec.mean, spec.std))
    parts = [
        f"# {plain_text(path.name)}",
        f"Written by ghostsearch {VERSION} from {plain_text(model.spec or 'a network made in Python')}"
        + (f", architecture {saved.architecture.digest}." if saved else "."),
        "## Input",
        f"`image`: float32, (batch, {dims}). Values from 0 to 1, less the mean ({mean}), over the standard deviation "
        f"({std}), per channel{_fitted(model)}. The batch is " + ("1." if result["batch"] == "1" else "free."),
        "## Output",
        "Probabilities" if model.notes.get("output") == "probabilities" else "As the network gives it (no softmax)",
    ]
    if model.categories:
        parts[-1] += f", {len(model.categories)} classes in this order: "
        parts[-1] += ", ".join(map(plain_text, model.categories)) + "."
    if known:
        in_int8 = any(name.endswith(":int8]") for values in known.values() for name in values)
        parts += ["## Figures", markdown_table(*_rows(known)), *["Scores are those of the networks in int8."] * in_int8]
    if result.get("metric"):
        score = [score_text(result[k], result["metric"]) for k in ("float_score", "score")]
        parts.append(f"int8, calibrated on {result['calibration_images']} images: {result['metric']} {score[1]}, in "
                     f"float32 {score[0]}.")  # fmt: skip
    if path.suffix == ".onnx":
        parts += ["## Run it", RUN.format(file=path.name, shape=(1, *spec.shape))]
    card = path.with_name(path.name + ".md")
    write_text(card, "\n\n".join(parts) + "\n")
    return card


def _fitted(model: LoadedModel) -> str:
    """How an image comes to the input's size; nothing of a recording."""
    spec = model.input
    if len(spec.dims) != 2:
        return ""
    if not isinstance(spec.size, int) or is_detector(model.module):
        return f"; images stretched to {spec.dims[0]} × {spec.dims[1]} ({spec.interpolation})"
    resized = f"; images resized to {spec.shorter_side} on the shorter side ({spec.interpolation})"
    return f"{resized}, then cropped to the centre"


def _rows(known: Mapping[str, Figures]) -> tuple[list[str], list[list[str]]]:
    names = list(dict.fromkeys(name for values in known.values() for name in values))
    rows = []
    for name in names:
        metric = name.partition(" ")[2]
        axis = Axis.of_score(metric) if metric else Axis.of_column(name)
        rows.append([name if metric else axis.label, *(axis.text(values.get(name)) for values in known.values())])
    return ["", *known], rows
