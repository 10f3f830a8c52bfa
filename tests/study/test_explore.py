"""The time budget leaves room for the final pass, and a latency that nothing can meet is refused at once."""

from dataclasses import make_dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.records import Axis, Record, Score
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.space.limits import parse_limit
from ghostsearch.study.baseline import check_latency, check_together, latency_tables
from ghostsearch.study.config import RunConfig
from ghostsearch.study.explore import REPORT_S, final_pass_s, final_s, is_late, unfinished
from ghostsearch.study.interactions import decompose
from ghostsearch.study.plan import Plan
from ghostsearch.study.watch import Watch

DEVICE = "onnxruntime:cpu"


def config(**changed):
    options = {"model": "ghostsearch:digits_cnn", "data": "digits", "final_epochs": 4, "epochs": 2, "finalists": 3}
    return RunConfig(**{**options, "final_time_limit": 5, **changed})


def trial(number, epochs, train_s, evaluate_s):
    scores = tuple(
        Score(metric="accuracy", value=0.9, split="validation", epochs=e, images=10, seed=0) for e in range(epochs + 1)
    )
    seconds = {"train": train_s, "evaluate": evaluate_s}
    return Record(number=number, digest=str(number), origin="sampler", state="complete", scores=scores, seconds=seconds)


def test_the_reserve_is_what_training_scoring_and_timing_the_finalists_takes():
    records = [trial(i, 2, 20.0, 3.0) for i in range(4)]
    plan = Plan(SimpleNamespace(setup=SimpleNamespace(config=config(time_budget="1h"))), None, (), None, ())
    # Three finalists and two baselines: six epochs of 10 s and two scorings of 1 s each.
    assert final_s(plan, records, 3) == pytest.approx(5 * (6 * 10 + 2 * 1) + 5 + REPORT_S)
    int8 = config(time_budget="1h", device=["onnxruntime:cpu:int8"])
    layers = Plan(SimpleNamespace(setup=SimpleNamespace(config=int8)), None, (), None, ())
    # Eight more files to score, of a baseline's and three models' layers in float, and half a timing.
    assert final_s(layers, records, 3) - final_s(plan, records, 3) == pytest.approx(8 * 1 + 2.5)
    free = Plan(SimpleNamespace(setup=SimpleNamespace(config=config())), None, (), None, ())
    assert final_s(free, records, 3) == 0
    assert final_pass_s(config(), 0, 10.0, 1.0) == 2 * 1 + 5, "without a finalist nothing is trained"


def test_models_that_were_finished_before_take_none_of_a_resumed_runs_time(tmp_path):
    records = [trial(i, 2, 20.0, 3.0) for i in range(4)]
    plan = Plan(SimpleNamespace(setup=SimpleNamespace(config=config(time_budget="1h"))), None, (), None, ())
    watch = Watch(tmp_path, budget_s=100.0)
    assert unfinished(plan, records, watch) == 3
    assert is_late(plan, records, watch, 1.0)
    for digest in "012":
        (tmp_path / "models" / digest).mkdir(parents=True)
        (tmp_path / "models" / digest / "record.json").touch()
    assert unfinished(plan, records, watch) == 0
    assert not is_late(plan, records, watch, 1.0)


def test_without_a_trained_trial_the_reserve_is_by_one_measured_step():
    records = [trial(i, 0, 0.0, 1.0) for i in range(4)]
    setup = make_dataclass("Timed", ["config", "space", "epoch_s"])(config(time_budget="1h", epochs=0), None, 7.0)
    plan = Plan(SimpleNamespace(setup=setup), None, (), None, ())
    assert final_s(plan, records, 3) == pytest.approx(5 * (4 * 7 + 2 * 1) + 5 + REPORT_S)
    assert final_s(plan, records, 1) == pytest.approx(3 * (4 * 7 + 2 * 1) + 5 + REPORT_S)


def test_a_latency_limit_that_the_table_cannot_meet_is_refused_with_the_nearest_that_can():
    space = SearchSpace({"a": ("keep", "ghost(ratio=2, kernel=3)")}, {"g": ("width(1)", "width(0.5)")})
    table = SimpleNamespace(
        space=space, correction=None, additive_ratios=lambda codes: 1 - np.asarray(codes) @ [0.2, 0.3]
    )
    check_latency(config(max_latency="51%"), {DEVICE: table}, {DEVICE: 2e-3})
    for limit in ("49%", "0.9ms", "12us"):
        with pytest.raises(GhostsearchError, match=r"nearest feasible limit is about 50% \(1ms\)"):
            check_latency(config(max_latency=limit), {DEVICE: table}, {DEVICE: 2e-3})


def test_a_latency_limit_is_not_refused_where_the_table_was_as_wrong_on_measured_models():
    space = SearchSpace({"a": ("keep", "ghost(ratio=2, kernel=3)")}, {})
    correction = SimpleNamespace(error=0.1)
    table = SimpleNamespace(space=space, correction=correction, additive_ratios=lambda codes: 1 - 0.5 * codes[:, 0])
    check_latency(config(max_latency="46%"), {DEVICE: table}, {DEVICE: 2e-3})
    with pytest.raises(GhostsearchError, match="nearest feasible limit is about 50%"):
        check_latency(config(max_latency="44%"), {DEVICE: table}, {DEVICE: 2e-3})


def test_limits_that_can_be_met_one_by_one_but_not_together_are_refused():
    """One option halves the latency, another the MACs, and a site takes one of them."""
    space = SearchSpace({"a": ("keep", "ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)")}, {})
    amounts = np.array([[8.0, 4.0, 8.0], [2e-3, 2e-3, 1e-3]])
    axes = {"max_macs": Axis.of_cost("macs", baseline=8.0), "max_latency": Axis.of_latency(DEVICE, baseline=2e-3)}

    def check(error=0.0, **limits):
        bounded = [axis.model_copy(update={"limit": parse_limit(name[4:], limits[name]).value, "relative": True})
                   for name, axis in axes.items() if name in limits]  # fmt: skip
        check_together(SimpleNamespace(
            setup=SimpleNamespace(config=config(**limits), space=space), vetoed=(), axes=bounded,
            tables={DEVICE: SimpleNamespace(correction=SimpleNamespace(error=error))},
            resource_names=("macs", f"latency_s[{DEVICE}]"),
            resources=lambda space: decompose(lambda codes: amounts[:, codes[:, 0]], [3]),
        ))  # fmt: skip

    check(max_macs="60%")
    check(max_latency="60%")
    check(max_macs="60%", max_latency="100%")
    check(max_macs="60%", max_latency="95%", error=0.1)
    with pytest.raises(GhostsearchError, match=r"max_latency 60% and max_macs 60%: no architecture .* together"):
        check(max_macs="60%", max_latency="60%")


def test_a_random_model_that_fails_leaves_the_latency_table_as_it_is_and_says_so(tmp_path):
    def correction(table, progress):
        raise RuntimeError("no such kernel")

    store = SimpleNamespace(device=SimpleNamespace(name=DEVICE), correct=lambda *_: pytest.fail("corrected"))
    table = SimpleNamespace(digest="", store=store)
    setup = SimpleNamespace(
        config=config(max_latency="50%"), latency_table=lambda *_, **__: table, corrected_by=2, correction=correction
    )
    with pytest.warns(GhostsearchWarning, match="not corrected by whole models.*no such kernel"):
        assert latency_tables(setup, Watch(tmp_path), None) == {DEVICE: table}
