"""The layers of the finished int8 models: what computes in float, where int8 adds most noise, what float costs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import nn

from ghostsearch.errors import GhostsearchWarning, failure_reason, release_memory
from ghostsearch.measure.devices.base import refusals
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.int8_module import FloatFile
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.onnx_graph.noise import NOISIEST
from ghostsearch.measure.onnx_graph.quantize import float_nodes
from ghostsearch.measure.setting import Setting
from ghostsearch.records import Int8Model, KeptLayer, Latency, Record
from ghostsearch.study.config import RunConfig
from ghostsearch.study.devices import runs_graphs
from ghostsearch.study.kept import finished_module
from ghostsearch.study.plan import Plan
from ghostsearch.study.recommendation import BASELINE, BASELINES
from ghostsearch.study.setup import Setup
from ghostsearch.study.watch import Watch

TIMING_SHARE = 0.5
"""Of the final time limit, for all models together; it comes on top of the finalists' own timing."""


def judged_layers(config: RunConfig, models: int) -> tuple[int, ...]:
    """How many layers are tried in float of the baseline and of each further model; empty where int8 has no graphs."""
    return (NOISIEST, *[1] * (models - 1)) if models and config.scores_int8 and runs_graphs(config) else ()


def int8_layers(plan: Plan, finalists: Sequence[Record], watch: Watch) -> list[Int8Model]:
    """What int8 does within the baseline and each finalist; empty without an int8 device for ONNX graphs.

    The baseline is the one as given: with the finalists' training it has the same layers. Ctrl-C leaves nothing, a time
    budget that is used up what there is; a model that cannot be judged is left out with a warning.
    """
    records = [r for r in finalists if r.digest == BASELINE or r.digest not in BASELINES]
    counts = judged_layers(plan.config, len(records))
    told, found = watch.telling("int8 layers"), list[Int8Model]()
    for done, (record, layers) in enumerate(zip(records, counts, strict=False)):
        if watch.interrupted():
            return []
        if watch.left_s() <= 0:
            break
        told(done, len(counts), record.digest)
        seconds = TIMING_SHARE * plan.config.final_time_limit * (layers + 1) / (sum(counts) + len(counts))
        try:
            module = finished_module(plan.setup, record.digest, watch.folder)
            found.append(_judged(plan.setup, record, module, layers, seconds))
        except Exception as error:  # noqa: BLE001 - the search is done: nothing here may take its outcome away
            release_memory()
            text = f"{record.digest}: its layers in int8 were not judged ({failure_reason(error)})"
            warnings.warn(text, GhostsearchWarning, stacklevel=2)
    return found


def _judged(setup: Setup, record: Record, module: nn.Module, layers: int, seconds: float) -> Int8Model:
    """A model's float islands, and its noisiest layers each kept in float, timed in so many seconds."""
    score = record.score()
    epochs = score.epochs if score else 0.0
    with refusals("int8"):
        file = FloatFile.of(module, setup.example)
        made = file.int8(setup.int8_images, setup.int8_options())
        noise = {x.layer: x.snr_db for x in reversed(made.noise())}
        worst = sorted(noise, key=noise.__getitem__)[:layers]
        kept = {layer: file.int8(setup.int8_images, setup.int8_options(layer)).graph for layer in worst}
    tried = []
    for layer, latency in _timed(setup, made.graph, kept, seconds).items():
        assert latency.ratio is not None, "the int8 file is timed beside it"
        file_score = setup.score_as_it_is(OnnxModule(kept[layer], threads=setup.config.threads), "validation", epochs)
        tried.append(KeptLayer(
            layer=layer, snr_db=noise[layer], latency_ratio=latency.ratio, ratio_interval=latency.ratio_interval,
            score=file_score,
        ))  # fmt: skip
    islands = tuple(float_nodes(made.graph))
    return Int8Model(digest=record.digest, device=_device(setup.config), in_float=islands, noisiest=tuple(tried))


def _timed(setup: Setup, int8: bytes, kept: dict[str, bytes], seconds: float) -> dict[str, Latency]:
    """Each graph's latency interleaved with that of the int8 graph it differs from in one layer.

    Each model's graphs are timed in a run of their own: only they are compared, and a run with all models would build
    each graph less often in the same time. Only the first int8 device is used, since the noise and the scores are the
    same on all and each further device would take as long again.
    """
    if not kept:
        return {}
    files = {
        name: OnnxModule(graph, threads=setup.config.threads).with_batch(setup.config.batch)
        for name, graph in {"": int8, **kept}.items()
    }
    device, beside = _device(setup.config), files.pop("")
    return setup.on_device(
        device, measure_latency, files, setup.example, baseline=beside, device=device,
        setting=setup.config.part(Setting, time_limit=seconds),
    )  # fmt: skip


def _device(config: RunConfig) -> str:
    return next(device for device in config.device if device.endswith(":int8"))
