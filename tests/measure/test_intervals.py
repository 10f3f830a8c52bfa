"""Confidence intervals by bootstrap."""

import numpy as np

from ghostsearch.measure.intervals import median_interval, ratio_interval


def test_constant_times_have_no_spread():
    assert ratio_interval([[2.0]] * 10, [[4.0]] * 10) == (0.5, 0.5)
    assert median_interval([[3.0, 3.0]] * 5) == (3.0, 3.0)


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        times, baseline = rng.lognormal(0, 0.1, (30, 1)), rng.lognormal(0, 0.1, (30, 1))
        low, high = ratio_interval((0.8 * times).tolist(), baseline.tolist())
        held += low <= 0.8 <= high
    assert 0.88 <= held / 200 <= 1


def test_more_rounds_narrow_it():
    rng = np.random.default_rng(1)
    widths = []
    for rounds in (10, 1000):
        low, high = median_interval(rng.lognormal(0, 0.1, (rounds, 1)).tolist())
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_a_drift_that_hits_both_cancels():
    drift = np.linspace(1, 3, 60)[:, None]
    low, high = ratio_interval((0.5 * drift).tolist(), drift.tolist())
    assert abs(low - 0.5) < 1e-12
    assert abs(high - 0.5) < 1e-12
