"""Going on with a study: other limits, axes, samplers and more trials; what cannot change; what failing leaves."""

import json
import os
import shutil
import signal
import warnings
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import save_file

from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.records import Latency
from ghostsearch.study import run as run_module
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import load_study
from ghostsearch.study.recommendation import BASELINE, TRAINED
from ghostsearch.study.run import search
from ghostsearch.study.setup import Setup
from tests.small_net import SmallNet

QUICK = {
    "sampler": "random", "seeds": "uniform", "calibration_images": 0, "baseline_epochs": 0, "trials": 4,
    "time_limit": 0.001, "final_time_limit": 0.001,
}  # fmt: skip


@pytest.fixture(scope="module")
def limited(tiny, tmp_path_factory):
    """A study whose memory limit rules some trials out."""
    folder = tmp_path_factory.mktemp("limited") / "run"
    return search(RunConfig(**tiny(folder, **QUICK, max_memory="90%"))), folder


@pytest.fixture
def again(limited, tiny, tmp_path):
    """The same study in a directory of the test's own, and what goes on with it under other options."""
    view, folder = limited
    shutil.copytree(folder, tmp_path / "run")

    def go_on(progress=None, **changed):
        options = tiny(tmp_path / "run", **{**QUICK, "max_memory": "90%", **changed})
        return search(RunConfig(**options), progress=progress)

    return view, go_on


def test_a_looser_limit_tries_again_what_the_tighter_one_ruled_out_and_records_keep_theirs(again):
    before, go_on = again
    ruled_out = [r for r in before.records if r.state == "pruned"]
    assert ruled_out
    assert all(r.reason.startswith("peak memory") and not r.scores for r in ruled_out)
    after = go_on(max_memory="150%", trials=len(before.records) + len(ruled_out))
    assert after.records[: len(before.records)] == before.records
    retried = after.records[len(before.records) :]
    assert {r.digest for r in retried} == {r.digest for r in ruled_out}
    assert {r.state for r in retried} == {"complete"}
    assert {r.origin for r in retried} == {"uniform"}, "they are queued again, not found by chance"
    assert {r.limits["memory"] for r in before.records} == {"90%"}
    assert {r.limits["memory"] for r in retried} == {"150%"}


def test_a_looser_limit_tries_again_with_no_trial_more(again):
    before, go_on = again
    ruled_out = {r.digest for r in before.records if r.state == "pruned"}
    after = go_on(max_memory="150%")
    assert {r.digest for r in after.records[len(before.records) :]} == ruled_out


def test_the_sampler_proposes_nothing_that_breaks_the_memory_limit(again, monkeypatch):
    before, go_on = again
    monkeypatch.setattr("ghostsearch.study.ledger.BUILDS", 10_000)
    after = go_on(trials=len(before.records) + 2)
    assert {r.state for r in after.records[len(before.records) :] if r.origin == "sampler"} == {"complete"}


def test_a_new_axis_a_limit_on_another_and_another_sampler_go_on_with_the_same_trials(again, slow):
    before, go_on = again
    slow()
    after = go_on(objectives=["score", "macs", "latency"], max_params="99%", sampler="nsga2", veto=True, trials=6)
    known = [(r.digest, r.state, r.scores) for r in before.records]
    assert [(r.digest, r.state, r.scores) for r in after.records][: len(known)] == known
    assert len(after.records) == 6
    assert [a.name for a in after.objectives] == [
        "score", "macs", "latency_s[onnxruntime:cpu]", "params", "peak_memory_bytes"
    ]  # fmt: skip
    params = [r.cost.params for r in after.records if r.digest in after.front]
    assert params
    assert all(p <= 0.99 * before.records[0].cost.params for p in params)


def test_what_breaks_a_tighter_limit_leaves_its_place_among_the_finalists_and_on_the_front(again, monkeypatch):
    before, go_on = again
    (kept,) = (r.digest for r in before.records if r.state == "complete" and r.digest != BASELINE)
    loose = go_on(max_memory="150%", trials=6, finalists=1)
    assert loose.chosen not in ("", BASELINE, kept), "under the looser limit another model is taken"
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "interruptible", lambda: nullcontext(lambda: True))
        stopped = go_on(trials=6, finalists=1)
    assert (stopped.front, stopped.finalists) == ((kept,), ())
    tight = go_on(trials=6, finalists=1)
    assert tight.records == loose.records
    assert [r.digest for r in tight.finalists if not r.architecture.is_baseline] == [kept]
    assert (tight.front, tight.chosen, tight.missed) == ((kept,), kept, ())


@pytest.mark.parametrize("changed", [{"epochs": 1}, {"train_images": 256}, {"space": "ghost"}])
def test_what_cannot_change_is_one_line_and_changes_nothing(again, changed):
    _, go_on = again
    with pytest.raises(GhostsearchError, match=f"another study .*{next(iter(changed))}.*another --out") as refused:
        go_on(**changed)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"compute_device": "cuda:77"}, "cuda:77"),
        ({"max_macs": "0.01%"}, "nearest feasible limit"),
        ({"storage": "oracle://x/y"}, "oracle"),
        ({"classes": 3, "data": "digits"}, "classes"),
    ],
)
def test_a_command_that_fails_on_its_arguments_leaves_nothing_behind(tiny, tmp_path, wrong, said):
    with pytest.raises(GhostsearchError, match=said):
        search(RunConfig(**tiny(tmp_path / "some" / "run", **{**QUICK, **wrong})))
    assert not any(tmp_path.iterdir()), "nor the folders that were made for it"


class Simulated(Setup):
    """Latency is the model's share of the baseline's MACs, whatever the clock."""

    def latencies(self, models, seconds):
        latency = Latency(device="onnxruntime:cpu", threads=1, batch=1, times_s=(1e-3,), baseline_times_s=(1e-3,))
        return dict.fromkeys(models, (latency,))

    def latency_table(self, *_, **__):
        pytest.fail("nothing in a study without latency is decided by the user's cache of timed cells")


def test_the_same_seed_makes_the_same_search(limited, tiny, tmp_path, monkeypatch):
    first, _ = limited
    monkeypatch.setattr(run_module, "open_setup", simulated(run_module.open_setup))
    monkeypatch.setattr("ghostsearch.study.outcome.evidence", lambda *_: {})
    second = search(RunConfig(**tiny(tmp_path / "run", **QUICK, max_memory="90%")))
    assert [(r.digest, r.origin, r.state, r.scores) for r in second.records] == [
        (r.digest, r.origin, r.state, r.scores) for r in first.records
    ]


def simulated(opened):
    def open_simulated(*args):
        setup = opened(*args)
        return Simulated(**{name: getattr(setup, name) for name in setup.__dataclass_fields__})

    return open_simulated


def test_the_front_is_a_table_with_the_baseline_and_what_is_chosen(limited):
    view, folder = limited
    table = pd.read_csv(folder / "front.csv").set_index("digest")
    assert list(table.index) == ["baseline", *(d for d in view.front if d != "baseline")]
    assert list(table.index[table.chosen]) == [view.chosen] * bool(view.chosen)


def test_raw_timings_stay_out_of_the_outcome(limited):
    _, folder = limited
    finalists = json.loads((folder / "outcome.json").read_text())["finalists"]
    assert finalists
    assert all(len(x["times_s"]) <= 5 for r in finalists for x in r["latencies"])


def test_a_time_budget_that_is_up_ends_with_what_there_is(again, tiny, tmp_path):
    before, _ = again
    view = search(RunConfig(**tiny(tmp_path / "run", **{**QUICK, "trials": 50}, max_memory="90%", time_budget="0.01s")))
    assert [r.digest for r in view.records] == [r.digest for r in before.records]
    assert view.front
    assert Path(view.directory, "report.html").exists()
    assert load_study(tmp_path / "run").front == view.front


def test_a_time_budget_that_is_up_before_any_trial_leaves_the_baseline_and_untrained(tiny, tmp_path):
    options = {**QUICK, "final_epochs": 1}
    view = search(RunConfig(**tiny(tmp_path / "run", **options, time_budget="0.01s")))
    assert ([r.digest for r in view.records], view.front, view.chosen) == ([BASELINE], (BASELINE,), BASELINE)
    assert [r.digest for r in view.finalists] == [BASELINE], "there is nothing to compare a trained one with"
    assert "the time budget of 0.01s was over before any other trial" in (tmp_path / "run/report.md").read_text()
    on = search(RunConfig(**tiny(tmp_path / "run", **options)))
    assert len(on.records) == QUICK["trials"]
    assert TRAINED in [r.digest for r in on.finalists]


@pytest.mark.parametrize("room", [1, 0])
def test_finalists_that_no_longer_fit_the_time_budget_are_left_out_and_named(again, monkeypatch, room):
    _, go_on = again
    changed = {"max_memory": None, "trials": 6, "final_epochs": 1, "time_budget": "9h"}
    told = rf"room for {room} of \d finalists; to finish all, rerun .*--time-budget"
    with monkeypatch.context() as patch:
        patch.setattr("ghostsearch.study.outcome.final_s", lambda _, __, new: 0.0 if new <= room else 1e9)
        with pytest.warns(GhostsearchWarning, match=told):
            view = go_on(**changed)
    models = [r.digest for r in view.finalists if not r.architecture.is_baseline]
    assert len(models) == room
    assert view.front, "those of the trials where none is finished"
    whole = go_on(**changed)
    assert len([r for r in whole.finalists if not r.architecture.is_baseline]) > 1


def test_the_report_names_the_command_that_ran_last_and_the_one_that_began(again, monkeypatch):
    before, go_on = again
    began = before.environment["command"]
    for trials in ("5", "6"):
        monkeypatch.setattr("sys.argv", ["ghostsearch", "search", "--trials", trials])
        after = go_on(trials=int(trials))
    assert after.environment == {
        **before.environment, "command": "ghostsearch search --trials 6", "begun by": began,
        "date": after.environment["date"],
    }  # fmt: skip
    told = Path(after.directory, "report.md").read_text()
    assert "- command: ghostsearch search --trials 6\n- begun by: " in told.replace("\\", "")


def test_weights_that_may_know_the_images_are_warned_of_until_it_is_said_that_they_do_not(tiny, tmp_path):
    save_file(SmallNet().state_dict(), tmp_path / "given.safetensors")
    options = tiny(tmp_path / "run", **{**QUICK, "trials": 1}, weights=str(tmp_path / "given.safetensors"))
    warning = "may have been trained on the test and validation images"
    with pytest.warns(GhostsearchWarning, match=f"{warning}.*--validation-list.*--trained-on others"):
        view = search(RunConfig(**options))
    assert any(warning in note for note in view.notes)
    assert warning in Path(view.directory, "report.html").read_text()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", warning)
        view = search(RunConfig(**options, trained_on="others"))
    assert not any(warning in note for note in view.notes)
    assert warning not in Path(view.directory, "report.html").read_text()
    assert RunConfig(model="x", weights="given", baseline_epochs=3).flattered(["test"]), "as they began, they know them"
    assert not RunConfig(model="x", weights="given").flattered([]), "splits of their own"
    known = RunConfig(model="x", weights="given", trained_on="same")
    assert "were trained on the validation images" in known.flattered([]), "however they were chosen"


def test_weights_for_other_classes_know_none_of_the_images(tiny, tmp_path):
    state = SmallNet().state_dict()
    state.update({k: state[k][:5].clone() for k in ("classifier.weight", "classifier.bias")})
    save_file(state, tmp_path / "given.safetensors")
    given = {"weights": str(tmp_path / "given.safetensors"), "classes": 10, "baseline_epochs": 1}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*may have been trained")
        search(RunConfig(**tiny(tmp_path / "run", **{**QUICK, "trials": 1, **given})))


def test_the_baseline_gets_the_finalists_training_as_a_row_of_its_own(again):
    """Resumed with further epochs: every finalist and a copy of the baseline have them, the given one has not."""
    (_, go_on), told = again, []
    view = go_on(lambda *step: told.append(step[2].partition(" · ")[0]), final_epochs=1, finalists=1)
    assert [text for text in told if "baseline" in text and text.startswith("final")] == [
        "final training: baseline", "final training: trained baseline",
        "final training: measuring the finalists beside the baseline",
    ]  # fmt: skip
    epochs = {r.digest: (r.score().epochs, r.score("test").epochs) for r in view.finalists}
    assert len(epochs) == 3
    assert epochs.pop(BASELINE) == (0, 0)
    assert set(epochs.values()) == {(1, 1)}
    given, trained = view.record(BASELINE), view.record(TRAINED)
    assert trained.architecture.is_baseline
    assert trained.score().right != given.score().right, "its weights are others"
    assert all(len(r.latencies) == len(given.latencies) for r in view.finalists)


def test_a_latency_that_nothing_reaches_is_refused_before_training_and_cells_timed_then_are_named_later(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr("ghostsearch.study.baseline.train", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(GhostsearchError, match="nearest feasible limit is about"):
        search(RunConfig(**tiny(tmp_path / "no", **{**QUICK, "baseline_epochs": 4}, max_latency="1us")))
    assert not (tmp_path / "no").exists()
    view = search(RunConfig(**tiny(tmp_path / "run", **{**QUICK, "trials": 1}, max_latency="200%", veto=False)))
    assert any(": 0 cells timed by this search, the others before it" in note for note in view.notes)


SITES = ("block1.1.expand.0", "block1.1.project")


@pytest.fixture
def slow(monkeypatch):
    """Makes the device find these choices not faster, at each site."""

    def found(*choices):
        measured = {"device": "onnxruntime:cpu", "ratio": 1.2, "interval": (1.1, 1.3)}
        rows = [{"site": site, "choice": choice, **measured} for site in SITES for choice in choices]
        monkeypatch.setattr("ghostsearch.study.baseline.vetoed_rows", lambda tables: rows if tables else [])

    return found


GHOSTS = ("ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)")
FOR_LATENCY = ["score", "latency"]


def test_a_space_that_the_veto_empties_is_refused_before_training_and_its_advice_works(
    tiny, tiny_space, tmp_path, monkeypatch, slow
):
    slow(*GHOSTS)
    (tmp_path / "ghosts.yaml").write_text(tiny_space.read_text().partition("groups:")[0])
    options = {**QUICK, "trials": 1, "objectives": FOR_LATENCY, "space": str(tmp_path / "ghosts.yaml")}
    with monkeypatch.context() as patch:
        patch.setattr("ghostsearch.study.baseline.train", lambda *_, **__: pytest.fail("it was trained"))
        with pytest.raises(GhostsearchError, match=r"none of the 4 choices .* is faster .*--no-veto"):
            search(RunConfig(**tiny(tmp_path / "run", **{**options, "baseline_epochs": 4})))
        with pytest.raises(GhostsearchError, match=r"max_macs: .*nearest feasible limit .*--no-veto"):
            search(RunConfig(**tiny(tmp_path / "run", **{**options, "space": str(tiny_space), "max_macs": "50%"})))
    assert not (tmp_path / "run").exists()
    assert search(RunConfig(**tiny(tmp_path / "run", **options, veto=False))).records


def choices_of(records):
    return {c for r in records for c in r.sites.values()}


def test_the_veto_holds_only_where_latency_counts_and_for_what_is_still_to_come(tiny, tmp_path, slow):
    slow(*GHOSTS[1:])

    def go_on(**changed):
        return search(RunConfig(**tiny(tmp_path / "run", **{**QUICK, **changed})))

    assert choices_of(go_on(objectives=FOR_LATENCY).records) == {GHOSTS[0]}
    every = go_on(trials=6).records
    assert choices_of(every) == set(GHOSTS)
    view = go_on(objectives=FOR_LATENCY, trials=8, sampler="table", seeds="none")
    assert sorted(r.digest for r in view.records[:6]) == sorted(r.digest for r in every), "finished trials stay"
    assert choices_of(view.records[6:]) <= {GHOSTS[0]}
    assert len(view.records) == 8


@pytest.mark.parametrize("added", [{"objectives": FOR_LATENCY}, {"max_latency": "200%"}])
def test_latency_that_is_new_when_a_study_goes_on_is_treated_as_in_a_first_run(
    again, tmp_path, slow, monkeypatch, added
):
    before, go_on = again
    slow(GHOSTS[0])
    known = json.loads((tmp_path / "run" / "study.json").read_text())
    view = go_on(**added, max_memory="150%", trials=8)
    assert view.records[: len(before.records)] == before.records
    assert GHOSTS[0] in choices_of(before.records)
    assert choices_of(view.records[len(before.records) :]) <= {GHOSTS[1]}, "nor is what a limit ruled out tried again"
    assert {(row["site"], row["choice"]) for row in view.vetoed} == {(site, GHOSTS[0]) for site in SITES}
    assert view.notes[: len(known["notes"])] == tuple(known["notes"])
    study = json.loads((tmp_path / "run" / "study.json").read_text())
    assert study["corrections"]["onnxruntime:cpu"]["models"] == 4
    changed = {"vetoed", "corrections", "notes", "objectives"}
    assert {k: study[k] for k in known.keys() - changed} == {k: known[k] for k in known.keys() - changed}
    monkeypatch.setattr(Setup, "correction", lambda *_: pytest.fail("it is corrected once"))
    assert go_on(**added, max_memory="150%", trials=8).records == view.records
    assert json.loads((tmp_path / "run" / "study.json").read_text()) == study


def test_a_latency_that_cannot_be_added_is_one_line_and_changes_nothing(again, tmp_path):
    before, go_on = again
    study = (tmp_path / "run" / "study.json").read_bytes()
    with pytest.raises(GhostsearchError, match="nearest feasible limit is about"):
        go_on(max_latency="1us")
    with pytest.raises(GhostsearchError, match=r"another study .*device .*another --out"):
        go_on(device=["onnxruntime:cpu", "torch:cpu"])
    assert (tmp_path / "run" / "study.json").read_bytes() == study
    kept = load_study(tmp_path / "run")
    assert (kept.records, kept.front, kept.config["max_latency"]) == (before.records, before.front, None)


FILES = {**QUICK, "trials": 1, "train_images": None}


def test_a_study_does_not_go_on_with_other_images(own_digits, tiny, tmp_path):
    """Else one table holds models that were judged by different images, some of which had trained them."""
    data, add = own_digits
    search(RunConfig(**tiny(tmp_path / "run", **FILES, data=data)))
    assert len(search(RunConfig(**tiny(tmp_path / "run", **{**FILES, "trials": 2}, data=data))).records) == 2
    study = tmp_path / "run" / "study.json"
    add()
    with pytest.raises(
        GhostsearchError, match=r"train 51 images, sha256 \w+ → 58 images.*choose another --out"
    ) as refused:
        search(RunConfig(**tiny(tmp_path / "run", **{**FILES, "trials": 3}, data=data)))
    assert "\n" not in str(refused.value)
    before = {k: v for k, v in json.loads(study.read_text()).items() if k != "fingerprint"}
    study.write_text(json.dumps(before))
    after = search(RunConfig(**tiny(tmp_path / "run", **{**FILES, "trials": 3}, data=data)))
    assert len(after.records) == 3, "a study written before fingerprints were kept goes on"


def test_a_study_does_not_go_on_with_other_weights(tiny, tmp_path):
    file = tmp_path / "net.safetensors"
    for attempt in ("begun", "refused"):
        save_file(SmallNet().state_dict(), file)
        with pytest.raises(GhostsearchError, match="weights sha256") if attempt == "refused" else nullcontext():
            search(RunConfig(**tiny(tmp_path / "run", **{**QUICK, "trials": 1}, weights=str(file))))


def test_a_finished_studys_result_outlives_an_interrupted_resumption(again):
    _, go_on = again
    before = go_on(trials=5)
    assert before.finalists

    def stop(done, total, text):
        if text.startswith("trials") and done >= 5:
            os.kill(os.getpid(), signal.SIGINT)

    after = go_on(progress=stop, trials=8)
    assert len(after.records) > len(before.records)
    assert (after.finalists, after.front, after.chosen) == (before.finalists, before.front, before.chosen)
