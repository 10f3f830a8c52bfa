"""One trial: the cheapest test first; what breaks a limit is never fitted; a drifting clock decides nothing."""

import dataclasses
import itertools

import pytest

from ghostsearch.measure.cost import measure_cost
from ghostsearch.records import Axis, Latency
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.baseline import Baseline
from ghostsearch.study.config import configure
from ghostsearch.study.plan import Plan
from ghostsearch.study.setup import Setup, open_setup
from ghostsearch.study.trial import Trial, run_trial
from ghostsearch.surgery.baseline_statistics import BaselineStatistics

DEVICE = "onnxruntime:cpu"
GHOSTS, NARROW = "ghost(ratio=2, kernel=3)", "width(0.5)"


@pytest.fixture(scope="module")
def opened(tiny, tmp_path_factory):
    return open_setup(configure(tiny(tmp_path_factory.mktemp("trial") / "run", calibration_images=0, epochs=1)))


@dataclasses.dataclass(frozen=True)
class Clocked(Setup):
    """A setup whose device takes a microsecond for a thousand MACs, slower each time by `drift`, within `spread`."""

    drift: float = 0.0
    spread: float = 0.01
    timings: itertools.count = dataclasses.field(default_factory=itertools.count)

    def latencies(self, models, seconds):
        clock = 1 + self.drift * next(self.timings)
        baseline = clock * self.baseline_cost.macs * 1e-9
        found = {}
        for name, model in models.items():
            times = clock * measure_cost(model, self.example).macs * 1e-9
            interval = tuple(times / baseline * s for s in (1 - self.spread, 1 + self.spread))
            found[name] = (
                Latency(device=DEVICE, threads=1, batch=1, times_s=(times,), baseline_times_s=(baseline,),
                        ratio_interval=interval),
            )  # fmt: skip
        return found


def plan_of(setup, **changed):
    """A plan on a simulated device: `Clocked` fields, and options of the run."""
    clock = {k: changed.pop(k) for k in ("drift", "spread") if k in changed}
    made = {f.name: getattr(setup, f.name) for f in dataclasses.fields(setup)}
    clocked = Clocked(**{**made, "config": setup.config.model_copy(update=changed)}, **clock)
    timed = clocked.latencies({"baseline": clocked.baseline.module}, 1)["baseline"]
    baseline = Baseline(clocked, "simulated", timed, {}, ())
    return Plan(baseline, setup.space, baseline.axes, None, ())


def everywhere(setup, choice="", width=""):
    sites, groups = setup.space.sites, setup.space.groups
    chosen = (dict.fromkeys(names, text) if text else {} for names, text in ((sites, choice), (groups, width)))
    return Architecture.of(*chosen)


def run(plan, architecture, stopped=lambda *_: ""):
    return run_trial(Trial(plan, 1, architecture, "uniform"), stopped)


def test_trials_share_the_baselines_values_and_the_order_in_which_channels_leave(opened, monkeypatch):
    opened_once = []
    construct = BaselineStatistics.__init__

    def counting(self, *args, **options):
        opened_once.append(self)
        construct(self, *args, **options)

    monkeypatch.setattr(BaselineStatistics, "__init__", counting)
    plan = plan_of(dataclasses.replace(opened, calibration=[opened.example.expand(8, -1, -1, -1)]))
    for architecture in (
        everywhere(opened, GHOSTS),
        everywhere(opened, width=NARROW),
        everywhere(opened, GHOSTS, NARROW),
    ):
        assert run(plan, architecture)[0].state == "complete"
    assert len(opened_once) == 1


@pytest.mark.parametrize("broken", ["latency", "memory"])
def test_what_breaks_a_limit_is_not_fitted_scored_or_trained(opened, monkeypatch, broken):
    ghosts = everywhere(opened, GHOSTS)
    for later in ("convert", "score", "train"):
        monkeypatch.setattr(Setup, later, lambda *_: pytest.fail("a later step ran"))
    limits = {"max_latency": "30%"} if broken == "latency" else {"max_memory": "90%"}
    plan = plan_of(dataclasses.replace(opened, calibration=[opened.example]), **limits)
    record, model = run(plan, ghosts)
    assert (record.state, model) == ("pruned", None)
    assert record.reason.startswith("latency on" if broken == "latency" else "peak memory")
    assert "over the limit" in record.reason
    assert not record.scores
    assert bool(record.latencies) == (broken == "latency"), "memory is known before anything is timed"
    assert record.limits == {broken: next(iter(limits.values()))}


def test_peak_memory_within_the_limit_completes(opened):
    plan = plan_of(opened, max_memory="90%", epochs=0)
    record, _ = run(plan, everywhere(opened, width=NARROW))
    assert record.state == "complete"
    assert record.cost.peak_memory_bytes <= 0.9 * plan.setup.baseline_cost.peak_memory_bytes


@pytest.mark.parametrize("absolute", [False, True])
def test_a_clock_that_drifts_during_the_search_changes_no_decision(opened, absolute):
    """20 % slower at the end than at the start; one architecture lies 2 % within the limit, one 2 % over it."""
    tried = [everywhere(opened, *names) for names in ((GHOSTS,), ("", NARROW), (GHOSTS, NARROW))]
    macs = sorted(opened.cost(a).macs / opened.baseline_cost.macs for a in tried)
    limit = f"{macs[1] * 100 / 1.02:.2f}%"
    if absolute:
        limit = f"{macs[1] / 1.02 * opened.baseline_cost.macs * 1e-3:.3f}us"
    decided = []
    for drift in (0.0, 0.2 / len(tried)):
        plan = plan_of(opened, max_latency=limit, objectives=("score", "latency"), epochs=0, drift=drift)
        records = [run(plan, a)[0] for a in tried]
        decided.append([(r.digest, r.state, plan.axes[1].minimised(r)) for r in records])
    for steady, drifted in zip(*decided, strict=True):
        assert steady[:2] == drifted[:2]
        assert steady[2] == pytest.approx(drifted[2])
    assert sorted(state for _, state, _ in decided[0]) == ["complete", "pruned", "pruned"]


def test_a_latency_whose_interval_holds_the_limit_is_not_ruled_out(opened):
    narrow = everywhere(opened, width=NARROW)
    share = opened.cost(narrow).macs / opened.baseline_cost.macs
    limit = f"{share * 100 / 1.02:.2f}%"
    states = [run(plan_of(opened, max_latency=limit, epochs=0, spread=s), narrow)[0].state for s in (0.05, 0.001)]
    assert states == ["complete", "pruned"]


def test_a_trial_stopped_at_a_rung_keeps_its_score(opened):
    record, model = run(plan_of(opened), everywhere(opened, width=NARROW), lambda r, rung: f"stopped at rung {rung:g}")
    assert (record.state, record.reason) == ("complete", "stopped at rung 0")
    assert [s.epochs for s in record.scores] == [0]
    score = record.score()
    assert score.outcomes().mean() == pytest.approx(score.value)
    assert score.stderr == pytest.approx((score.value * (1 - score.value) / score.images) ** 0.5, rel=0.01)
    assert model is not None


def test_a_step_that_raises_is_a_failed_record_with_what_was_known(opened, monkeypatch):
    def out_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr(Setup, "score", out_of_memory)
    record, _ = run(plan_of(opened), everywhere(opened, width=NARROW))
    assert (record.state, record.reason) == ("failed", "out of memory: MemoryError")
    assert record.cost
    assert record.latencies


def test_limits_become_axes_in_the_runs_order(opened):
    plan = plan_of(opened, max_latency="60%", max_params="50%", min_accuracy=0.5)
    assert [a.name for a in plan.axes] == ["score", "macs", Axis.of_latency(DEVICE).name, "params"]
    score, macs, latency, params = plan.axes
    assert (score.limit, macs.limit, latency.relative) == (0.5, None, True)
    assert params.bound == opened.baseline_cost.params / 2
