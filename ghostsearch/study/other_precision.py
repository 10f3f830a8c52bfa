"""The baseline in the precision that the study's other models do not have: int8 beside float, float beside int8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ghostsearch.files import write_text
from ghostsearch.measure.onnx_graph.int8_module import FloatFile
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.records import Record
from ghostsearch.study.devices import runs_graphs
from ghostsearch.study.kept import MODELS, RECORD
from ghostsearch.study.recommendation import FLOAT, INT8
from ghostsearch.study.setup import Setup


@dataclass(frozen=True)
class Reference:
    """The graph, which an ONNX device runs as it is, and the record of its scores."""

    module: OnnxModule
    record: Record


def make_reference(setup: Setup, baseline: Record, folder: Path) -> Reference | None:
    """The baseline in the other precision, scored on both splits; None where the run does not ask for it.

    Its weights are those that the search starts from. A search in int8 always has it where its devices run ONNX graphs.
    """
    config, model = setup.config, setup.baseline.module
    if not (config.int8_baseline or config.scores_int8) or not runs_graphs(config):
        return None
    if config.scores_int8:
        digest, origin = FLOAT, "float baseline"
        module = OnnxModule(FloatFile.of(model, setup.example).graph, threads=config.threads)
    else:
        digest, origin = INT8, "int8 baseline"
        module = setup.quantized(model)
    scores = tuple(setup.score_as_it_is(module, split, 0) for split in ("validation", "test"))
    assert baseline.cost is not None, "the baseline's costs are counted first"
    # Its multiply-adds are the same; its file's size is the graph's own, and nobody counted its memory.
    cost = baseline.cost.model_copy(update={"size_bytes": len(module.graph), "peak_memory_bytes": None})
    record = baseline.model_copy(
        update={"digest": digest, "origin": origin, "scores": scores, "seconds": {}, "cost": cost}
    )
    (folder / MODELS / digest).mkdir(parents=True, exist_ok=True)
    write_text(folder / MODELS / digest / RECORD, record.model_dump_json())
    return Reference(module.with_batch(config.batch), record)
