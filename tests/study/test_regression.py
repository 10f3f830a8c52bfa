"""Learning what options add: known sums are recovered, and the table is kept where nothing was seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostsearch.study.regression import Regression

SIZES = (3, 2, 4, 3, 2)


def table(rng):
    return [np.append(0.0, rng.uniform(0.1, 1, size - 1)) for size in SIZES]


def codes(rng, count):
    return np.stack([rng.integers(size, size=count) for size in SIZES], axis=1)


def total(values, code):
    return float(sum(v[i] for v, i in zip(values, code, strict=True)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.1, 10))
def test_a_linear_loss_in_another_unit_is_recovered(seed, unit):
    rng = np.random.default_rng(seed)
    prior = table(rng)
    truth = [unit * x * np.append(1, rng.uniform(0.5, 1.5, len(x) - 1)) for x in prior]
    regression = Regression(prior)
    for code in codes(rng, 80):
        regression.add(code, total(truth, code))
    unseen = codes(rng, 50)
    predicted = regression.features(unseen) @ regression.posterior().mean
    true = np.array([total(truth, c) for c in unseen])
    assert np.abs(predicted - true).max() <= 0.05 * true.max()


def test_what_any_change_pays_once_is_told_from_what_options_add():
    rng = np.random.default_rng(5)
    prior = table(rng)
    regression = Regression(prior)
    for code in codes(rng, 40):
        regression.add(code, total(prior, code) + 0.7 * any(code))
    assert regression.posterior().mean[-1] == pytest.approx(0.7, abs=0.15)
    baseline = np.zeros((1, len(SIZES)), dtype=int)
    assert regression.features(baseline) @ regression.posterior().mean == 0


def test_without_trials_it_is_the_table():
    prior = table(np.random.default_rng(0))
    regression = Regression(prior)
    assert regression.posterior().mean == pytest.approx(regression.mean)
    assert [x.tolist() for x in regression.entries(regression.mean)] == [x.tolist() for x in prior]


def test_an_option_that_no_trial_took_keeps_the_tables_place_among_the_others():
    rng = np.random.default_rng(1)
    prior = table(rng)
    regression = Regression(prior)
    for code in codes(rng, 60):
        code[2] = min(code[2], 2)
        regression.add(code, 3 * total(prior, code))
    entry = regression.entries(regression.posterior().mean)[2][3]
    assert entry == pytest.approx(3 * prior[2][3], rel=0.3), "the common unit is learnt from the others"
    seen, unseen = np.zeros((2, len(SIZES)), dtype=int)
    seen[2], unseen[2] = 1, 3
    small, large = regression.posterior().deviation(regression.features(np.stack([seen, unseen])))
    assert large > small


def test_draws_scatter_as_the_belief_says():
    rng = np.random.default_rng(2)
    prior = table(rng)
    regression = Regression(prior)
    for code in codes(rng, 30):
        regression.add(code, total(prior, code) + rng.normal(0, 0.3))
    belief = regression.posterior()
    drawn = np.stack([belief.draw(rng) for _ in range(3000)])
    rows = regression.features(codes(rng, 5))
    expected = np.sqrt(belief.deviation(rows) ** 2 - belief.noise**2)
    assert (drawn @ rows.T).std(0) == pytest.approx(expected, rel=0.1)
    assert drawn.mean(0) == pytest.approx(belief.mean, abs=0.1)


def test_the_order_of_trials_changes_nothing_and_noise_is_told_from_signal():
    rng = np.random.default_rng(3)
    prior, some = table(rng), codes(rng, 100)
    values = [total(prior, c) + rng.normal(0, 0.5) for c in some]
    one, other = Regression(prior), Regression(prior)
    for code, value in zip(some, values, strict=True):
        one.add(code, value)
    for code, value in list(zip(some, values, strict=True))[::-1]:
        other.add(code, value)
    one._chosen = other._chosen = (0, 0.5, 0.2)
    assert one.posterior().mean == pytest.approx(other.posterior().mean)
    assert 0.3 <= one.posterior().noise <= 0.8


def test_corrections_expect_nothing_until_something_is_measured():
    sizes = [np.append(0.0, np.full(size - 1, -0.2)) for size in SIZES]
    regression = Regression([np.zeros(size) for size in SIZES], sizes)
    assert not regression.posterior().mean.any()
    for code in codes(np.random.default_rng(4), 40):
        regression.add(code, 0.1 * total(sizes, code))
    assert regression.posterior().mean == pytest.approx(-0.02, abs=0.005)


def test_what_is_believed_does_not_depend_on_when_it_was_asked_for():
    rng = np.random.default_rng(7)
    prior = table(rng)
    asked = Regression(prior)
    seen = [(code, total(prior, code) * rng.lognormal(0, 0.3)) for code in codes(rng, 30)]
    for count, (code, value) in enumerate(seen, 1):
        asked.add(code, value)
        resumed = Regression(prior)
        for known in seen[:count]:
            resumed.add(*known)
        assert np.array_equal(asked.posterior().mean, resumed.posterior().mean), count
