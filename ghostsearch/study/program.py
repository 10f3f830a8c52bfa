"""An integer program over the candidate table: the architectures that lose least under budgets, in milliseconds."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

from ghostsearch.errors import GhostsearchError
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.space.choice import GONE
from ghostsearch.study.interactions import Additive

BUDGETS, DIVERSE = 20, 3
"""Budgets on each axis, and different answers for each of them."""
LATENCY_ERROR = 0.03
"""Relative error of a predicted latency before any was measured."""
INFEASIBLE = 2
"""SciPy's status of a program that is proven to have no solution."""
_HOLDING = threading.Lock()


class UndecidedError(GhostsearchError):
    """The nodes were used up before anything was found: there may be an answer or none."""


@dataclass(frozen=True)
class Exclusion:
    """Where a variable takes an option, `others` keep the baseline's: what lies in a dropped branch is gone."""

    variable: int
    option: int
    others: tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """Loss of every option and the resources of every combination; option 0 is the baseline's.

    losses: per variable (options,), lower is better. Rows of `resources` are named by `names`.
    """

    losses: Sequence[np.ndarray]
    resources: Additive
    names: tuple[str, ...]
    exclusions: tuple[Exclusion, ...] = ()

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Options of each variable."""
        return tuple(len(x) for x in self.losses)

    @cached_property
    def added(self) -> list[np.ndarray]:
        """Per variable (options,), what is added up, wherever losses are: none below 0.

        Errors of layers that are refitted one behind the other are nearly independent, so that divergences add up
        (results/table_rank_resnet20.md has how well, beside other sums).
        """
        return [np.maximum(losses, 0.0) for losses in self.losses]

    def loss(self, code: Sequence[int]) -> float:
        """The loss of one architecture's codes, in the single losses' unit."""
        return float(sum(losses[option] for losses, option in zip(self.added, code, strict=True)))

    def at(self, code: Sequence[int]) -> dict[str, float]:
        """The resources of one architecture's codes by name."""
        return dict(zip(self.names, self.resources.at(code).tolist(), strict=True))

    def settled(self, code: Sequence[int]) -> tuple[int, ...]:
        """The code with what an exclusion forbids put back to the baseline's."""
        kept = list(code)
        for rule in self.exclusions:
            if kept[rule.variable] == rule.option:
                for other in rule.others:
                    kept[other] = 0
        return tuple(kept)

    def baseline(self, name: str) -> float:
        """The baseline's amount of a resource."""
        return float(self.resources.constant[self.names.index(name)])

    def axes(self, names: Iterable[str]) -> list[str]:
        """Those of the named axes that are resources of the program; its last resource where none is."""
        return [name for name in names if name in self.names] or [self.names[-1]]

    def margin(self, name: str) -> float:
        """Distance to keep from a limit on a resource before any was measured; 0 where predictions are exact."""
        return LATENCY_ERROR * self.baseline(name) if name.startswith("latency") else 0.0

    def within_margins(self, limits: Mapping[str, float]) -> dict[str, float]:
        """Those limits that are on the program's resources, each less its margin."""
        return {name: limit - self.margin(name) for name, limit in limits.items() if name in self.names}


@dataclass(frozen=True)
class Effort:
    """Where the search for the best sum stops; counted in nodes, so that a busy machine gives the same answer."""

    gap: float = 5e-3
    """Relative distance from the best sum that is good enough: the table itself is less exact."""
    nodes: int = 2000


THOROUGH, QUICK, EXACT = Effort(), Effort(gap=5e-2, nodes=1), Effort(gap=0.0)


@dataclass(frozen=True)
class Solution:
    """The codes found, and whether they are proven to be within the gap of the best."""

    code: tuple[int, ...]
    proven: bool


class Program:
    """The integer program of a problem: a binary for every option; where variables meet, a share for each combination.

    The shares' sums over all but one variable equal that variable's binaries, so at whole binaries each is 0 or 1 and
    products of choices are exact without being multiplied.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        starts = np.cumsum([0, *problem.sizes])
        self.starts, self.binaries = starts[:-1], int(starts[-1])
        rows: list[tuple[np.ndarray, np.ndarray, float]] = []
        for start, size in zip(self.starts, problem.sizes, strict=True):
            rows.append((np.arange(start, start + size), np.ones(size), 1.0))
        columns = self.binaries
        costs: list[tuple[np.ndarray, np.ndarray]] = []
        for term in problem.resources.terms:
            shape = term.values.shape[1:]
            if len(shape) == 1:
                costs.append((self.starts[term.variables[0]] + np.arange(shape[0]), term.values))
                continue
            cells = columns + np.arange(int(np.prod(shape))).reshape(shape)
            columns += cells.size
            costs.append((cells.ravel(), term.values.reshape(len(term.values), -1)))
            for axis, variable in enumerate(term.variables):
                for option in range(shape[axis]):
                    own = np.take(cells, option, axis=axis).ravel()
                    binary = self.starts[variable] + option
                    rows.append((np.append(own, binary), np.append(np.ones(own.size), -1.0), 0.0))
        self.columns = columns
        right = np.array([right for *_, right in rows])
        self._rules = [LinearConstraint(_matrix([(c, v) for c, v, _ in rows], columns), right, right)]
        excluded = [
            (np.array([self.starts[rule.variable] + rule.option, self.starts[other]]), np.array([1.0, -1.0]))
            for rule in problem.exclusions
            for other in rule.others
        ]
        if excluded:
            self._rules.append(LinearConstraint(_matrix(excluded, columns), -np.inf, 0.0))
        self._resources = np.zeros((len(problem.names), columns))
        for cells, values in costs:
            self._resources[:, cells] += values
        self._whole = (np.arange(columns) < self.binaries).astype(np.int64)

    def solve(
        self,
        bounds: Mapping[str, float],
        avoid: Sequence[Sequence[int]] = (),
        distance: int = 1,
        *,
        losses: Sequence[np.ndarray] | None = None,
        extra: Mapping[str, Sequence[np.ndarray]] | None = None,
        effort: Effort = THOROUGH,
    ) -> Solution | None:
        """What loses least with each named resource at most its bound; None when it is proven that nothing meets them.

        The answer differs from each of `avoid` in at least `distance` variables (no-good cuts). `losses` stand in for
        the problem's `added`; `extra` are amounts of a resource by option, per variable, that come on top of its own.
        Raises UndecidedError when the nodes are used up before anything is found.
        """
        constraints, extra = [*self._rules, *self._cuts(avoid, distance)], extra or {}
        for name, bound in bounds.items():
            i = self.problem.names.index(name)
            scale = max(abs(bound), 1e-30)
            row = self._resources[i].copy()
            if name in extra:
                row[: self.binaries] += np.concatenate(list(extra[name]))
            room = (bound - self.problem.resources.constant[i]) / scale
            constraints.append(LinearConstraint(row[None] / scale, -np.inf, room))
        objective = np.zeros(self.columns)
        objective[: self.binaries] = _scaled(np.concatenate(list(losses or self.problem.added)))
        over: list[tuple[int, ...]] = []
        while (found := self._run(objective, [*constraints, *self._cuts(over, 1)], effort)) is not None:
            code = self._code(found.x)
            if self._meets(code, bounds, extra):
                return Solution(code, found.status == 0)
            # HiGHS lets a bound be broken by a millionth.
            over.append(code)
        return None

    def _code(self, x: np.ndarray) -> tuple[int, ...]:
        """The option of each variable that a solution (columns,) takes."""
        parts = zip(self.starts, self.problem.sizes, strict=True)
        return tuple(int(np.argmax(x[start : start + size])) for start, size in parts)

    def _cuts(self, avoid: Sequence[Sequence[int]], distance: int) -> list[LinearConstraint]:
        if not avoid:
            return []
        cuts = _matrix([(self.starts + np.array(code), np.ones(len(code))) for code in avoid], self.columns)
        return [LinearConstraint(cuts, -np.inf, len(self.starts) - distance)]

    def _meets(
        self, code: Sequence[int], bounds: Mapping[str, float], extra: Mapping[str, Sequence[np.ndarray]]
    ) -> bool:
        """Whether a code keeps every bound, but for what adding up in another order rounds."""
        amounts = self.problem.at(code)
        for name, amounts_of_options in extra.items():
            amounts[name] += sum(float(x[option]) for x, option in zip(amounts_of_options, code, strict=True))
        return all(amounts[name] <= bound + 1e-12 * abs(bound) for name, bound in bounds.items())

    def least(self, name: str) -> float:
        """The least that a resource can be."""
        return self.problem.at(self.cheapest(name))[name]

    def cheapest(self, name: str) -> tuple[int, ...]:
        """The architecture, by its options, that takes least of a resource."""
        row = self._resources[self.problem.names.index(name)]
        found = self._run(row / max(float(np.abs(row).max()), 1e-30), self._rules, EXACT)
        assert found is not None, "without a bound there is always a solution"
        return self._code(found.x)

    def _run(
        self, objective: np.ndarray, constraints: Sequence[LinearConstraint], effort: Effort
    ) -> OptimizeResult | None:
        """HiGHS on one thread; None where it proves that there is no solution."""
        options = {"mip_rel_gap": effort.gap, "node_limit": effort.nodes}
        with muted():
            found = milp(
                objective, integrality=self._whole, bounds=Bounds(0, 1), constraints=constraints, options=options
            )
        if found.x is None and found.status != INFEASIBLE:
            raise UndecidedError(
                f"the solver found nothing within {effort.nodes} nodes, which proves nothing; widen a bound"
            )
        return None if found.x is None else found


def exclusions(space: SearchSpace) -> tuple[Exclusion, ...]:
    """What a dropped branch of the space leaves no choice to."""
    names = [*space.sites, *space.groups]
    return tuple(
        # A group is named like the site that makes its channels: both lie inside.
        Exclusion(names.index(end), space.sites[end].index(drop), tuple(i for i, n in enumerate(names) if n in inside))
        for drop in GONE
        for end, inside in space.branches.items()
        if drop in space.sites.get(end, ())
    )


def _scaled(losses: np.ndarray) -> np.ndarray:
    """Losses over their median: HiGHS stops at 1e-6 from the best sum, whatever their unit."""
    sizes = np.abs(losses[losses != 0])
    # A choice that has no loss stands at 1e6.
    return np.clip(losses / np.median(sizes), -1e6, 1e6) if len(sizes) else losses


def solve_budgets(
    problem: Problem, axes: Sequence[str], limits: Mapping[str, float] | None = None
) -> Iterator[tuple[int, ...]]:
    """Codes for evenly spaced budgets on the axes, DIVERSE of each, all within the fixed `limits` too; solved as asked.

    Every prefix covers the whole range of budgets: the best of each budget first, from the middle out by halving and
    the axes in turns, then the second best of each. The baseline is not among them.
    """
    program = Program(problem)
    # Where nothing keeps the margin, the nearest to the limit is an answer still.
    limits = {name: max(limit, program.least(name) * (1 + 1e-6)) for name, limit in (limits or {}).items()}
    distance, seen = max(1, len(problem.sizes) // 8), set[tuple[int, ...]]()
    steps = {axis: _steps(program, axis, limits) for axis in axes}
    found: dict[tuple[str, int], list[tuple[int, ...]]] = {(axis, i): [] for i in range(BUDGETS) for axis in axes}
    for place in range(DIVERSE):
        for (axis, i), earlier in found.items():
            if len(earlier) < place:
                continue
            try:
                solution = program.solve({**limits, axis: steps[axis][i]}, earlier, distance)
            except UndecidedError:
                continue
            if solution is None:
                continue
            earlier.append(solution.code)
            if any(solution.code) and solution.code not in seen:
                seen.add(solution.code)
                yield solution.code


def _steps(program: Program, axis: str, limits: Mapping[str, float]) -> list[float]:
    """Evenly spaced budgets from the least of an axis towards its limit or the baseline's amount, by halving."""
    low, high = program.least(axis), program.problem.baseline(axis)
    high = min(high, limits.get(axis, high))
    return [low + (high - low) * max(i, 1e-2) / BUDGETS for i in halving(BUDGETS)]


@contextmanager
def muted() -> Iterator[None]:
    """The line that HiGHS prints from C, whatever its options say, is left out of standard output.

    What other threads print meanwhile comes when it is over; one thread at a time holds the output.
    """
    with _HOLDING, tempfile.TemporaryFile() as held:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(held.fileno(), 1)
        try:
            yield
        finally:
            # What C has buffered would come out after the descriptor is back.
            ctypes.CDLL(None).fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
            held.seek(0)
            if others := b"".join(line for line in held if not line.startswith(b"Highs")):
                os.write(1, others)


def halving(count: int) -> list[int]:
    """0..count-1 in an order whose every prefix is spread out: the middles of ever shorter intervals."""
    order, intervals = [], [(0, count - 1)]
    while intervals:
        low, high = intervals.pop(0)
        if low > high:
            continue
        middle = (low + high) // 2
        order.append(middle)
        intervals += [(low, middle - 1), (middle + 1, high)]
    return order


def _matrix(rows: Sequence[tuple[np.ndarray, np.ndarray]], columns: int) -> sparse.csr_array:
    """Rows of (columns, values) as a sparse matrix."""
    lengths = [len(c) for c, _ in rows]
    data = np.concatenate([v for _, v in rows])
    indices = np.concatenate([c for c, _ in rows])
    return sparse.csr_array((data, indices, np.cumsum([0, *lengths])), shape=(len(rows), columns))
