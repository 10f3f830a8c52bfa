"""The integer program against brute force, its no-good cuts, and how budgets are spread."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ghostsearch.study.interactions import decompose
from ghostsearch.study.program import Effort, Exclusion, Problem, Program, UndecidedError, muted, solve_budgets


def small_problem(seed, sizes=(3, 2, 3, 2, 3)):
    """Two layers, each with a choice, sharing widths: costs are products, losses arbitrary."""
    draw = np.random.default_rng(seed)
    widths = [np.sort(draw.integers(1, 9, size=s))[::-1] for s in sizes]
    losses = [np.concatenate([[0.0], draw.random(s - 1)]) for s in sizes]

    def predict(codes):
        a, b, c, d, e = (w[codes[:, i]] for i, w in enumerate(widths))
        return np.stack([a * c * d + b * d * e, a + b + c + d + e])

    return Problem(losses, decompose(predict, sizes), ("macs", "params")), predict


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.05, 1), st.floats(0.05, 1), st.sampled_from([1e6, 1, 1e-6, 1e-12]))
@example(0, 1.0, 0.9999999999999999, 1.0)
def test_it_finds_what_brute_force_finds(seed, macs_share, params_share, unit):
    """In whatever unit losses are: a regression's can be a millionth of a classifier's."""
    problem, predict = small_problem(seed)
    problem = replace(problem, losses=[unit * losses for losses in problem.losses])
    codes = np.array(list(product(*(range(s) for s in problem.sizes))))
    costs = predict(codes)
    bounds = {"macs": macs_share * costs[0].max(), "params": params_share * costs[1].max()}
    # What adding up in another order rounds is no breach.
    most = {name: bound * (1 + 1e-12) for name, bound in bounds.items()}
    fits = (costs[0] <= most["macs"]) & (costs[1] <= most["params"])
    found = Program(problem).solve(bounds)
    if not fits.any():
        assert found is None
        return
    assert found.proven
    found = found.code
    assert problem.at(found) == dict(zip(("macs", "params"), predict(np.array([found]))[:, 0].tolist(), strict=True))
    assert all(problem.at(found)[name] <= bound for name, bound in most.items())
    best = min(problem.loss(c) for c in codes[fits])
    assert problem.loss(found) <= best * (1 + 6e-3) + 1e-9 * unit


@pytest.mark.parametrize("seed", range(5))
def test_a_bound_is_kept_to_the_last_unit(seed):
    """HiGHS takes what is over a bound by a millionth of it."""
    draw = np.random.default_rng(seed)
    costs = [np.sort(draw.integers(10**6, 10**8, size=4))[::-1].astype(float) for _ in range(6)]

    def predict(codes):
        return np.stack([sum(c[codes[:, i]] for i, c in enumerate(costs))])

    losses = [np.concatenate([[0.0], np.sort(draw.random(3))]) for _ in costs]
    program = Program(Problem(losses, decompose(predict, [4] * 6), ("macs",)))
    most = program.problem.at(program.solve({"macs": 0.5 * program.problem.baseline("macs")}).code)["macs"]
    assert program.problem.at(program.solve({"macs": most}).code)["macs"] == most
    assert program.problem.at(program.solve({"macs": most - 20}).code)["macs"] <= most - 20


def test_cuts_keep_solutions_apart():
    problem, _ = small_problem(1)
    program, seen = Program(problem), []
    for _ in range(4):
        code = program.solve({}, seen, distance=2).code
        assert all(sum(a != b for a, b in zip(code, other, strict=True)) >= 2 for other in seen)
        seen.append(code)
    assert not any(seen[0]), "without a bound nothing needs to change"


def test_stopping_at_the_nodes_is_no_proof_that_there_is_nothing():
    draw = np.random.default_rng(0)
    weights = draw.integers(100, 1000, size=(3, 60)).astype(float)

    def predict(codes):
        return weights @ codes.T

    problem = Problem(
        [np.array([x, 0.0]) for x in draw.random(60) ** 2], decompose(predict, (2,) * 60), ("a", "b", "c")
    )
    bounds = dict.fromkeys("abc", float(weights.sum() / 6))
    hasty = Program(problem).solve(bounds, effort=Effort(gap=0, nodes=1))
    again = Program(problem).solve(bounds, effort=Effort(gap=0, nodes=1))
    assert not hasty.proven
    assert hasty == again, "nodes do not depend on the clock"
    assert Program(problem).solve(bounds, effort=Effort(gap=0.05, nodes=5000)).proven
    assert Program(problem).solve(dict.fromkeys("abc", -1.0)) is None


def test_nodes_that_find_nothing_are_told_from_a_proof_that_there_is_nothing():
    """A sum that must be met to the unit: there is an answer, which one node does not find."""
    draw = np.random.default_rng(0)
    weights = draw.integers(10**5, 10**6, size=30).astype(float)
    rows = np.stack([weights, -weights])
    problem = Problem(
        [np.array([0.0, x]) for x in draw.random(30)], decompose(lambda c: rows @ c.T, (2,) * 30), ("a", "b")
    )
    total = float(weights[::2].sum())
    with pytest.raises(UndecidedError, match="nothing within 1 nodes, which proves nothing"):
        Program(problem).solve({"a": total, "b": -total}, effort=Effort(gap=0, nodes=1))
    assert Program(problem).solve({"a": total, "b": -2 * total}) is None


def test_other_losses_and_what_is_measured_beyond_the_costs_count():
    problem, predict = small_problem(2)
    macs = predict(np.zeros((1, 5), int))[0, 0]
    extra = [np.append(0.0, np.full(size - 1, macs)) for size in problem.sizes]
    assert Program(problem).solve({"macs": 0.9 * macs}, extra={"macs": extra}) is None, "every change now costs more"
    cheap = [np.append(1.0, np.zeros(size - 1)) for size in problem.sizes]
    assert all(Program(problem).solve({}, losses=cheap).code)


def test_budgets_cover_the_range_and_respect_the_limits():
    problem, predict = small_problem(3)
    limits = {"params": float(predict(np.zeros((1, 5), int))[1, 0]) - 1}
    codes = np.array(list(solve_budgets(problem, ["macs"], limits)))
    assert predict(codes)[0].min() == pytest.approx(Program(problem).least("macs")), "the cheapest there is among them"
    assert len({tuple(c) for c in codes}) == len(codes) >= 5
    assert codes.any(axis=1).all(), "the baseline is no answer"
    assert (predict(codes)[1] < predict(np.zeros((1, 5), int))[1]).all()
    first = predict(codes[: len(codes) // 2])[0]
    assert first.min() <= np.quantile(predict(codes)[0], 0.4)
    assert first.max() >= np.quantile(predict(codes)[0], 0.6)


def test_least_is_the_least():
    problem, predict = small_problem(5)
    codes = np.array(list(product(*(range(s) for s in problem.sizes))))
    assert Program(problem).least("macs") == pytest.approx(predict(codes)[0].min())


def test_a_dropped_branch_has_nothing_else_changed_inside():
    problem, _ = small_problem(4)
    inside = Problem(problem.losses, problem.resources, problem.names, (Exclusion(0, 2, (2, 3)),))
    assert inside.settled((2, 1, 2, 1, 1)) == (2, 1, 0, 0, 1)
    assert inside.settled((1, 1, 2, 1, 1)) == (1, 1, 2, 1, 1)
    eager = [np.array([1.0, 1.0, 0.0]), *(np.append(0.1, np.zeros(size - 1)) for size in problem.sizes[1:])]
    found = Program(inside).solve({}, losses=eager).code
    assert found[0] == 2
    assert (found[2], found[3]) == (0, 0)
    assert all((found[1], found[4]))


def test_nothing_is_printed_by_the_program_or_lost_around_it(capfd):
    print("before")
    with muted():
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\nof a thread\n")
    print("after")
    assert capfd.readouterr().out == "before\nof a thread\nafter\n"


def test_threads_that_mute_at_once_leave_the_output_as_it_was(capfd):
    def mute(number):
        for _ in range(50):
            with muted():
                os.write(1, f"{number}\n".encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(mute, range(4)))
    print("after")
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1] == "after"
    assert sorted(lines[:-1]) == [str(n) for n in range(4) for _ in range(50)]


def test_losses_add_up():
    problem = Problem([np.array([0.0, 0.04]), np.array([0.0, 0.09, -1.0])], small_problem(1)[0].resources, ("m", "p"))
    assert problem.loss((1, 1)) == pytest.approx(0.13)
    assert problem.loss((1, 2)) == pytest.approx(0.04), "a change that helps alone counts as free"


def test_a_budget_that_stays_undecided_is_passed_over(monkeypatch):
    problem, solve = small_problem(3)[0], Program.solve

    def hasty(self, bounds, avoid=(), distance=1):
        if not avoid and bounds["macs"] > 0.5 * problem.baseline("macs"):
            raise UndecidedError("the solver found nothing within 0 nodes")
        return solve(self, bounds, avoid, distance)

    whole = set(solve_budgets(problem, ["macs"]))
    monkeypatch.setattr(Program, "solve", hasty)
    assert set() < set(solve_budgets(problem, ["macs"])) < whole
