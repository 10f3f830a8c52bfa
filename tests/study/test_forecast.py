"""The expected minutes and memory of a search, before it: measured on this machine, with nothing written."""

import dataclasses

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.study import forecast
from ghostsearch.study.config import RunConfig
from ghostsearch.study.forecast import plan_stages


def test_the_minutes_follow_what_is_asked_for_and_nothing_is_written(tiny, tmp_path):
    run = RunConfig(**tiny(tmp_path / "run", sampler="random", seeds="uniform", epochs=0, time_limit=6000.0))
    stages = plan_stages(run)
    minutes = {name: stage.minutes for name, stage in stages.items()}
    memory = [stage.memory_bytes for stage in stages.values()]
    assert memory == sorted(memory)
    assert memory[0] > 1e8, "torch alone takes more"
    assert list(minutes) == ["latency table", "baseline", "candidate table", "trials", "final"]
    assert minutes["latency table"] == minutes["candidate table"] == 0, "this run makes neither"
    assert 100 * run.trials <= minutes["trials"] < 105 * run.trials, "100 minutes of timing per trial, and little else"
    assert 0 < minutes["baseline"] < 5
    assert not (tmp_path / "run").exists()


def test_no_more_final_models_are_planned_than_trials_could_give(tiny, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(forecast, "final_pass_s", lambda _, finalists, *__: asked.append(finalists) or 0.0)
    for trials, finalists in ((1, 3), (3, 3), (9, 3)):
        options = {"sampler": "random", "seeds": "uniform", "trials": trials, "finalists": finalists}
        plan_stages(RunConfig(**tiny(tmp_path / "run", **options)))
    assert asked == [0, 2, 3]


def test_images_of_unknown_number_are_refused_in_one_line(tiny, tmp_path, monkeypatch):
    opened = forecast.open_setup

    def streaming(config):
        setup = opened(config)
        batches = (batch for batch in setup.data.train)
        return dataclasses.replace(setup, data=dataclasses.replace(setup.data, train=batches))

    monkeypatch.setattr(forecast, "open_setup", streaming)
    with pytest.raises(GhostsearchError, match=r"^--plan .*the train loader of digits .*search without --plan$"):
        plan_stages(RunConfig(**tiny(tmp_path / "run", sampler="random", seeds="uniform")))
