"""The architectures every study starts from: the baseline, the uniform ones, and the integer program's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ghostsearch.records import device_of, latency_column
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.study.bench import Bench, timed
from ghostsearch.study.candidates import add_latencies, build_candidates, losses_of
from ghostsearch.study.interactions import decompose
from ghostsearch.study.solve import decode, write_problem
from ghostsearch.study.solver import Problem, solve_budgets

if TYPE_CHECKING:
    from ghostsearch.measure.latency_table import LatencyTable

Progress = Callable[[int, int, str], None]
BUDGETS, DIVERSE = 20, 3
SOLVER_SHARE = 0.7
"""Of the trials that neither the baseline nor a uniform one takes; the sampler has the rest."""


def seeds(bench: Bench, folder: Path, progress: Progress | None = None) -> list[tuple[Architecture, str]]:
    """What the run asks to start from, the baseline always first."""
    kind, uniform = bench.config.seeds, uniform_seeds(bench.space)
    if kind in ("none", "only solver"):
        uniform = uniform[:1]
    if kind in ("solver", "only solver"):
        share = SOLVER_SHARE if kind == "solver" else 1.0
        room = max(1, int((bench.config.trials - len(uniform)) * share))
        # Right behind the baseline: what is scored later is stopped at a rung by what these reach there.
        return [uniform[0], *solver_seeds(bench, folder, room, progress), *uniform[1:]]
    return uniform


def uniform_seeds(space: SearchSpace) -> list[tuple[Architecture, str]]:
    """The baseline, then each choice everywhere it is offered, then each width everywhere.

    Uniform points are what a user would try by hand, and what any search must beat.
    """
    choices = list(dict.fromkeys(t for options in space.sites.values() for t in options[1:]))
    widths = list(dict.fromkeys(t for options in space.groups.values() for t in options[1:]))
    seeds = [(Architecture(), "baseline"), *((space.uniform(text), "uniform") for text in (*choices, *widths))]
    return list({a.digest: (a, origin) for a, origin in reversed(seeds)}.values())[::-1]


def solver_seeds(
    bench: Bench, folder: Path, room: int, progress: Progress | None = None
) -> list[tuple[Architecture, str]]:
    """The integer program's answers for many budgets, at most `room` of them.

    Builds the candidate table in the study's folder where it is not there yet. Budgets are spread over MACs and, where
    latency is an objective, over the first device's latency, in turns.
    """
    problem = candidate_problem(bench, folder, progress)
    with timed(bench.seconds, "solver"):
        return _solved(bench, problem)[:room]


def _solved(bench: Bench, problem: Problem) -> list[tuple[Architecture, str]]:
    limits = {o.name: o.bound for o in bench.objectives if o.bound is not None and o.name in problem.names}
    axes = [name for name in ("macs", *(n for n in problem.names if device_of(n))) if name in problem.names]
    found = [
        solve_budgets(problem, axis, limits, budgets=BUDGETS // len(axes[:2]), diverse=DIVERSE) for axis in axes[:2]
    ]
    codes = dict.fromkeys(code for turn in _in_turns(found) for code in turn)
    return [(decode(bench.space, code), "solver") for code in codes]


def candidate_problem(bench: Bench, folder: Path, progress: Progress | None = None) -> Problem:
    """The integer program's data: the table's losses, exact params and MACs, predicted latencies in seconds."""
    with timed(bench.seconds, "candidate table"):
        table = build_candidates(bench, folder, progress)
    latencies: dict[str, LatencyTable] = {}
    if any(o.device for o in bench.objectives):
        with timed(bench.seconds, "latency table"):
            latencies = bench.latency_tables(progress)
        table = add_latencies(table, latencies, folder)
    baseline_s = {x.device: x.median_s for x in bench.baseline_latencies}

    def predict(codes: np.ndarray) -> np.ndarray:
        params, macs, _ = bench.table.predict_codes(bench.space, codes)
        return np.stack([params, macs, *(t.additive_ratios(codes) * baseline_s[d] for d, t in latencies.items())])

    losses = losses_of(table, bench.space)
    names = ("params", "macs", *map(latency_column, latencies))
    problem = Problem(losses, decompose(predict, [len(x) for x in losses]), names)
    write_problem(folder, problem, bench.space)
    return problem


def _in_turns(lists: Sequence[Sequence[tuple[int, ...]]]) -> list[list[tuple[int, ...]]]:
    """First of each, second of each, …"""
    return [[x[i] for x in lists if i < len(x)] for i in range(max(map(len, lists), default=0))]
