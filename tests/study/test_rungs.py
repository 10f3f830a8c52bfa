"""Which trials are trained on from a rung, and which fronts they are on."""

from types import SimpleNamespace

import pytest

from ghostsearch.records import Axis, Cost, Latency, Record, Score
from ghostsearch.study.config import RunConfig
from ghostsearch.study.outcome import choose_finalists, make_outcome
from ghostsearch.study.plan import Plan
from ghostsearch.study.rungs import stops

AXES = (Axis.of_score("accuracy"), Axis.of_cost("macs"))


def record(name, score, macs, *later, images=1000):
    cost = Cost(params=1, macs=macs, size_bytes=4, peak_memory_bytes=4)
    scores = tuple(
        Score(metric="accuracy", value=v, split="validation", epochs=e, images=images, seed=0)
        for e, v in zip((0, 1, 3), (score, *later), strict=False)
    )
    return Record(number=0, digest=name, origin="sampler", state="complete", cost=cost, scores=scores)


def test_what_a_rung_shows_to_be_dominated_is_not_trained():
    finished = [record("baseline", 1.0, 100), record("a", 0.8, 50, 0.99), record("b", 0.6, 30)]
    assert stops(record("x", 0.7, 60), finished, 0, AXES) == "stopped at rung 0: a is better there"
    assert stops(record("x", 0.9, 60), finished, 0, AXES) == ""
    assert stops(record("x", 0.1, 200), [finished[0]], 0, AXES) == "", "the baseline is no rival"
    assert stops(record("x", 0.5, 40), finished, 1, AXES) == "", "only what was scored at the rung counts"


def test_what_chance_explains_stops_nothing():
    """Of 10 images 7 and 8 right; of 1,000 images as large a difference is proven."""
    few, many = ([record("a", 0.8, 50, images=n), record("b", 0.1, 60, images=n)] for n in (10, 1000))
    assert stops(record("x", 0.7, 60, images=10), few, 0, AXES) == ""
    assert stops(record("x", 0.7, 60), many, 0, AXES) == "stopped at rung 0: a is better there"


def test_of_many_on_the_front_the_crowded_half_waits():
    finished = [record(str(i), 0.5 + 0.1 * i, 20 + 20 * i) for i in range(4)]
    assert (
        stops(record("x", 0.6001, 41), finished, 0, AXES)
        == "stopped at rung 0: lower half by rank and crowding distance"
    )
    assert stops(record("x", 0.99, 200), finished, 0, AXES) == ""


def test_only_the_newest_are_rivals(monkeypatch):
    finished = [record("a", 0.8, 50), record("b", 0.3, 20), record("c", 0.2, 10)]
    assert stops(record("x", 0.7, 60), finished, 0, AXES)
    monkeypatch.setattr("ghostsearch.study.rungs.RIVALS", 2)
    assert stops(record("x", 0.7, 60), finished, 0, AXES) == ""


@pytest.fixture
def plan():
    return Plan(None, None, AXES, None, ())


def test_scores_of_different_rungs_never_share_a_front(plan):
    trained, beaten, waiting = record("t", 0.6, 50, 0.95), record("b", 0.55, 60), record("w", 0.7, 50)
    fronts = plan.rung_fronts([trained, beaten, waiting])
    # At rung 0 `w` beats both; that `t` scores 0.95 an epoch later says nothing about them.
    assert {rung: [r.digest for r in found] for rung, found in fronts.items()} == {1: ["t"], 0: ["w"]}
    assert [r.digest for r in plan.front([beaten, waiting, trained])] == ["t", "w"]
    both = plan.rung_fronts([record("t", 0.75, 40, 0.95), record("w", 0.85, 60)])
    assert {rung: [r.digest for r in found] for rung, found in both.items()} == {1: ["t"], 0: ["w"]}, "each once"


def test_the_baseline_and_what_did_not_complete_are_on_no_front(plan):
    failed = record("f", 0.9, 10).model_copy(update={"state": "pruned"})
    assert plan.front([record("baseline", 1.0, 5), failed, record("a", 0.5, 20)]) == [record("a", 0.5, 20)]


def test_an_interrupted_search_recommends_of_its_last_rung_alone(tmp_path):
    """What no epoch has changed yet scores more, which says nothing about what it scores after one."""
    records = [record("baseline", 1.0, 100), record("t", 0.6, 50, 0.95), record("w", 0.99, 40)]
    plan = Plan(SimpleNamespace(setup=SimpleNamespace(config=RunConfig())), None, AXES, None, ())
    found = make_outcome(plan, records, SimpleNamespace(interrupted=lambda: True, folder=tmp_path))
    assert ([r.digest for r in found.front], found.chosen) == (["t"], "t")
    strict = Plan(SimpleNamespace(setup=SimpleNamespace(config=RunConfig(max_drop="1%"))), None, AXES, None, ())
    found = make_outcome(strict, records, SimpleNamespace(interrupted=lambda: True, folder=tmp_path))
    assert found.chosen == "", "five points below the baseline"


def test_what_may_break_a_limit_can_become_a_finalist_and_is_on_no_front_as_it_stands(tmp_path):
    """Its interval reaches under the limit: measured again it may keep it. What surely breaks it has no seat."""
    axes = (*AXES, Axis.of_latency("x", limit=0.6, relative=True, baseline=1.0))

    def timed(name, score, low, high):
        times = {"times_s": ((low + high) / 2,), "baseline_times_s": (1.0,), "ratio_interval": (low, high)}
        return record(name, score, 50).model_copy(
            update={"latencies": (Latency(device="x", threads=1, batch=1, **times),)}
        )

    records = [record("baseline", 1.0, 100), timed("over", 0.9, 0.61, 0.65), timed("perhaps", 0.8, 0.58, 0.64),
               timed("within", 0.7, 0.56, 0.62)]  # fmt: skip
    plan = Plan(SimpleNamespace(setup=SimpleNamespace(config=RunConfig())), None, axes, None, ())
    assert {r.digest for r in choose_finalists(plan, records, 9)} == {"perhaps", "within"}
    found = make_outcome(plan, records, SimpleNamespace(interrupted=lambda: True, folder=tmp_path))
    assert ([r.digest for r in found.front], found.chosen) == (["within"], "within")
