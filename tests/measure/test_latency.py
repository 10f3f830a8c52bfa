"""Measured latency: what it promises besides speed."""

import copy
import gc
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure import latency as timing
from ghostsearch.measure.devices.base import Device, Prepared
from ghostsearch.measure.intervals import builds_needed, interval, log_ratios
from ghostsearch.measure.latency import BUILDS, LEAST_BUILDS, MAX_BUILDS, ROUNDS, measure_latency
from ghostsearch.measure.setting import Setting

EXAMPLE = torch.randn(1, 3, 16, 16)


def net(channels=8, layers=1):
    layers = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers)]
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.Dropout(), *layers)


@pytest.mark.parametrize("device", ["onnxruntime:cpu", "torch:cpu"])
def test_measuring_changes_nothing(device):
    baseline, candidate = net().train(), net().eval()
    before = [copy.deepcopy(m.state_dict()) for m in (baseline, candidate)]
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    measure_latency(
        {"candidate": candidate}, EXAMPLE, device=device, baseline=baseline, setting=Setting(time_limit=0.05)
    )
    assert baseline.training
    assert not candidate.training
    for model, state in zip((baseline, candidate), before, strict=True):
        assert list(model.state_dict()) == list(state)
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    assert (torch.get_num_threads(), gc.isenabled()) == (threads, collecting)


def test_raw_times_of_both_and_an_interval_around_the_ratio():
    found = measure_latency({"a": net(), "b": net(32, 4)}, EXAMPLE, baseline=net(16), setting=Setting(time_limit=0.3))
    for latency in found.values():
        assert min(*latency.times_s, *latency.baseline_times_s) > 0
        assert len(latency.times_s) >= ROUNDS
        low, high = latency.ratio_interval
        assert low <= latency.ratio <= high
        assert (latency.device, latency.threads, latency.batch, latency.precision) == (
            "onnxruntime:cpu",
            1,
            1,
            "float32",
        )
        assert latency.cores_busy <= 1.35


def test_it_says_why_it_stopped():
    wide = measure_latency({"a": net()}, EXAMPLE, baseline=net(), setting=Setting(time_limit=0.05, narrow=-1.0))["a"]
    assert wide.stopped == "time limit"
    easy = measure_latency({"a": net()}, EXAMPLE, baseline=net(), setting=Setting(time_limit=60, narrow=100))["a"]
    assert easy.stopped == "narrow"


def test_without_a_baseline_model_there_is_no_ratio():
    latency = measure_latency({"a": net()}, EXAMPLE, setting=Setting(time_limit=0.05))["a"]
    assert (latency.ratio, latency.baseline_times_s, latency.ratio_interval) == (None, (), None)


class Noting(Device):
    """A device that notes the order of calls instead of running anything."""

    name = "noting"
    packages = ()
    limits_threads = False

    def __init__(self):
        self.calls, self.closed, self.prepared = [], [], 0

    def check(self):
        pass

    def prepare(self, model, example, options):
        device, label = self, model.label
        device.prepared += label == "a"
        device.batch = len(example)

        class Note(Prepared):
            def run(self):
                device.calls.append(label)

            def outputs(self):
                return ()

            def close(self):
                device.closed.append(label)

        return Note()


def labelled(label):
    model = nn.Identity()
    model.label = label
    return model


def visits(device):
    order = []
    for label in device.calls:
        if not order or order[-1] != label:
            order.append(label)
    return order


def test_the_baseline_model_is_timed_in_turns_in_an_order_that_changes():
    device = Noting()
    models = {name: labelled(name) for name in "abc"}
    found = measure_latency(
        models,
        EXAMPLE,
        device=device,
        baseline=labelled("baseline"),
        setting=Setting(time_limit=0.3, batch=4, narrow=-1.0),
    )
    order = visits(device)
    turns = {tuple(order[i : i + 4]) for i in range(8, len(order) - 4, 4)}
    assert len(turns) > 1  # the draw is seeded; only how many rounds there are depends on the machine
    assert {"a", "b", "c", "baseline"} == set(order)
    assert abs(device.calls.count("a") - device.calls.count("baseline")) <= 0.2 * len(device.calls)
    assert set(device.closed) == {"a", "b", "c", "baseline"}
    assert device.closed.count("a") == device.prepared == device.closed.count("baseline") >= LEAST_BUILDS
    assert device.batch == 4
    assert all(latency.cores_busy is None for latency in found.values())


class Scripted(Noting):
    """A device whose builds take so many seconds a call, one after the other; untimed calls are noted."""

    def __init__(self, seconds):
        super().__init__()
        self.builds = {label: iter(times) for label, times in seconds.items()}
        self.made, self.order, self.timed = dict.fromkeys(seconds, 0), [], []

    def prepare(self, model, example, options):
        label = model.label
        found, time = super().prepare(model, example, options), next(self.builds[label])
        self.made[label] += 1
        self.order.append(label)

        def seconds(calls):
            self.timed.append(label)
            return [time] * calls

        found.seconds = seconds
        return found


@pytest.fixture
def undisturbed(monkeypatch):
    """No other process takes a core, whatever this machine does."""
    monkeypatch.setattr(timing, "preemptions", lambda: 0)


def scripted(setting, **seconds):
    device = Scripted(seconds)
    models = {label: labelled(label) for label in seconds if label != "baseline"}
    return device, measure_latency(models, EXAMPLE, device=device, baseline=labelled("baseline"), setting=setting)


@pytest.mark.usefixtures("undisturbed")
def test_how_many_builds_are_timed_follows_from_the_first_ones_alone():
    """The spread that a later build shows neither ends the timing nor narrows the interval (Stein's rule)."""
    first = [0.01, 0.0102, 0.0099, 0.0101]
    logs = log_ratios([[[x]] for x in [*first, *[0.01] * 28]], [[[0.02]]] * 32)
    wanted = builds_needed(logs[:BUILDS], 0.02)
    assert BUILDS < wanted < MAX_BUILDS
    device, found = scripted(
        Setting(time_limit=60, narrow=0.02), a=[*first, *[0.01] * 28], b=[0.03] * 32, baseline=[0.02] * 32
    )
    assert device.made == {"a": wanted, "b": BUILDS, "baseline": wanted}
    assert (device.calls.count("a"), device.calls.count("b")) == (ROUNDS * wanted, 0), "the quick one fills its caches"
    assert found["a"].ratio_interval == pytest.approx(interval(logs[:wanted], BUILDS, found["a"].ratio))
    assert {x.stopped for x in found.values()} == {"narrow"}
    assert len(found["b"].baseline_times_s) == len(found["b"].times_s)
    assert found["b"].ratio_interval == pytest.approx((1.5, 1.5))


def test_what_does_not_get_narrow_ends_at_the_most_builds_whatever_the_others_need():
    device, found = scripted(
        Setting(time_limit=60, narrow=0.02), a=[0.01, 0.02] * 20, b=[0.03] * 40, baseline=[0.02] * 40
    )
    assert device.made == {"a": MAX_BUILDS, "b": BUILDS, "baseline": MAX_BUILDS}
    assert found["a"].stopped == f"{MAX_BUILDS} builds"


def test_the_time_limit_counts_what_another_round_of_builds_would_take(monkeypatch):
    race = timing._race
    monkeypatch.setattr(timing, "_race", lambda running, rng: race(running, rng) and 1.0)
    for limit, builds in ((0.1, LEAST_BUILDS), (2.5, 2), (3.5, 3)):
        device, found = scripted(Setting(time_limit=limit, narrow=-1.0), a=[0.01] * 9, baseline=[0.02] * 9)
        assert (device.made["a"], found["a"].stopped) == (builds, "time limit")


@pytest.mark.usefixtures("undisturbed")
def test_builds_and_rounds_each_have_an_order_of_their_own():
    device, _ = scripted(
        Setting(time_limit=60, narrow=-1.0), a=[0.01] * MAX_BUILDS, b=[0.01] * MAX_BUILDS, baseline=[0.02] * MAX_BUILDS
    )
    assert len({tuple(device.order[i : i + 3]) for i in range(0, len(device.order), 3)}) > 1
    # Two calls of each model warm it up.
    first = device.timed[6 : 6 + 3 * ROUNDS]
    assert len({tuple(first[i : i + 3]) for i in range(0, len(first), 3)}) > 1


def test_a_visit_that_was_disturbed_is_repeated_unless_all_are(monkeypatch):
    setting, times = Setting(time_limit=60, narrow=100), {"a": [0.01] * 4, "baseline": [0.02] * 4}
    monkeypatch.setattr(timing, "preemptions", lambda: 0)
    assert scripted(setting, **times)[1]["a"].disturbed == 0
    count = iter(range(10**6))
    monkeypatch.setattr(timing, "preemptions", lambda: next(count))
    assert BUILDS * ROUNDS < scripted(setting, **times)[1]["a"].disturbed < BUILDS * ROUNDS * timing.VISIT_TRIES


@pytest.mark.usefixtures("undisturbed")
def test_what_a_thread_waited_for_a_core_is_taken_off():
    device = Scripted({"a": [0.01]})
    build = timing.Contestant("a", device.prepare(labelled("a"), EXAMPLE, None), calls=2)
    clock = iter([0.0, 0.004, 0.004, 0.005])
    build.waits = SimpleNamespace(seconds=lambda: next(clock))
    build.visit()
    assert build.rounds == [pytest.approx([0.006, 0.009])]
    assert build.waited_s == pytest.approx(0.005)


def test_a_drift_from_build_to_build_that_hits_both_narrows_at_once():
    drift = [0.01 * 1.1**i for i in range(32)]
    device, found = scripted(Setting(time_limit=60, narrow=0.02), a=drift, baseline=[2 * x for x in drift])
    assert device.made["a"] == BUILDS
    assert found["a"].ratio == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": Setting(precision="int3")}, "has no precision 'int3'; choose from float32"),
        ({"device": "onnxruntime:cpuu"}, "nearest: onnxruntime:cpu"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(GhostsearchError, match=message):
        measure_latency({"a": net()}, EXAMPLE, **options)


def test_no_model():
    with pytest.raises(GhostsearchError, match="no model to measure"):
        measure_latency({}, EXAMPLE)


def test_a_model_that_the_device_cannot_take():
    with pytest.raises(GhostsearchError, match="onnxruntime:cpu cannot run this model") as caught:
        measure_latency({"a": net()}, torch.randn(1, 5, 16, 16))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["threads", "time_limit", "batch"])
def test_a_wrong_setting_is_named_in_one_line(option):
    with pytest.raises(GhostsearchError, match=rf"^{option}: .* greater than .*, got 0$"):
        Setting(**{option: 0})


@pytest.mark.parametrize("device", ["torch:cpu", "onnxruntime:cpu"])
def test_an_input_that_is_to_be_learned_is_timed_as_any(device):
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    found = measure_latency({"m": nn.Conv2d(3, 4, 3)}, x, device=device, setting=Setting(time_limit=0.02))
    assert found["m"].median_s > 0
