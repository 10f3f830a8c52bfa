"""`--from STUDY`: a new study takes the old one's baseline, candidate table and trials where they agree, no others."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch

from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.space.preset import load_preset
from ghostsearch.study import divergence
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import load_study
from ghostsearch.study.earlier import open_earlier
from ghostsearch.study.ledger import Ledger
from ghostsearch.study.run import search
from ghostsearch.surgery.saved import load
from ghostsearch.surgery.sites import find_sites
from tests.small_net import SmallNet

QUICK = {"trials": 5, "time_limit": 0.001, "final_time_limit": 0.001, "threads": 1}


@pytest.fixture(scope="module")
def old(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("old") / "run"
    return search(RunConfig(**tiny(folder, **QUICK))), folder


@pytest.fixture
def start_from(old, tiny, tmp_path):
    """A new study from the old one; returns it and what it said, in one line."""
    folder = old[1]

    def start(**changed):
        with pytest.warns(GhostsearchWarning, match=f"from {folder}") as said:
            found = search(RunConfig(**tiny(tmp_path / "new", **{**QUICK, "from_study": str(folder), **changed})))
        (line,) = [str(w.message) for w in said if str(w.message).startswith("from ")]
        assert line in load_study(tmp_path / "new").model_dump()["notes"]
        return found, line

    return start


def known(view):
    return [(r.digest, r.origin, r.state, r.cost, r.latencies, r.scores, r.started) for r in view.records]


def test_nothing_is_trained_scored_or_tried_again(old, start_from, monkeypatch):
    view, folder = old

    def never(*args, **options):
        raise AssertionError("this was there already")

    monkeypatch.setattr("ghostsearch.study.baseline.train", never)
    monkeypatch.setattr(divergence.CandidateScores, "__call__", never)
    monkeypatch.setattr("ghostsearch.study.explore.run_trial", never)
    found, said = start_from()
    rows = len(pd.read_parquet(folder / "candidates.parquet"))
    assert f"the trained baseline, {rows} rows of the candidate table, 5 of 5 trials taken" in said
    assert "not taken" not in said
    assert known(found) == known(view)
    assert found.front == view.front


@pytest.mark.parametrize("storage", ["journal", "postgresql"])
def test_a_storage_of_its_own_begins_with_the_old_trials(old, start_from, tmp_path, storage, request):
    url = f"journal:{tmp_path / 'trials.log'}" if storage == "journal" else request.getfixturevalue(storage)
    found, said = start_from(storage=url)
    assert "5 of 5 trials taken" in said
    assert known(found) == known(old[0])


def test_another_space_takes_the_rows_and_trials_that_are_in_it(old, start_from, tmp_path):
    view, folder = old
    space = tmp_path / "half.yaml"
    space.write_text('width_multiple: 4\ninclude: ["block1.1.*"]\nsites:\n'
                     '  - match: "block1.1.*"\n    choices: ["ghost(ratio=2, kernel=3)"]\n')  # fmt: skip
    found, said = start_from(space=str(space))
    table = pd.read_parquet(folder / "candidates.parquet").set_index("choice")["divergence"]
    taken = pd.read_parquet(tmp_path / "new" / "candidates.parquet").set_index("choice")["divergence"]
    assert set(taken.index) == {"ghost(ratio=2, kernel=3)"}
    assert sorted(taken) == sorted(table.loc[["ghost(ratio=2, kernel=3)"]])
    inside = [r for r in view.records if not r.groups and "ghost(ratio=4, kernel=3)" not in r.sites.values()]
    assert f"{len(inside)} of 5 trials" in said
    assert {r.digest for r in inside} <= {r.digest for r in found.records}


@pytest.mark.parametrize(
    ("changed", "table", "trials"),
    [
        ({}, "", ""),
        ({"epochs": 1}, "", "epochs 0 → 1"),
        ({"train_images": 256}, "train_images 128 → 256", "train_images 128 → 256"),
        ({"lr": 0.1}, "lr 0.05 → 0.1", "lr 0.05 → 0.1"),
        ({"trials": 9, "max_macs": "50%", "veto": False, "sampler": "tpe"}, "", ""),
    ],
)
def test_what_does_not_agree_is_named(old, tiny, tmp_path, changed, table, trials):
    config = RunConfig(**tiny(tmp_path, **{**QUICK, "from_study": str(old[1]), **changed}))
    earlier = open_earlier(config)
    assert earlier.differs(config) == table
    assert earlier.differs(config, trials=True) == trials
    assert (earlier.baseline(config, SmallNet()) is None) == bool(table)
    assert earlier.left == ([f"its table and trials ({table})"] if table else [])


def test_latencies_of_another_processor_are_not_taken(old, tiny, tmp_path):
    config = RunConfig(**tiny(tmp_path, **QUICK, from_study=str(old[1]), max_latency="90%"))
    earlier = open_earlier(config)
    assert earlier.differs(config, trials=True) == ""
    elsewhere = earlier.view.model_copy(update={"environment": {**earlier.view.environment, "processor": "Z80"}})
    assert "processor Z80 →" in replace(earlier, view=elsewhere).differs(config, trials=True)
    assert earlier.differs(config) == ""


def test_other_weights_and_other_images_are_seen_by_what_they_compute(old, tiny, tmp_path):
    view, folder = old
    config = RunConfig(**tiny(tmp_path, **QUICK, from_study=str(folder)))
    net = load(folder / "models" / "baseline", model=SmallNet())
    given = replace(open_earlier(config), config=config.but(baseline_epochs=0))
    untrained = config.but(baseline_epochs=0)
    assert given.baseline(untrained, net)
    assert given.baseline(untrained, SmallNet()) is None
    assert given.left == ["its table and trials (other weights)"]
    space, score = load_preset(config.space).resolve(find_sites(net, torch.zeros(1, 1, 8, 8))), view.records[0].score()
    assert len(open_earlier(config).trials(config, space, score)) == len(view.records)
    images = open_earlier(config)
    assert images.trials(config, space, score.model_copy(update={"right": score.right[::-1]})) == []
    assert images.left == ["its trials (the baseline scored otherwise there)"]


def test_nothing_is_taken_where_the_images_have_changed(own_digits, tiny, tmp_path):
    data, add = own_digits
    options = {**QUICK, "trials": 2, "baseline_epochs": 1, "train_images": None, "data": data}
    search(RunConfig(**tiny(tmp_path / "old", **options)))
    add()
    with pytest.warns(GhostsearchWarning, match="nothing taken; not taken: its table and trials .train 51 images, sha"):
        search(RunConfig(**tiny(tmp_path / "new", **options, from_study=str(tmp_path / "old"))))
    weights = [load(tmp_path / name / "models" / "baseline", model=SmallNet()) for name in ("old", "new")]
    assert not torch.equal(weights[0].classifier.weight, weights[1].classifier.weight)


def test_no_study_there_and_itself_are_refused(tiny, tmp_path):
    with pytest.raises(GhostsearchError, match="holds no study"):
        search(RunConfig(**tiny(tmp_path / "new", from_study=str(tmp_path))))
    with pytest.raises(GhostsearchError, match="own directory"):
        search(RunConfig(**tiny(tmp_path / "new", from_study=str(tmp_path / "new"))))
    assert not (tmp_path / "new").exists()


def test_a_study_goes_on_when_the_old_one_is_gone(old, tiny, tmp_path):
    moved = tmp_path / "old"
    shutil.copytree(old[1], moved)
    options = tiny(tmp_path / "new", **QUICK)
    first = search(RunConfig(**options, from_study=str(moved)))
    shutil.rmtree(moved)
    for again in (options, {**options, "from_study": str(moved)}):
        view = search(RunConfig(**{**again, "trials": 6}))
        assert view.records[:5] == first.records
    with pytest.raises(GhostsearchError, match="holds no study"):
        search(RunConfig(**tiny(tmp_path / "other", **QUICK, from_study=str(moved))))


def test_a_study_that_was_killed_while_it_took_trials_over_takes_the_others_too(old, start_from, monkeypatch):
    adopt = Ledger.adopt

    def killed(ledger, records):
        adopt(ledger, records[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "adopt", killed)
        with pytest.raises(KeyboardInterrupt):
            start_from()
    found, _ = start_from()
    assert known(found) == known(old[0])
