"""The expected minutes and memory of a search, before it: measured on this machine, with nothing written."""

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
