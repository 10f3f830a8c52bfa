"""Whether anything of a search space can keep the exact limits of a run: MACs, params, peak memory."""

from __future__ import annotations

import numpy as np

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.audit import random_architectures
from ghostsearch.records import Axis
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.space.choice_text import parse_width
from ghostsearch.study.interactions import decompose
from ghostsearch.study.program import Problem, Program, exclusions
from ghostsearch.study.setup import Setup

COSTS = ("params", "macs")
"""What `CostTable.predict_codes` counts first, and the integer program bounds exactly."""
MIXES = 16
"""Architectures drawn at random that are built to find the least peak memory."""


def check_budget(setup: Setup, space: SearchSpace) -> None:
    """Raise GhostsearchError, naming the nearest feasible one, when nothing in a space meets an exact limit.

    MACs and params are exact; of peak memory the least is what `least_memory` finds.
    """
    for limit in setup.config.limits():
        if limit.axis == "latency":
            continue
        memory = limit.axis == "memory"
        column = "peak_memory_bytes" if memory else limit.axis
        least = least_memory(setup, space) if memory else smallest(setup, space, limit.axis)
        baseline = getattr(setup.baseline_cost, column)
        if least > limit.absolute(baseline):
            share, figure = -(-least * 1000 // baseline) / 10, Axis.of_cost(column)
            tried = f" (of {MIXES} mixes and each choice everywhere, at the narrowest widths)" * memory
            raise GhostsearchError(
                f"max_{limit.axis}: no architecture of this space{tried} has at most "
                f"{figure.text(limit.absolute(baseline))} "
                f"of {figure.label}; the nearest feasible limit is {least} ({figure.text(least)}, {share:g}%)"
            )


def smallest(setup: Setup, space: SearchSpace, axis: str) -> int:
    """The least MACs or params in a space."""
    return int(getattr(setup.cost(cheapest(setup, space, axis)), axis))


def cheapest(setup: Setup, space: SearchSpace, axis: str) -> Architecture:
    """The architecture of a space with the least MACs or params, by the integer program over exact costs."""

    def predict(codes: np.ndarray) -> np.ndarray:
        return setup.table.predict_codes(space, codes)[[COSTS.index(axis)]]

    sizes = [len(options) for options in (*space.sites.values(), *space.groups.values())]
    free = [np.zeros(size) for size in sizes]
    program = Program(Problem(free, decompose(predict, sizes), (axis,), exclusions(space)))
    return space.decode(program.cheapest(axis))


def least_memory(setup: Setup, space: SearchSpace) -> int:
    """The least peak memory in bytes at the narrowest widths, of each choice everywhere and of MIXES; 0 if unknown."""
    narrow = narrowest(space)
    choices = dict.fromkeys(t for options in space.sites.values() for t in options)
    tried = [{path: text for path, options in space.sites.items() if text in options} for text in choices or ["keep"]]
    tried += [{path: str(t) for path, t in a.sites.items()} for a in random_architectures(space, MIXES, seed=0)]
    peaks = (setup.peak_memory(space.architecture(sites, narrow)) for sites in tried)
    return min((peak for peak in peaks if peak is not None), default=0)


def narrowest(space: SearchSpace) -> dict[str, str]:
    """The narrowest width of each group."""
    return {g: min(options, key=lambda t: parse_width(t).share) for g, options in space.groups.items()}
