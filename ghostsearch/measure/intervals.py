"""95 % confidence intervals of medians and of their ratio, by bootstrap over the rounds of an interleaved
run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 400
CONFIDENCE = 0.95

Rounds = Sequence[Sequence[float]]
"""Seconds of each call, by round."""


def ratio_interval(times_s: Rounds, baseline_times_s: Rounds) -> tuple[float, float]:
    """Interval of median(times) / median(baseline times); rounds are drawn together, so that a common drift
    cancels.

    Both have one entry a round. Percentile bootstrap (Efron and Tibshirani 1993, chapter 13).
    """
    draws = _draws(len(times_s))
    return _percentiles(_medians(times_s, draws) / _medians(baseline_times_s, draws))


def median_interval(times_s: Rounds) -> tuple[float, float]:
    """Interval of the median in seconds."""
    return _percentiles(_medians(times_s, _draws(len(times_s))))


def _draws(rounds: int) -> np.ndarray:
    # A generator of its own: nobody's random state changes, and the same times give the same interval.
    return np.random.default_rng(0).integers(0, rounds, (RESAMPLES, rounds))


def _medians(times_s: Rounds, draws: np.ndarray) -> np.ndarray:
    values = np.asarray(times_s, dtype=np.float64)
    result: np.ndarray = np.median(values[draws].reshape(len(draws), -1), axis=1)
    return result


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
