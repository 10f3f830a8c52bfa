"""Decisions from paired scores against exact cases and simulated ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, bootstrap

from ghostsearch.errors import GhostsearchError
from ghostsearch.study.statistics import difference, share_error, standard_error


def answers(both, only_a, only_b, neither):
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return a, b


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_the_binomial_test_of_the_images_that_differ(only_a, only_b):
    found = difference(*answers(40, only_a, only_b, 5))
    least = min(only_a, only_b)
    exact = min(1.0, 2 * binom.cdf(least, only_a + only_b, 0.5)) if only_a + only_b else 1.0
    assert found.p_value == pytest.approx(exact)
    assert found.value == pytest.approx((only_a - only_b) / (45 + only_a + only_b))
    assert found.interval[0] < found.value + 1e-12
    assert found.interval[1] > found.value - 1e-12


def test_six_images_to_none_decide_and_five_do_not():
    assert difference(*answers(90, 6, 0, 4)).better
    assert not difference(*answers(90, 5, 0, 5)).better
    assert difference(*answers(90, 0, 6, 4)).worse


def test_intervals_of_answers_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    drawn = rng.choice(4, (2000, 300), p=[0.85, 0.05, 0.03, 0.07])
    held = 0
    for row in drawn:
        low, high = difference((row < 2).astype(int), np.isin(row, (0, 2)).astype(int)).interval
        held += low <= 0.02 <= high
    assert 0.935 <= held / 2000 <= 0.975


def test_other_figures_agree_with_the_bootstrap():
    rng = np.random.default_rng(1)
    a, noise = rng.normal(30, 5, 400), rng.normal(0.4, 2, 400)
    found = difference(a + noise, a)
    assert found.better
    resampled = bootstrap((noise,), np.mean, n_resamples=2000, rng=np.random.default_rng(0)).confidence_interval
    assert found.interval == pytest.approx((resampled.low, resampled.high), abs=0.05)


def test_equal_models_are_never_told_apart():
    same = difference([0.5, 0.2, 0.9], [0.5, 0.2, 0.9])
    assert (same.value, same.interval, same.p_value) == (0, (0, 0), 1)
    assert not same.better
    assert not same.worse


def test_standard_errors():
    assert share_error(0.9, 100) == pytest.approx(0.03)
    assert standard_error([1] * 90 + [0] * 10) == pytest.approx(0.03 * (100 / 99) ** 0.5)
    assert np.isnan(standard_error([1]))


def test_scores_of_other_images_are_refused():
    with pytest.raises(GhostsearchError, match="same images"):
        difference([1, 0], [1, 0, 1])
