"""Which layers of the int8 models should stay in float, as rows of text, and one sentence where that surely gains."""

from __future__ import annotations

import shlex
from pathlib import Path

from ghostsearch.records import Int8Model, KeptLayer, StudyView
from ghostsearch.report.outcome import metric_name, score_axis, score_cell
from ghostsearch.study.directory import baseline_directory
from ghostsearch.study.recommendation import BASELINE
from ghostsearch.study.statistics import CONFIDENCE, Difference, compare, has_error
from ghostsearch.units import interval_text, share_text
from ghostsearch.usercode import leave_for


def int8_table(view: StudyView) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each layer tried in float, its signal-to-noise, what float costs and what it does to the score.

    Without rows where no layer was tried.
    """
    metric, rows = metric_name(view), []
    for model in view.int8_layers:
        record = view.record(model.digest)
        for layer in model.noisiest:
            interval = interval_text(layer.ratio_interval) if layer.ratio_interval else ""
            cells = [f"{layer.snr_db:.0f} dB", share_text(layer.latency_ratio) + interval]
            cells += [score_cell(record.score() if record else None), score_cell(layer.score)]
            rows.append([model.digest, layer.layer, *cells, _verdict(view, model, layer)])
    header = ["model", "layer", "signal-to-noise", "latency with it in float", f"validation {metric} in int8"]
    return [*header, "with the layer in float", "remark"], rows


def float_islands(view: StudyView) -> list[list[str]]:
    """Each int8 model with the layers and operators that compute in float within its file."""
    return [[x.digest, ", ".join(x.in_float) or "nothing"] for x in view.int8_layers]


def int8_caption(view: StudyView) -> str:
    """How the rows of `int8_table` are to be read, and what to type."""
    device = next((x.device for x in view.int8_layers), "")
    return (
        "The noisiest layers of the baseline and the noisiest layer of each finalist: signal-to-noise of the layer's "
        "int8 output for float inputs (6 dB are one bit), then what the int8 file becomes with that one layer in "
        f"float: its latency on {device} as a share of the int8 file's [95 % interval], and its score. A remark stands "
        "where a paired test on the same images, corrected for the number of layers tried, proves a difference; else "
        "it may be chance. To keep a layer in float: ghostsearch export MODEL --int8 --keep-float LAYER, or for every "
        "model of a search ghostsearch search --keep-float GLOB."
    )


def gain(view: StudyView) -> str:
    """One sentence where a layer in float is proven to gain score, the chosen model's first; else empty."""
    found = [(m, layer, d) for m in view.int8_layers for layer in m.noisiest if (d := _change(view, m, layer))]
    proven = [x for x in found if x[2].value > 0 and _proven(view, x[2])]
    if not proven:
        return ""
    model, layer, _ = max(proven, key=lambda x: (x[0].digest == view.chosen, x[2].value))
    record, folder = view.record(model.digest), Path(view.directory)
    place = baseline_directory(folder) if model.digest == BASELINE else folder / "models" / model.digest
    # What is given replaces what the study kept in float.
    kept = " ".join(f"--keep-float {shlex.quote(x)}" for x in (*view.config.get("keep_float", ()), layer.layer))
    leave = leave_for(str(view.config.get("model", "")))
    return (
        f"Model {model.digest} scores better with {layer.layer} in float: {score_cell(layer.score)} validation "
        f"{layer.score.metric} instead of {score_cell(record.score() if record else None)}, at "
        f"{share_text(layer.latency_ratio)} of its int8 latency: "
        f"ghostsearch export {shlex.quote(place.as_posix())}{leave} --int8 {kept}"
    )


def _verdict(view: StudyView, model: Int8Model, layer: KeptLayer) -> str:
    change = _change(view, model, layer)
    if change is None or not _proven(view, change):
        return ""
    return "better in float" if change.value > 0 else "worse in float"


def _change(view: StudyView, model: Int8Model, layer: KeptLayer) -> Difference | None:
    """By how much a layer in float changes the score of the int8 file; None where that or its error is not known."""
    record = view.record(model.digest)
    score = record.score() if record else None
    if score is None or not has_error(layer.score, score):
        return None
    return compare(layer.score, score, maximize=score_axis(view).maximize)


def _proven(view: StudyView, change: Difference) -> bool:
    """Whether a change is more than chance explains: of many layers tried, one would seem to gain (Bonferroni)."""
    tried = sum(len(x.noisiest) for x in view.int8_layers)
    return change.p_value * tried <= 1 - CONFIDENCE
