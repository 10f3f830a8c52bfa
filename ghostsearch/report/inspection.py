"""What `inspect` and `measure` report of a model, as plain data: the CLI prints it, programs read it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.counters import CounterComparison, compare_counters
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.file import check_device, example_of
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.setting import Setting
from ghostsearch.measure.shares import shares_by_kind
from ghostsearch.models.load import LoadedModel, example_input
from ghostsearch.records import Latency
from ghostsearch.shown import Progress
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.space.choice_text import parse_layer_choice
from ghostsearch.space.costs import theoretical_speedup
from ghostsearch.space.preset import load_preset
from ghostsearch.surgery.saved import SavedModel, load_baseline
from ghostsearch.surgery.sites import find_sites
from ghostsearch.version import versions


def inspection(loaded: LoadedModel, space: str) -> dict[str, Any]:
    """Params, MACs, sites with their choices and theoretical speed-ups, groups, what was skipped and why.

    A model without a site is no error here: its `sites` are empty and `skipped` says why for each convolution.
    Raises GhostsearchError when the preset is bad or one of its globs matches nothing.
    """
    preset, example = load_preset(space), example_input(loaded.input)
    anatomy = find_sites(loaded.module, example, include_first=preset.include_first)
    offered = preset.resolve(anatomy) if anatomy.sites else SearchSpace({}, {})
    cost = measure_cost(loaded.module, example)
    sites = []
    for site in anatomy.sites:
        row = {"site": site.path, **{k: v for k, v in dataclasses.asdict(site).items() if k != "path"}}
        row["choices"] = [
            # JSON has no infinity, which is the speed-up of a choice without a multiplication.
            {"choice": text, "speedup": None if math.isinf(x := theoretical_speedup(site, choice)) else x}
            for text, choice in ((text, parse_layer_choice(text)) for text in offered.sites.get(site.path, ("keep",)))
        ]
        sites.append(row)
    return {
        "model": loaded.spec,
        "input": dataclasses.asdict(loaded.input),
        "weights": loaded.weights,
        "categories": list(loaded.categories),
        "params": cost.params,
        "macs": cost.macs,
        "size_bytes": cost.size_bytes,
        "space": {"preset": space, "architectures": offered.size, "digest": offered.digest},
        "sites": sites,
        "groups": [dataclasses.asdict(g) | {"widths": list(offered.groups.get(g.name, ()))} for g in anatomy.groups],
        "width_note": anatomy.width_note,
        "skipped": [{"module": s.path, "reason": s.reason} for s in anatomy.skipped],
        "shares": shares_by_kind(loaded.module, example),
    }


def measurement(
    loaded: LoadedModel,
    devices: Sequence[str],
    setting: Setting,
    *,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Cost by three counters and latency on each device; a converted model is timed beside its baseline.

    Raises GhostsearchError for an unknown or absent device.
    """
    for device in devices:
        check_device(loaded, device)
    example = example_of(loaded)
    cost, counters = measure_cost(loaded.module, example), _counters(loaded, example)
    baseline = None
    if isinstance(loaded, SavedModel) and not loaded.architecture.is_baseline:
        baseline = load_baseline(loaded, allow_code=allow_code).module
    timings = [
        measure_latency(
            {"model": loaded.module}, example_of(loaded, setting.batch), device=device, baseline=baseline,
            setting=setting, progress=progress,
        )["model"]
        for device in devices
    ]  # fmt: skip
    return {
        "model": loaded.spec,
        "params": cost.params,
        "macs": {"exact": cost.macs, **{k: v for k, v in counters.macs.items() if k != "torch"}},
        "macs_reason": counters.reason,
        "uncounted": {k: list(v) for k, v in counters.uncounted.items() if v},
        "differences": [
            {
                "operator": d.operator,
                **{"exact" if k == "torch" else k: v for k, v in d.macs.items()},
                "reason": d.reason,
            }
            for d in counters.operators
        ],
        "size_bytes": cost.size_bytes,
        "peak_memory_bytes": cost.peak_memory_bytes,
        "latency": [latency_row(x) for x in timings],
        "device": list(devices),
        "threads": setting.threads,
        "batch": setting.batch,
        "versions": versions(),
    }


def _counters(loaded: LoadedModel, example: Any) -> CounterComparison:
    if isinstance(loaded.module, OnnxModule):
        why = "it counts modules, not ONNX graphs"
        return CounterComparison({}, (), {}, {"fvcore": why, "thop": why})
    return compare_counters(loaded.module, example)


def latency_row(latency: Latency) -> dict[str, Any]:
    """A latency as plain data, its derived figures beside the raw times."""
    return {
        **latency.model_dump(mode="json"),
        "median_s": latency.median_s,
        "quartiles_s": list(latency.quartiles_s),
        "baseline_median_s": latency.baseline_median_s,
        "ratio": latency.ratio,
        "noisy": latency.noisy,
        "runs": len(latency.times_s),
    }
