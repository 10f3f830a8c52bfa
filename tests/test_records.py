"""Records and their table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostsearch.records import Axis, Cost, Latency, Record, Score, packed
from ghostsearch.study.trials_table import COLUMNS, frame


def record(**changes):
    base = {
        "number": 3, "digest": "0123456789", "sites": {"a": "ghost(ratio=2, kernel=3)"}, "groups": {"g": "width(0.5)"},
        "origin": "sampler", "state": "complete", "cost": Cost(params=10, macs=100, size_bytes=40),
        "latencies": (
            Latency(device="torch:cpu", threads=1, batch=1, times_s=(2.0, 4.0, 3.0), baseline_times_s=(6.0, 6.0)),
        ),
        "scores": (
            Score(metric="accuracy", value=0.5, split="validation", epochs=0, images=10, seed=0),
            Score(metric="accuracy", value=0.75, split="validation", epochs=1, images=10, seed=0),
        ),
        "seconds": {"fit": 1.0, "train": 2.5}, "started": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Record(**(base | changes))


def test_json_round_trip():
    assert Record.model_validate_json(record().model_dump_json()) == record()


def test_frame_has_the_documented_columns_and_three_a_device():
    table = frame(
        [
            record(),
            record(number=4, digest="baseline", cost=None, latencies=(), scores=(), state="failed", reason="NaN"),
        ]
    )
    assert list(table.columns) == [
        *COLUMNS,
        "latency_s[torch:cpu]",
        "latency_ratio[torch:cpu]",
        "latency_iqr_s[torch:cpu]",
    ]
    row = table.iloc[0]
    assert row["score"] == 0.75
    assert row["epochs"] == 1
    assert row["latency_s[torch:cpu]"] == 3.0
    assert row["latency_ratio[torch:cpu]"] == 0.5
    assert row["latency_iqr_s[torch:cpu]"] == 3.5 - 2.5
    assert row["seconds"] == 1.0 + 2.5
    assert table.iloc[1]["reason"] == "NaN"


def test_empty_frame_keeps_its_columns():
    assert list(frame([]).columns) == list(COLUMNS)


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=50))
def test_median_lies_between_the_quartiles(times):
    latency = Latency(device="d", threads=1, batch=1, times_s=tuple(times))
    low, high = latency.quartiles_s
    # a rounding step of the interpolation is allowed
    assert low * (1 - 1e-12) <= latency.median_s <= high * (1 + 1e-12)


def test_a_median_is_worked_out_once_and_stays_with_its_times(monkeypatch):
    latency = Latency(device="d", threads=1, batch=1, times_s=(1.0, 2.0, 3.0), baseline_times_s=(4.0,))
    fresh, dumped = latency.model_copy(), latency.model_dump_json()
    assert (latency.median_s, latency.baseline_median_s, latency.ratio) == (2.0, 4.0, 0.5)
    assert (latency, hash(latency), repr(latency)) == (fresh, hash(fresh), repr(fresh))
    assert latency.model_dump_json() == dumped
    slower = latency.model_copy(update={"times_s": (8.0,), "baseline_times_s": ()})
    assert (slower.median_s, slower.baseline_median_s, slower.ratio) == (8.0, None, None)
    monkeypatch.setattr("statistics.median", lambda _: pytest.fail("it is known"))
    assert latency.ratio == 0.5


def test_a_wide_spread_says_it_is_noisy():
    steady = Latency(device="d", threads=1, batch=1, times_s=(1.0, 1.01, 1.02, 1.0))
    wide = Latency(device="d", threads=1, batch=1, times_s=(1.0, 1.5, 0.7, 1.2))
    assert not steady.noisy
    assert wide.noisy


def test_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="extra"):
        Cost(params=1, macs=1, size_bytes=1, flops=2)


LIMITED = Axis.of_latency("torch:cpu", limit=0.6, relative=True, baseline=6.0)


def timed(ratio, interval, clock=1.0):
    latency = Latency(
        device="torch:cpu", threads=1, batch=1, times_s=(6 * ratio * clock,), baseline_times_s=(6 * clock,),
        ratio_interval=interval,
    )  # fmt: skip
    return record(latencies=(latency,))


@given(st.floats(0.01, 2), st.floats(0, 0.2), st.floats(0.2, 5))
def test_a_relative_latency_is_judged_and_compared_the_same_whatever_the_clock(ratio, width, clock):
    """A machine that is slower today is so for the baseline of the same run too."""
    usual, drifted = (timed(ratio, (ratio - width, ratio + width), c) for c in (1.0, clock))
    assert LIMITED.minimised(drifted) == pytest.approx(LIMITED.minimised(usual))
    if abs(ratio - 0.6) > 1e-9 and abs(ratio - width - 0.6) > 1e-9:
        assert bool(LIMITED.breach(drifted)) == bool(LIMITED.breach(usual)) == (ratio > 0.6)
        assert bool(LIMITED.breach(drifted, surely=True)) == (ratio - width > 0.6)


def test_an_absolute_limit_is_surely_broken_only_by_the_whole_interval():
    axis = Axis.of_latency("torch:cpu", limit=3.0)
    near, far = timed(0.51, (0.49, 0.53)), timed(0.55, (0.53, 0.57))
    assert axis.breach(near) == "latency on torch:cpu 3060 ms over the limit 3000 ms"
    assert axis.breach(near, surely=True) is None
    assert axis.breach(far, surely=True)


def test_each_axis_reads_formats_and_bounds_its_own_figure():
    one = record()
    assert Axis.of_score("accuracy", limit=0.8).breach(one) == "accuracy 75.0 % below the limit 80.0 %"
    assert Axis.of_score("loss", maximize=False, limit=0.7).breach(one) == "loss 0.75 over the limit 0.7"
    macs = Axis.of_cost("macs", limit=0.5, relative=True, baseline=150)
    assert (macs.value(one), macs.bound, macs.ratio(one)) == (100, 75, pytest.approx(2 / 3))
    assert macs.breach(one) == "MACs 100 over the limit 75.0"
    for metric, scale in (("accuracy", (100, "%")), ("agreement", (100, "%")), ("PSNR", (1, "PSNR"))):
        assert Axis.of_score(metric).scale == scale
    assert Axis.of_cost("peak_memory_bytes", limit=1).breach(one) is None, "what was not measured breaks nothing"
    assert Axis.of_latency("torch:cuda").value(one) is None
    for axis in (macs, LIMITED, Axis.of_score("accuracy")):
        assert frame([one]).iloc[0][axis.name] == axis.value(one)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_outcomes_survive_being_packed(right):
    score = Score(
        metric="accuracy", value=0, split="test", epochs=0, images=len(right), seed=0, right=packed(np.array(right))
    )
    assert score.outcomes().tolist() == right
