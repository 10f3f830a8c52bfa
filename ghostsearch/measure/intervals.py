"""95 % confidence intervals of latencies and of their ratio, from several builds of each model.

Built anew, one model takes another time by up to a hundredth (memory layout, export, session), so calls of one build
agree with each other more than with the truth. The unit here is therefore a build, and the error Student's.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, inf, log
from statistics import median, stdev

from scipy.stats import t as student

CONFIDENCE = 0.95

Build = Sequence[Sequence[float]]
"""Seconds of each call, by round, of one build."""


def log_ratios(builds: Sequence[Build], baseline: Sequence[Build] | None) -> list[float]:
    """Per build, the logarithm of the median, over that of the baseline's build beside it where there is one."""
    if baseline is None:
        return [log(_median(build)) for build in builds]
    return [log(_median(build) / _median(other)) for build, other in zip(builds, baseline, strict=False)]


def builds_needed(logs: Sequence[float], narrow: float) -> int:
    """How many builds make the interval as narrow as a share `narrow` of its middle, judged by the first ones.

    Taking the spread from the first builds alone, here and in `interval`, keeps the interval's coverage although it
    decides when to stop (Stein 1945: a two-sample test whose power does not depend on the variance).
    """
    if narrow <= 0:
        return 10**6
    reach = _quantile(len(logs)) * stdev(logs)
    return max(len(logs), ceil((reach / (narrow / 2)) ** 2))


def interval(logs: Sequence[float], first: int, middle: float) -> tuple[float, float]:
    """Interval around `middle` from every build's logarithm, the spread as the `first` builds had it.

    Unbounded for a single build, which says nothing of the next.
    """
    known = list(logs[:first])
    if len(known) < 2:
        return 0.0, inf
    reach = _quantile(len(known)) * stdev(known) / len(logs) ** 0.5
    return middle * exp(-reach), middle * exp(reach)


def _quantile(builds: int) -> float:
    return float(student.ppf((1 + CONFIDENCE) / 2, builds - 1))


def _median(build: Build) -> float:
    return median(t for calls in build for t in calls)
