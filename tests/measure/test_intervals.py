"""Confidence intervals over builds: they hold the truth as often as they say, although they decide when to stop."""

from math import log

import numpy as np
import pytest

from ghostsearch.measure.intervals import builds_needed, interval, log_ratios


def test_constant_times_have_no_spread():
    logs = log_ratios([[[2.0]] * 5] * 3, [[[4.0]] * 5] * 3)
    assert interval(logs, 3, 0.5) == (0.5, 0.5)
    assert log_ratios([[[3.0, 3.0]] * 5], None) == pytest.approx([log(3)])


def test_one_slow_call_in_a_build_changes_nothing():
    assert log_ratios([[[2.0, 1.0], [9.0]]], [[[5.0], [4.0, 90.0]], [[1.0]]]) == pytest.approx([log(2 / 5)])


def test_one_build_says_nothing_of_the_next():
    assert interval([0.1], 4, 1.0) == (0.0, float("inf"))


@pytest.mark.parametrize("spread", [0.003, 0.01, 0.03])
def test_stopping_when_narrow_does_not_make_them_too_narrow(spread):
    rng, held, tries, first = np.random.default_rng(0), 0, 3000, 4
    for _ in range(tries):
        logs = rng.normal(log(0.8), spread, first).tolist()
        wanted = min(32, builds_needed(logs, 0.02))
        logs += rng.normal(log(0.8), spread, wanted - first).tolist()
        low, high = interval(logs, first, float(np.exp(np.mean(logs))))
        held += low <= 0.8 <= high
        assert wanted == 32 or high - low <= 0.0201 * (low + high) / 2
    assert 0.94 <= held / tries <= 0.97


def test_a_spread_from_build_to_build_is_seen_though_calls_agree():
    rng = np.random.default_rng(1)
    builds = [[[float(x)] * 3] * 6 for x in rng.lognormal(0, 0.05, 4)]
    low, high = interval(log_ratios(builds, [[[1.0] * 3] * 6] * 4), 4, 1.0)
    assert high - low > 0.05


def test_a_drift_that_hits_both_cancels():
    drift = [[[x] for x in row] for row in np.linspace(1, 3, 24).reshape(4, 6)]
    logs = log_ratios([[[0.5 * x for x in calls] for calls in build] for build in drift], drift)
    assert logs == pytest.approx([log(0.5)] * 4)
