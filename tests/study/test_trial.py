"""Which trials are trained on from a rung, and what becomes of those that are not."""

import json
from pathlib import Path

import pytest

from ghostsearch.records import Axis, Cost, Record, Score
from ghostsearch.study import run
from ghostsearch.study.bench import Bench
from ghostsearch.study.config import RunConfig
from ghostsearch.study.run import search
from ghostsearch.study.trial import stops

OBJECTIVES = (
    Axis(name="score", label="accuracy", unit="", maximize=True),
    Axis(name="macs", label="MACs", unit="MACs", maximize=False),
)


def record(name, score, macs, epochs=0):
    cost = Cost(params=1, macs=macs, size_bytes=4, peak_memory_bytes=4)
    scores = tuple(
        Score(metric="accuracy", value=v, split="validation", epochs=e, images=10, seed=0)
        for e, v in ((0, score), (1, 0.99))[: 1 + epochs]
    )
    return Record(number=0, digest=name, origin="sampler", state="complete", cost=cost, scores=scores)


def test_what_a_rung_shows_to_be_dominated_is_not_trained():
    finished = [record("baseline", 1.0, 100), record("a", 0.8, 50, epochs=1), record("b", 0.6, 30)]
    assert stops(record("x", 0.7, 60), finished, 0, OBJECTIVES) == "stopped at rung 0: a is better there"
    assert stops(record("x", 0.9, 60), finished, 0, OBJECTIVES) == ""
    assert stops(record("x", 0.1, 200), [finished[0]], 0, OBJECTIVES) == "", "the baseline is no rival"
    assert stops(record("x", 0.5, 40), finished, 1, OBJECTIVES) == "", "only what was scored at the rung counts"


def test_of_many_on_the_front_the_crowded_half_waits():
    finished = [record(str(i), 0.5 + 0.1 * i, 20 + 20 * i) for i in range(4)]
    assert stops(record("x", 0.6001, 41), finished, 0, OBJECTIVES) == "stopped at rung 0: in a crowd"
    assert stops(record("x", 0.99, 200), finished, 0, OBJECTIVES) == ""


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory):
    """A study in which no trial but the baseline's gets past rung 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "stops", lambda *_: "stopped at rung 0: for the test")
        return search(RunConfig(**tiny(tmp_path_factory.mktemp("stopped") / "run", epochs=1, trials=6)))


def test_a_stopped_trial_keeps_its_score_and_may_stand_on_the_front(stopped):
    others = [r for r in stopped.records if r.digest != "baseline"]
    assert all(r.state == "complete" and r.reason and r.score().epochs == 0 for r in others)
    assert len(stopped.finalists) > 1
    assert {r.digest for r in stopped.finalists} <= {r.digest for r in stopped.records}


def test_the_seconds_of_all_stages_are_kept_and_their_sum_is_the_search(stopped):
    seconds = json.loads((Path(stopped.directory) / "seconds.json").read_text())
    assert {"open", "candidate table", "solver", "trials", "final", "report", "total"} <= seconds.keys()
    stages = sum(v for k, v in seconds.items() if not k.startswith("total"))
    assert 0.5 * seconds["total"] < stages <= seconds["total"] + 0.01


def test_the_same_command_again_trains_nothing(stopped, monkeypatch):
    monkeypatch.setattr(Bench, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(Bench, "convert_quickly", lambda *_: pytest.fail("the table was built again"))
    again = search(RunConfig.model_validate(stopped.config))
    assert again.front == stopped.front
    assert [r.digest for r in again.records] == [r.digest for r in stopped.records]


def test_seeds_begin_with_the_baseline_model_then_the_solver_then_the_uniform_ones(stopped):
    origins = [r.origin for r in stopped.records]
    assert origins[0] == "baseline"
    assert origins.index("solver") == 1
    assert "uniform" in origins
