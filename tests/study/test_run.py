"""Whole searches: what stands on disk, going on after kills, several processes, Ctrl-C, failing trials."""

import json
import os
import random
import shutil
import signal
import tempfile
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.cells import CellStore, Correction
from ghostsearch.measure.profiling import Network, profile
from ghostsearch.measure.setting import Setting
from ghostsearch.pareto import pareto_front
from ghostsearch.records import Latency
from ghostsearch.study import explore
from ghostsearch.study import run as run_module
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import load_study, write_run
from ghostsearch.study.run import search
from ghostsearch.study.setup import open_setup
from tests.processes import Started


def search_alone(options):
    torch.set_num_threads(1)
    search(RunConfig(**options))


def start(options):
    """A search in a process of its own."""
    return Started(Path(tempfile.mkdtemp(dir=Path(options["out"]).parent)) / "log", search_alone, options)


def outcome(view):
    """What must not depend on kills or on who ran it: architectures, states, exact scores and costs, front."""
    return [
        (r.digest, r.origin, r.state, r.cost.macs, tuple((s.split, s.epochs, s.value) for s in r.scores))
        for r in view.records
    ], set(view.front)


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    return search(RunConfig(**tiny(tmp_path_factory.mktemp("unbroken") / "run")))


def test_a_network_that_runs_in_one_memory_order_is_searched(tiny, tmp_path):
    few = {"model": "tests.small_net:Viewing", "trials": 2, "finalists": 1, "epochs": 1, "baseline_epochs": 1}
    view = search(RunConfig(**tiny(tmp_path / "run", **few, device=["torch:cpu"], objectives=["score", "latency"])))
    assert [r.state for r in view.records].count("complete") >= 2


def test_front_is_of_measured_finalists_and_not_dominated(unbroken):
    by_digest = {r.digest: r for r in unbroken.finalists}
    assert set(unbroken.front) <= set(by_digest)
    points = [[axis.minimised(by_digest[d]) for axis in unbroken.objectives] for d in unbroken.front]
    assert pareto_front(points) == list(range(len(points)))
    for record in unbroken.finalists:
        assert record.score("test") is not None
        assert all(x.baseline_times_s for x in record.latencies)


def test_before_there_is_an_outcome_a_study_is_read_on_the_axes_of_its_run(unbroken, tmp_path):
    """As after a kill; a study of an earlier version does not know them and is read all the same."""
    folder = tmp_path / "run"
    shutil.copytree(unbroken.directory, folder)
    (folder / "outcome.json").unlink()
    view = load_study(folder)
    assert view.objectives == unbroken.objectives
    known = json.loads((folder / "study.json").read_text())
    del known["objectives"]
    (folder / "study.json").write_text(json.dumps(known))
    assert load_study(folder).objectives == ()


def test_no_architecture_is_evaluated_twice(unbroken):
    digests = [r.digest for r in unbroken.records]
    assert len(set(digests)) == len(digests) == 6
    assert [r.number for r in unbroken.records] == list(range(6))
    assert [r.origin for r in unbroken.records] == ["baseline", *["sampler"] * 5]


def timed_by_macs(pairs, baseline, *, device, setting, progress=None):
    """In the place of `measure_pairs`: a nanosecond for each multiply-add, whatever the clock."""

    def seconds(model, x):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(x)
        return 1e-6 + 1e-9 * counter.get_total_flops() / 2

    beside = seconds(*baseline) if baseline else None
    found = {}
    for name, pair in pairs.items():
        time, name_of_device = seconds(*pair), device if isinstance(device, str) else device.name
        found[name] = Latency(
            device=name_of_device, threads=1, batch=setting.batch, precision=setting.precision, times_s=(time,) * 3,
            baseline_times_s=(beside,) * 3 if beside else (), stopped="narrow",
            ratio_interval=(0.99 * time / beside, 1.01 * time / beside) if beside else None,
        )  # fmt: skip
    return found


def test_the_same_seed_searches_the_same_whatever_profile_and_audit_ran_before(tiny, tmp_path, monkeypatch):
    """Cells of other searches and a correction of this very space, one that turns the order of all models round."""
    for module in ("latency", "profiling", "audit"):
        monkeypatch.setattr(import_module(f"ghostsearch.measure.{module}"), "measure_pairs", timed_by_macs)
    changed = {"objectives": ["score", "latency"], "max_latency": "90%", "baseline_epochs": 1, "trials": 5}

    def searched(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache of {name}"))
        config = RunConfig(**tiny(tmp_path / name, **changed))
        if name == "later":
            setup = open_setup(config)
            network = Network(setup.baseline.module, setup.example, setup.anatomy)
            store = CellStore("onnxruntime:cpu", Setting())
            table = profile(network, setup.space, store, cell_s=0.02)
            correct = Correction(coefficients=(-1.0, 0.0, 0.0), baseline_s=1.0, models=9)
            store.correct(table.digest, correct)
            store.write()
            assert table.predict([setup.space.uniform("ghost(ratio=4, kernel=3)")])[0] > 1
        view = search(config)
        return outcome(view), [x.median_s for r in view.records for x in r.latencies], view.front

    assert searched("first") == searched("later")


STAGES = {
    "training the baseline": "run.yaml",
    "candidate table": "models/baseline/architecture.json",
    "trials": "weights/*",
    "final pass": "models/[0-9a-f]*/record.json",
}
"""What stands on disk when a stage begins; the kill comes a random moment later."""


@pytest.mark.timeout(900)  # seven searches one after the other
def test_killed_in_every_stage_it_goes_on_to_the_same_front(tiny, unbroken, tmp_path):
    options, draw, finished = tiny(tmp_path / "run"), random.Random(0), {}
    for stage, sign in STAGES.items():
        process = start(options)
        while not list((tmp_path / "run").glob(sign)):
            assert process.poll() is None, (stage, process.said())
            time.sleep(0.02)
        time.sleep(draw.random() / 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "run" / "study.db").exists():
            now = {r.digest: r for r in load_study(tmp_path / "run").records}
            assert all(now[d] == r for d, r in finished.items()), "a finished trial was lost or repeated"
            finished = now
    process = start(options)
    assert process.wait(timeout=200) == 0, process.said()
    assert finished
    assert outcome(load_study(tmp_path / "run")) == outcome(unbroken)


@pytest.mark.timeout(900)
def test_several_processes_share_a_study(tiny, tmp_path):
    options = tiny(tmp_path / "run", trials=8)
    workers = [start(options) for _ in range(2)]
    for worker in workers:
        assert worker.wait(timeout=200) == 0, worker.said()
    view = load_study(tmp_path / "run")
    digests = [r.digest for r in view.records]
    assert len(digests) == len(set(digests)) == 8
    assert view.finalists, "the last of them did the final pass"


def test_journal_storage(tiny, tmp_path, unbroken):
    view = search(RunConfig(**tiny(tmp_path / "run", storage=f"journal:{tmp_path / 'log'}")))
    assert outcome(view) == outcome(unbroken)
    assert not (tmp_path / "run" / "study.db").exists()


@pytest.mark.timeout(900)
def test_ctrl_c_once_finishes_the_trial_and_reports_and_twice_stops_at_once(tiny, tmp_path):
    options = tiny(tmp_path / "run", trials=500, seeds="uniform", objectives=["score", "params"])
    process = start(options)
    try:
        until = time.monotonic() + 200
        while not list((tmp_path / "run").glob("weights/*")) and time.monotonic() < until:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=200) == 0, process.said()
        assert "run the same command again to go on" in process.said()
    finally:
        process.kill()
    view = load_study(tmp_path / "run")
    assert 1 <= len(view.records) < 500
    assert (tmp_path / "run" / "report.html").exists()
    process = start(options)
    try:
        weights, until = tmp_path / "run" / "weights", time.monotonic() + 200
        before = {p.stat().st_mtime_ns for p in weights.glob("*")}
        while {p.stat().st_mtime_ns for p in weights.glob("*")} <= before and time.monotonic() < until:
            time.sleep(0.05)
        # Another one would interrupt the printing of the traceback.
        while process.poll() is None and "Process" not in process.said() and time.monotonic() < until:
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        assert process.wait(timeout=200)
        assert "KeyboardInterrupt" in process.said()
    finally:
        process.kill()
    assert load_study(tmp_path / "run").records[: len(view.records)] == view.records


def test_ctrl_c_while_the_baseline_trains_keeps_its_epochs_and_the_same_search_goes_on(tiny, tmp_path, unbroken):
    folder, told = tmp_path / "run", []

    def press(done, total, text):
        if text.startswith("baseline") and not told:
            signal.raise_signal(signal.SIGINT)
        if text.startswith("baseline"):
            told.append((done, total))

    with pytest.raises(KeyboardInterrupt):
        search(RunConfig(**tiny(folder)), progress=press)
    assert all(done <= total / 4 for done, total in told), "the first of four epochs is the last"
    left = {p.name for p in folder.iterdir() if not p.name.endswith(".lock")}
    assert left == {"run.yaml", "study.json", ".baseline.ckpt"}
    ended = len(told)
    view = search(RunConfig(**tiny(folder)), progress=press)
    assert all(done > total / 4 for done, total in told[ended:]), "the first epoch is not repeated"
    assert outcome(view) == outcome(unbroken)
    weights = [Path(v.directory) / "models/baseline/weights.safetensors" for v in (view, unbroken)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (folder / ".baseline.ckpt").exists()


def test_failing_trials_are_recorded_and_end_the_run_with_a_diagnosis(tiny, tmp_path, monkeypatch):
    # A learning rate that makes the loss overflow: a real failure of every trial that is trained.
    options = tiny(tmp_path / "run", seeds="uniform", epochs=1, lr=1e30, baseline_epochs=0)
    monkeypatch.setattr(explore, "FAILURES_IN_A_ROW", 1)
    with pytest.raises(GhostsearchError, match=r"the last 1 trials failed.*not finite"):
        search(RunConfig(**options))
    records = load_study(tmp_path / "run").records
    assert records[-1].state == "failed"
    assert "not finite" in records[-1].reason


def test_the_directory_of_another_study_is_refused(tiny, unbroken):
    with pytest.raises(GhostsearchError, match="another study"):
        search(RunConfig(**tiny(unbroken.directory, seed=1)))


def test_another_study_that_was_begun_while_this_one_opened_is_refused(tiny, tmp_path):
    config = RunConfig(**tiny(tmp_path / "run"))
    setup = run_module.opened(config)
    write_run(tmp_path / "run", config.but(seed=1))
    with pytest.raises(GhostsearchError, match="another study"), run_module.locked(setup):
        pytest.fail("it got in")
    assert (tmp_path / "run" / "run.yaml").exists()


def test_a_lock_that_cannot_be_made_is_one_line(tiny, tmp_path):
    """As in a study on a disk that may only be read."""
    setup = run_module.opened(RunConfig(**tiny(tmp_path / "run")))
    write_run(tmp_path / "run", setup.config)
    (tmp_path / "run" / run_module.SETUP_LOCK).mkdir()
    with pytest.raises(GhostsearchError, match=r"\.setup\.lock: cannot be written \("), run_module.locked(setup):
        pytest.fail("it got in")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_one_line(tiny, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(GhostsearchError, match="cannot be written"):
        search(RunConfig(**tiny(tmp_path / "run")))
