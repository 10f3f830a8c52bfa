"""The third stage: the space that is left after the veto, the integer program over it, and what to try first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from ghostsearch.pareto import pareto_front
from ghostsearch.records import Axis, Record
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.study.baseline import Baseline
from ghostsearch.study.candidates import add_latencies, build_candidates, losses_of, without_failed
from ghostsearch.study.config import RunConfig
from ghostsearch.study.program import Problem, exclusions, solve_budgets
from ghostsearch.study.rungs import at_rung, last_rung
from ghostsearch.study.setup import Setup
from ghostsearch.study.solve import FILE as PROBLEM
from ghostsearch.study.solve import read_problem, write_problem
from ghostsearch.study.veto import without_slow
from ghostsearch.study.watch import Watch

if TYPE_CHECKING:
    import pandas as pd

SOLVER_SHARE = 0.7
"""Of the trials that neither the baseline nor a uniform one takes; the sampler has the rest."""

Seed = tuple[Architecture, str]
"""An architecture to try, and who proposed it."""


@dataclass(frozen=True)
class Plan:
    """What is searched, on which axes, beginning where."""

    baseline: Baseline
    space: SearchSpace
    axes: tuple[Axis, ...]
    problem: Problem | None
    """The integer program over the candidate table; None where neither seeds nor sampler ask for it."""
    seeds: tuple[Seed, ...]
    """The baseline first."""

    @cached_property
    def setup(self) -> Setup:
        """With the trained baseline and the space that is searched; one, since trials share what it has computed."""
        return replace(self.baseline.setup, space=self.space)

    @property
    def config(self) -> RunConfig:
        """The run."""
        return self.baseline.setup.config

    @property
    def score_axis(self) -> Axis:
        """The axis of the score."""
        return next(axis for axis in self.axes if axis.is_score)

    def breaches(self, record: Record, *, surely: bool = False) -> list[str]:
        """The limits a record is known to break, in words; with `surely` beyond a latency's interval."""
        return [broken for axis in self.axes if (broken := axis.breach(record, surely=surely))]

    def feasible(self, architecture: Architecture) -> bool:
        """Whether an architecture's exact cost meets the limits on MACs and params; the baseline always may."""
        cost = self.baseline.setup.cost(architecture)
        bounds = {axis.name: axis.bound for axis in self.axes if axis.name in ("macs", "params")}
        return architecture.is_baseline or all(
            bound is None or getattr(cost, name) <= bound for name, bound in bounds.items()
        )

    def fits_memory(self, architecture: Architecture) -> bool:
        """Whether an architecture's peak memory meets its limit, for which it is built.

        The baseline always may, and what cannot be built: its trial records why.
        """
        peak = next((axis.bound for axis in self.axes if axis.name == "peak_memory_bytes"), None)
        if peak is None or architecture.is_baseline:
            return True
        built = self.setup.peak_memory(architecture)
        return built is None or built <= peak

    def points(self, records: Sequence[Record]) -> list[list[float]]:
        """The records' figures on the axes, every one to be minimised; NaN where one has none."""
        return [[axis.minimised(r) for axis in self.axes] for r in records]

    def rung_fronts(self, records: Sequence[Record]) -> dict[float, list[Record]]:
        """By rung, highest first, the complete trials that ended there and that none scored there dominates.

        Only scores of equal training are compared. The baseline, whose weights nobody replaced, is left out, and so is
        what surely breaks a limit: it ran under a looser one.
        """
        trials = [r for r in records if r.state == "complete" and r.digest != "baseline" and r.score()]
        trials = [r for r in trials if not self.breaches(r, surely=True)]
        fronts = {}
        for rung in sorted({last_rung(r) for r in trials}, reverse=True):
            there = [(r, at) for r in trials if (at := at_rung(r, rung)) is not None]
            best = pareto_front(self.points([at for _, at in there]))
            fronts[rung] = [there[i][0] for i in best if last_rung(there[i][0]) == rung]
        return fronts

    def front(self, records: Sequence[Record]) -> list[Record]:
        """The trials on the fronts of all rungs, those trained longest first."""
        return [r for found in self.rung_fronts(records).values() for r in found]


def make_plan(baseline: Baseline, watch: Watch) -> Plan:
    """Veto, candidate table and integer program, as far as the run asks for them; what is on disk is taken over.

    Raises GhostsearchError when no choice of the space can be made.
    """
    setup, config = baseline.setup, baseline.setup.config
    space = without_slow(setup.space, baseline.vetoed, config.device)
    axes, problem = baseline.axes, None
    if config.seeds in ("solver", "only solver") or config.sampler == "table":
        with watch.stage("candidate table"):
            changes = replace(setup, space=space)
            table = build_candidates(changes, watch.folder, watch.telling("candidate table", kept=True))
        space = without_failed(space, table)
        problem = candidate_problem(baseline, space, table, watch)
    with watch.stage("solver"):
        seeds = seeds_of(config, space, problem, axes)
    return Plan(baseline, space, axes, problem, tuple(seeds))


def seeds_of(config: RunConfig, space: SearchSpace, problem: Problem | None, axes: Sequence[Axis]) -> list[Seed]:
    """What the run asks to start from, the baseline always first.

    The table's sampler opens with the program's answers itself.
    """
    uniform = uniform_seeds(space)
    kind: str = config.seeds
    if kind == "solver" and config.sampler == "table":
        kind = "none"
    if kind in ("none", "only solver"):
        uniform = uniform[:1]
    if problem is None or kind in ("none", "uniform"):
        return uniform
    share = SOLVER_SHARE if kind == "solver" else 1.0
    room = max(1, int((config.trials - len(uniform)) * share))
    # Right behind the baseline: what is scored later is stopped at a rung by what these reach there.
    return [uniform[0], *solver_seeds(space, problem, axes, room), *uniform[1:]]


def uniform_seeds(space: SearchSpace) -> list[Seed]:
    """The baseline, then each choice everywhere it is offered, then each width everywhere.

    Uniform points are what a user would try by hand, and what any search must beat.
    """
    choices = list(dict.fromkeys(t for options in space.sites.values() for t in options[1:]))
    widths = list(dict.fromkeys(t for options in space.groups.values() for t in options[1:]))
    seeds = [(Architecture(), "baseline"), *((space.uniform(text), "uniform") for text in (*choices, *widths))]
    return list({a.digest: (a, origin) for a, origin in reversed(seeds)}.values())[::-1]


def solver_seeds(space: SearchSpace, problem: Problem, axes: Sequence[Axis], count: int) -> list[Seed]:
    """The integer program's first answers for budgets spread over the run's costs."""
    bounds = problem.within_margins({axis.name: bound for axis in axes if (bound := axis.bound) is not None})
    codes = solve_budgets(problem, problem.axes(axis.name for axis in axes), bounds)
    return [(space.decode(code), "solver") for code in islice(codes, count)]


def candidate_problem(baseline: Baseline, space: SearchSpace, table: pd.DataFrame, watch: Watch) -> Problem:
    """The integer program's data: the table's losses, exact params and MACs, predicted latencies in seconds.

    Kept in the study, so that a resumed search decides by the same figures whatever was timed in between.
    """
    names = baseline.resource_names
    if (watch.folder / PROBLEM).exists():
        problem, known = read_problem(watch.folder)
        if problem.names == names and known.digest == space.digest:
            return problem
    if baseline.tables:
        table = add_latencies(table, dict(baseline.tables), watch.folder)
    losses = losses_of(table, space)
    with watch.stage("solver"):
        problem = Problem(losses, baseline.resources(space), names, exclusions(space))
    write_problem(watch.folder, problem, space)
    return problem
