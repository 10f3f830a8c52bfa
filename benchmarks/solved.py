"""What the integer program makes of a candidate table under a budget of MACs, for benchmarks that convert without a
search."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.study.candidates import build_candidates, losses_of, without_failed
from ghostsearch.study.interactions import decompose
from ghostsearch.study.program import Problem, Program, exclusions
from ghostsearch.study.setup import Setup


def solved_for_macs(setup: Setup, folder: Path, share: float) -> Architecture | None:
    """The architecture that loses least within a share of the baseline's MACs; None where there is none."""
    space, problem = candidate_problem(setup, folder)
    solution = Program(problem).solve({"macs": share * setup.baseline_cost.macs})
    return space.decode(solution.code) if solution else None


def candidate_problem(setup: Setup, folder: Path) -> tuple[SearchSpace, Problem]:
    """The candidate table, as far as it is not in the folder, and the integer program over it."""
    table = build_candidates(setup, folder, lambda *told: print(*told, flush=True))
    space = without_failed(setup.space, table)
    losses = losses_of(table, space)

    def predict(codes: np.ndarray) -> np.ndarray:
        params, macs, _ = setup.table.predict_codes(space, codes)
        return np.stack([params, macs])

    return space, Problem(losses, decompose(predict, [len(x) for x in losses]), ("params", "macs"), exclusions(space))
