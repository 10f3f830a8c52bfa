"""What `inspect` and `measure` tell of a model, as plain data: the CLI prints it, programs read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ghostsearch.choices import parse_layer_choice
from ghostsearch.errors import GhostsearchError
from ghostsearch.presets import load_preset
from ghostsearch.sitecost import theoretical_speedup
from ghostsearch.space import SearchSpace

if TYPE_CHECKING:
    from ghostsearch.models.loading import LoadedModel

Progress = Callable[[int, int, str], None]


def inspection(loaded: LoadedModel, space: str = "ghost") -> dict[str, Any]:
    """Params, MACs, sites with their choices and theoretical speed-ups, groups, what was skipped and why.

    A model without a site is no error here: its `sites` are empty and `skipped` says why for each convolution.
    Raises GhostsearchError when the preset is bad or one of its globs matches nothing.
    """
    from ghostsearch.convert.sites import find_sites
    from ghostsearch.measure.cost import measure_cost
    from ghostsearch.measure.shares import shares_by_kind
    from ghostsearch.models.loading import example_input

    preset, example = load_preset(space), example_input(loaded.input)
    anatomy = find_sites(loaded.module, example, include_first=preset.include_first)
    offered = preset.resolve(anatomy) if anatomy.sites else SearchSpace({}, {})
    cost = measure_cost(loaded.module, example)
    sites = []
    for site in anatomy.sites:
        row = {"site": site.path, **{k: v for k, v in dataclasses.asdict(site).items() if k != "path"}}
        row["choices"] = [
            {"choice": text, "speedup": theoretical_speedup(site, parse_layer_choice(text))}
            for text in offered.sites.get(site.path, ("keep",))
        ]
        sites.append(row)
    return {
        "model": loaded.spec,
        "input": dataclasses.asdict(loaded.input),
        "params": cost.params,
        "macs": cost.macs,
        "size_bytes": cost.size_bytes,
        "space": {"preset": space, "architectures": offered.size, "digest": offered.digest},
        "sites": sites,
        "groups": [
            dataclasses.asdict(g) | {"widths": list(offered.groups.get(g.name, ()))} for g in anatomy.groups
        ],
        "width_note": anatomy.width_note,
        "skipped": [{"module": s.path, "reason": s.reason} for s in anatomy.skipped],
        "shares": shares_by_kind(loaded.module, example),
    }
