"""The same study on a two-node Ray cluster of one machine: same trials, timing undisturbed, dead workers retried."""

import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import tune
from ray.cluster_utils import Cluster
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ghostsearch
from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.space.architecture import Architecture
from ghostsearch.study import ray_trials
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import load_study
from ghostsearch.study.ledger import architecture_of
from ghostsearch.study.ray_devices import device_resource, on_device
from ghostsearch.study.run import search
from ghostsearch.study.setup import open_setup
from ghostsearch.study.watch import Watch
from ghostsearch.surgery.saved import load_directory

DEVICE = "onnxruntime:cpu"
ONE_PLACE = ("cpu=1", "first=1")
"""Resources of the first node alone: one worker."""


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of a core each; the first has the device."""
    first = {"num_cpus": 1, "resources": {device_resource(DEVICE): 1, "first": 1}}
    cluster = Cluster(initialize_head=True, head_node_args={**first, "include_dashboard": False})
    cluster.add_node(num_cpus=1, resources={"second": 1})
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def told(view):
    return [(r.digest, r.origin, r.state, [s.value for s in r.scores]) for r in view.records]


def test_when_the_time_is_up_only_the_baseline_is_still_proposed(monkeypatch, tmp_path):
    proposal = SimpleNamespace(architecture=Architecture(), origin="baseline")
    known = []
    ledger = SimpleNamespace(standings=lambda: known, ask=lambda *_: proposal)
    config = RunConfig(model="x", time_budget="1s")
    plan = SimpleNamespace(config=config, feasible=None, fits_memory=None, front=lambda _: [])
    plan.setup = SimpleNamespace(epoch_s=1.0)
    monkeypatch.setattr(ray_trials.StudySearcher, "places", lambda _: 2)
    searcher = ray_trials.StudySearcher(plan, ledger, None, Watch(tmp_path, budget_s=0.0))
    assert searcher.suggest("a")["origin"] == "baseline"
    assert searcher.suggest("b") == Searcher.FINISHED, "the baseline is at work"
    searcher.open.clear()
    known.append(SimpleNamespace(digest="baseline", seconds={}))
    assert searcher.suggest("c") == Searcher.FINISHED


def test_one_worker_comes_to_the_same_trials_as_the_baseline_engine_and_goes_on_from_it(cluster, tiny, tmp_path):
    # Three trials beyond the seeds are the sampler's, and rung 1 is not for all.
    options = {"seeds": "uniform", "epochs": 1, "trials": 8, "final_epochs": 1, "finalists": 2}
    ours = search(RunConfig(**tiny(tmp_path / "ours", **options)))
    first = search(RunConfig(**tiny(tmp_path / "rays", **{**options, "trials": 2})))
    rays = search(RunConfig(**tiny(tmp_path / "rays", **options, engine="ray", resources=ONE_PLACE)))
    assert told(rays) == told(ours)
    assert {r.origin for r in rays.records} == {"baseline", "uniform", "sampler"}
    assert [r.reason for r in rays.records] == [r.reason for r in ours.records]
    assert {max(s.epochs for s in r.scores) for r in rays.records[1:]} == {0, 1}
    assert rays.records[:2] == first.records
    assert all(r.latencies and r.latencies[0].baseline_times_s for r in rays.records if r.digest != "baseline")
    assert set(rays.front) == set(ours.front)


def test_two_workers_under_a_latency_limit(cluster, tiny, tmp_path, monkeypatch):
    """A measured limit is a constraint of the study: a trial over it is told as pruned, never as complete.

    It begins with an earlier study's trials (`--from`), and its report is written while it runs (`--watch`).
    """
    limit = {"objectives": ["score", "latency"], "max_latency": "100%", "veto": False}
    old = search(RunConfig(**tiny(tmp_path / "old", trials=2, **limit)))
    options = tiny(tmp_path / "run", engine="ray", trials=6, from_study=str(tmp_path / "old"), **limit)
    written = []

    def tell(folder, **_):
        written.append(len(load_study(folder).records))

    monkeypatch.setattr("ghostsearch.study.run.report", tell)
    with pytest.warns(GhostsearchWarning, match="2 of 2 trials taken"):
        search(RunConfig(**options), live=True)
    view = load_study(tmp_path / "run")
    assert (written[0], written[-1]) == (2, 6)
    assert [r.digest for r in view.records[:2]] == [r.digest for r in old.records]
    assert len({r.digest for r in view.records}) == len(view.records) == 6
    pruned = [r for r in view.records if r.state == "pruned"]
    assert all("over the limit" in r.reason for r in pruned)
    assert not {r.digest for r in pruned} & set(view.front)
    (latency,) = [axis for axis in view.objectives if axis.limit is not None]
    complete = [r for r in view.records if r.state == "complete" and r.digest != "baseline"]
    assert not [r.digest for r in complete if latency.breach(r, surely=True)]


def worker(steps: int):
    """Work on a node, timing now and then on the device; returns the spans of its timings."""
    timed = []
    for i in range(steps):
        time.sleep(0.01)
        if i % 10 == 9:
            timed.append(on_device(DEVICE, timing))
    return timed


def timing():
    began = time.monotonic()
    time.sleep(0.05)
    return ray.get_runtime_context().get_node_id(), began, time.monotonic()


def test_timing_is_pinned_to_the_device_and_serialised(cluster):
    nodes = {name: n["NodeID"] for n in ray.nodes() for name in ("first", "second") if n["Resources"].get(name)}
    tasks = [
        ray.remote(num_cpus=1, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))(worker).remote(50)
        for node in nodes.values()
    ]
    found = ray.get(tasks)
    timed = sorted((began, ended, node) for spans in found for node, began, ended in spans)
    assert len(timed) == 2 * 50 // 10
    assert {node for *_, node in timed} == {nodes["first"]}
    assert all(a[1] <= b[0] for a, b in pairwise(timed))


def test_one_process_on_the_device_does_all_timings_until_it_dies(cluster):
    """A process's start takes seconds, which a trial must not pay."""
    first = on_device(DEVICE, os.getpid)
    assert on_device(DEVICE, os.getpid) == first != os.getpid()
    os.kill(first, signal.SIGKILL)
    assert on_device(DEVICE, os.getpid) not in (first, os.getpid())


MORTAL = """
import os, signal
from pathlib import Path
from ghostsearch.blocks.ghost import GhostConv
from tests.small_net import SmallNet

class Mortal(SmallNet):
    def forward(self, x):
        ratios = {m.choice.ratio for m in self.modules() if isinstance(m, GhostConv)}
        once = Path("died")
        if 4 in ratios or (2 in ratios and not once.exists()):
            if 2 in ratios:
                once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)
"""


def test_a_worker_that_dies_is_retried_and_its_trial_given_up_after_a_few_deaths(cluster, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A worker's start takes seconds.
    monkeypatch.setattr(ray_trials, "RETRIES", 1)
    (tmp_path / "mortal.py").write_text(MORTAL)
    options = tiny(tmp_path / "run", model="mortal:Mortal", seeds="uniform", sampler="random", trials=3)
    view = search(RunConfig(**options, engine="ray", resources=ONE_PLACE))
    _, died_once, dies_always = view.records
    assert (tmp_path / "died").exists()
    assert set(died_once.sites.values()) == {"ghost(ratio=2, kernel=3)"}
    assert died_once.state == "complete"
    assert dies_always.state == "failed"
    assert dies_always.reason == "worker: the Ray worker died 2 times"
    assert died_once.digest in view.front


SHARING = """
import os, time
from pathlib import Path
import ray
from ghostsearch.blocks.ghost import GhostConv
from tests.small_net import SmallNet

class Sharing(SmallNet):
    def forward(self, x):
        if any(isinstance(m, GhostConv) for m in self.modules()) and ray.get_gpu_ids():
            Path("here").mkdir(exist_ok=True)
            Path(f"here/{os.getpid()} {ray.get_gpu_ids()[0]}").touch()
            patience = time.monotonic() + 60
            while len(os.listdir("here")) < 2 and time.monotonic() < patience:
                time.sleep(0.01)
        return super().forward(x)
"""


def test_two_trials_of_half_a_gpu_share_one_and_a_third_waits(cluster, tiny, tmp_path, monkeypatch):
    """Each waits in its first forward until two processes are there; the CPUs would do for three."""
    node = cluster.add_node(num_cpus=3, num_gpus=1)
    cluster.wait_for_nodes()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sharing.py").write_text(SHARING)
    options = tiny(tmp_path / "run", model="sharing:Sharing", seeds="uniform", sampler="random", trials=5)
    try:
        view = search(RunConfig(**options, engine="ray", resources="cpu=1,gpu=0.5"))
    finally:
        cluster.remove_node(node)
    assert [r.state for r in view.records] == ["complete"] * 5
    assert sum(bool(r.sites) for r in view.records) > 2
    here = [name.split() for name in os.listdir(tmp_path / "here")]
    assert len(here) == 2
    assert {gpu for _, gpu in here} == {"0"}


DOOMED = """
import os, signal
from pathlib import Path
import ray
from ghostsearch.models.digits import DigitsCNN
from ghostsearch.models.load import DIGITS_INPUT

class OnDoomedNode(DigitsCNN):
    input_spec = DIGITS_INPUT

    def forward(self, x):
        if ray.get_runtime_context().get_node_id() == Path("doomed").read_text():
            os.kill(os.getppid(), signal.SIGKILL)
        return super().forward(x)
"""


def test_a_node_that_dies_takes_no_trial_with_it(cluster, tiny, tmp_path, monkeypatch):
    """The process that owns a node is killed by the node's first trial, which another node then runs."""
    cluster.add_node(num_cpus=1, resources={"third": 1})
    cluster.wait_for_nodes()
    (third,) = (n["NodeID"] for n in ray.nodes() if n["Resources"].get("third"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doomed.py").write_text(DOOMED)
    (tmp_path / "doomed").write_text(third)
    options = tiny(tmp_path / "run", model="doomed:OnDoomedNode", seeds="uniform", sampler="random", trials=3)
    view = search(RunConfig(**options, engine="ray"))
    assert third not in {n["NodeID"] for n in ray.nodes() if n["Alive"]}
    assert [r.state for r in view.records] == ["complete"] * 3
    assert len({r.digest for r in view.records}) == 3


def test_a_users_own_tuner_stops_between_rungs(cluster, tiny, tmp_path):
    """`ghostsearch.tune` in a Tuner that stops trials after their first rung: what it reports is what they cost."""
    run = RunConfig(**tiny(tmp_path / "run", epochs=1))
    tuner = tune.Tuner(
        ghostsearch.tune.trainable(run),
        param_space=ghostsearch.tune.param_space(run),
        tune_config=tune.TuneConfig(
            metric="score", mode="max", num_samples=2, reuse_actors=True, max_concurrent_trials=1
        ),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path / "tune"), verbose=0, stop={"training_iteration": 1},
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    )  # fmt: skip
    results = tuner.fit()
    assert not results.errors
    assert [(r.metrics["epochs"], r.metrics["done"]) for r in results] == [(0, True), (0, True)]
    setup = open_setup(run)
    for result in results:
        architecture = architecture_of(result.config, setup.space)
        assert result.metrics["digest"] == architecture.digest
        assert result.metrics["macs"] == setup.cost(architecture).macs
        assert result.metrics["latency_ratio[onnxruntime:cpu]"] > 0
        kept = load_directory(Path(result.checkpoint.path), model=setup.baseline.module)
        assert kept.architecture == architecture


def test_a_users_own_tuner_proposes_what_the_search_does(cluster, tiny, tmp_path):
    """`tune.searcher` in a Tuner: the program's answers of the candidate table first, then what trials teach."""
    options = tiny(tmp_path / "run", objectives=["score", "macs"], sampler="table", seeds="solver", trials=3, epochs=0)
    run = RunConfig(**options)
    tuner = tune.Tuner(
        ghostsearch.tune.trainable(run),
        tune_config=tune.TuneConfig(search_alg=ghostsearch.tune.searcher(run), num_samples=3, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0),
    )
    results = tuner.fit()
    assert not results.errors
    own = search(RunConfig(**{**options, "out": str(tmp_path / "own")}))
    assert {r.metrics["digest"] for r in results} == {r.architecture.digest for r in own.records}
    with pytest.raises(GhostsearchError, match="sampler 'tpe'"):
        ghostsearch.tune.searcher(run.but(sampler="tpe"))


def test_a_cluster_without_the_device_or_the_resources_is_one_line(cluster, tiny, tmp_path):
    with pytest.raises(GhostsearchError, match=r"no node .* has 'device:torch-cpu'.*ray start"):
        search(RunConfig(**tiny(tmp_path / "a", engine="ray", device="torch:cpu")))
    with pytest.raises(GhostsearchError, match=r"cpu=1, gpu=0\.5: no node"):
        search(RunConfig(**tiny(tmp_path / "b", engine="ray", resources="cpu=1,gpu=0.5")))
    assert not list(tmp_path.iterdir())
