"""Answers from the stored table: bounds hold, the file round-trips, what cannot be met says what can."""

import numpy as np
import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.study.interactions import decompose
from ghostsearch.study.program import Exclusion, Problem, Program, UndecidedError, exclusions
from ghostsearch.study.solve import read_problem, solve_study, write_problem

SPACE = SearchSpace({"a": ("keep", "ghost(ratio=2, kernel=3)"), "b": ("keep", "ghost(ratio=2, kernel=3)")},
                    {"g": ("width(1)", "width(0.5)")})  # fmt: skip


@pytest.fixture
def study(tmp_path):
    def predict(codes):
        width = np.where(codes[:, 2], 0.5, 1.0)
        macs = 100 * width / (1 + codes[:, 0]) + 60 * width / (1 + codes[:, 1]) + 40
        return np.stack([macs / 2, macs, macs / 1000])

    losses = [np.array([0, 0.3]), np.array([0, 0.1]), np.array([0, 0.5])]
    problem = Problem(losses, decompose(predict, [2, 2, 2]), ("params", "macs", "latency_s[torch:cpu]"))
    write_problem(tmp_path, problem, SPACE)
    return tmp_path


def test_answers_meet_the_bounds_and_lose_least(study):
    answers = solve_study(study, {"macs": "90%", "latency": "180ms"})
    assert all(a.resources["macs"] <= 0.9 * 200 for a in answers)
    assert all(a.resources["latency_s[torch:cpu]"] <= 0.18 for a in answers)
    assert answers[0].architecture.sites.keys() == {"b"}, "the cheapest loss that saves enough: 30 of 200"
    assert [a.loss for a in answers] == sorted(a.loss for a in answers)


def test_answers_that_were_found_stay_where_the_next_is_undecided(study, monkeypatch):
    solve, asked = Program.solve, []

    def tired(program, bounds, avoid=(), *more, **options):
        asked.append(bounds)
        if len(asked) > 1:
            raise UndecidedError("the nodes are used up")
        return solve(program, bounds, avoid, *more, **options)

    monkeypatch.setattr(Program, "solve", tired)
    assert [a.architecture.sites.keys() for a in solve_study(study, {"macs": "90%"})] == [{"b"}]
    with pytest.raises(UndecidedError):
        solve_study(study, {"macs": "90%"})


def test_the_file_round_trips(study):
    problem, space = read_problem(study)
    assert space == SPACE
    assert problem.at((1, 0, 1)) == pytest.approx({"params": 47.5, "macs": 95, "latency_s[torch:cpu]": 0.095})


def test_what_cannot_be_met_names_the_least(study):
    with pytest.raises(GhostsearchError, match="minimum of each alone is MACs 80"):
        solve_study(study, {"macs": "1%"})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"terms": 3}'])
def test_a_foreign_or_broken_file_is_one_line(study, text):
    (study / "problem.json").write_text(text)
    with pytest.raises(GhostsearchError, match=r"problem\.json"):
        solve_study(study, {})


def test_where_there_is_no_study_it_is_said(tmp_path):
    with pytest.raises(GhostsearchError, match="holds no study"):
        solve_study(tmp_path, {})


def test_a_dropped_branch_excludes_the_sites_and_groups_inside():
    space = SearchSpace({"a": ("keep", "ghost(ratio=2, kernel=3)"), "b": ("keep", "drop")},
                        {"a": ("width(1)", "width(0.5)")}, branches={"b": ("a",)})  # fmt: skip
    assert exclusions(space) == (Exclusion(1, 1, (0, 2)),)
    assert exclusions(SearchSpace({"b": ("keep",)}, branches={"b": ("a",)})) == ()
