"""Records and their table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostsearch.records import COLUMNS, Cost, Latency, Record, Score, frame


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


def test_a_wide_spread_says_it_is_noisy():
    steady = Latency(device="d", threads=1, batch=1, times_s=(1.0, 1.01, 1.02, 1.0))
    wide = Latency(device="d", threads=1, batch=1, times_s=(1.0, 1.5, 0.7, 1.2))
    assert not steady.noisy
    assert wide.noisy


def test_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="extra"):
        Cost(params=1, macs=1, size_bytes=1, flops=2)
