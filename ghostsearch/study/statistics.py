"""What two scores on the same images prove: standard errors, paired differences, and decisions drawn from them.

Scores are given per image: 1 or 0 for a right or wrong class, or any figure whose mean is the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import bdtr

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Score

CONFIDENCE = 0.95
Z = 1.96
"""Standard errors on either side of a figure that make its 95 % interval."""


@dataclass(frozen=True)
class Difference:
    """The score of A minus that of B on the same images, with its interval and the two-sided p-value of no difference.

    Both are larger-is-better; negate a metric that is minimised.
    """

    value: float
    interval: tuple[float, float]
    p_value: float
    images: int

    @property
    def better(self) -> bool:
        """Whether A beats B: better, and more than chance explains."""
        return self.value > 0 and self.p_value <= 1 - CONFIDENCE

    @property
    def worse(self) -> bool:
        """Whether B beats A."""
        return self.value < 0 and self.p_value <= 1 - CONFIDENCE


def standard_error(scores: ArrayLike) -> float:
    """Standard error of the mean of per-image scores (N,); NaN for fewer than two images."""
    values = np.asarray(scores, dtype=float)
    return float(stats.sem(values)) if len(values) > 1 else float("nan")


def share_error(share: float, images: int) -> float:
    """Standard error of a share of right answers of which only the total is known (binomial)."""
    return sqrt(max(share * (1 - share), 0.0) / images)


def error_of(score: Score | None) -> float | None:
    """A score's standard error: the recorded one, else the binomial one of an accuracy; None for other metrics."""
    if score is None or score.stderr is not None:
        return score.stderr if score else None
    if score.metric != "accuracy" or not 0 <= score.value <= 1 or score.images < 1:
        return None
    return share_error(score.value, score.images)


def on_same_images(one: Score, other: Score) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Which images were right by each of two scores, (images,); None where one does not say so or has others."""
    a, b = one.outcomes(), other.outcomes()
    return (a, b) if a is not None and b is not None and len(a) == len(b) else None


def has_error(mine: Score, theirs: Score) -> bool:
    """Whether chance is known in a comparison: by the same images' answers, or by both scores' standard errors."""
    return on_same_images(mine, theirs) is not None or None not in (error_of(mine), error_of(theirs))


def compare(mine: Score, theirs: Score, *, maximize: bool = True, paired: bool = True) -> Difference:
    """By how much the first of two scores on one split is better.

    Where both say which images were right it is `difference`, unless `paired` is False: the images are others. Else the
    standard errors count as those of independent images, which proves less; where one is not known, the figures count
    as exact.
    """
    if paired and (pair := on_same_images(mine, theirs)):
        return difference(*pair)
    value = (mine.value - theirs.value) * (1 if maximize else -1)
    errors = error_of(mine), error_of(theirs)
    error = 0.0 if None in errors else hypot(*(e or 0.0 for e in errors))
    p_value = float(2 * stats.norm.sf(abs(value) / error)) if error > 0 else float(not value)
    return Difference(value, (value - Z * error, value + Z * error), p_value, min(mine.images, theirs.images))


def error_of_difference(one: Score | None, other: Score | None) -> float:
    """Standard error of the difference of two scores; paired where both say which images were right; 0 if unknown."""
    if one is None or other is None:
        return 0.0
    pair = on_same_images(one, other)
    if pair and len(pair[0]) > 1:
        return standard_error(pair[0].astype(float) - pair[1])
    return hypot(one.stderr or 0.0, other.stderr or 0.0)


def difference(a: ArrayLike, b: ArrayLike) -> Difference:
    """Compare two models' per-image scores (N,), in the same order of images.

    Right-or-wrong scores: exact McNemar test, and the adjusted Wald interval of paired proportions (Bonett and Price
    2012), which stays honest for few images. Other scores: Student's paired test and interval, which at the hundreds
    of images of a split agree with the paired bootstrap. Raises GhostsearchError when the images differ in number.
    """
    first, second = (np.asarray(x, dtype=float) for x in (a, b))
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise GhostsearchError(
            f"paired scores need the same images, got {first.shape} and {second.shape}; score both on one split"
        )
    if np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
        return _of_answers(int((first > second).sum()), int((second > first).sum()), len(first))
    gaps = first - second
    if len(gaps) < 2 or not gaps.any():
        value = float(gaps.mean())
        return Difference(value, (value, value) if not gaps.any() else (-np.inf, np.inf), 1.0, len(gaps))
    test = stats.ttest_1samp(gaps, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(float(gaps.mean()), (float(low), float(high)), float(test.pvalue), len(gaps))


def _of_answers(only_a: int, only_b: int, images: int) -> Difference:
    """The comparison from the images that only one of the two gets right."""
    discordant = only_a + only_b
    # The exact binomial test, whose two tails are alike at one half.
    p_value = min(1.0, 2 * bdtr(min(only_a, only_b), discordant, 0.5))
    gain, loss = (only_a + 1) / (images + 2), (only_b + 1) / (images + 2)
    middle, error = gain - loss, sqrt((gain + loss - (gain - loss) ** 2) / (images + 2))
    reach = stats.norm.ppf((1 + CONFIDENCE) / 2) * error
    return Difference((only_a - only_b) / images, (middle - reach, middle + reach), float(p_value), images)
