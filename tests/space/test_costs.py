"""Formulas of params and MACs, spelled as products; the conformance table compares them with counted blocks."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostsearch.space.architecture import Site
from ghostsearch.space.choice import KEEP, Crop, Filters, Ghost, LayerChoice, LowRank, Separable, intrinsic_channels
from ghostsearch.space.costs import (
    choice_fits,
    is_depthwise,
    passes_channels,
    site_macs,
    site_params,
    site_position_macs,
    theoretical_speedup,
)


def site(c=64, n=128, kernel=(3, 3), groups=1, bias=False, positions=14 * 14):
    weights = n * (c // groups)
    for k in kernel:
        weights *= k
    return Site(
        "conv", "Conv2d", c, n, kernel, (1,) * len(kernel), groups, (c, 14, 14), (n, 14, 14),
        macs=weights * positions, params=weights + n * bias,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "macs", "params"),
    [
        (KEEP, 128 * 64 * 9, 128 * 64 * 9 + 128),
        (Ghost(2, 3), 64 * 64 * 9 + 64 * 9, 64 * 64 * 9 + 64 + 64 * 9 + 64),
        (Ghost(4, 5), 32 * 64 * 9 + 3 * 32 * 25, 32 * 64 * 9 + 32 + 3 * 32 * (25 + 1)),
        (Ghost(3, 1), 43 * 64 * 9 + 2 * 43, 43 * 64 * 9 + 43 + 2 * 43 * 2),
        (Ghost(2, 3, "affine"), 64 * 64 * 9 + 64, 64 * 64 * 9 + 64 + 64 * 2),
        (Ghost(2, 3, "wavelet"), 64 * 64 * 9 + 64 * 4, 64 * 64 * 9 + 64 + 64 * 2),
        (LowRank(0.25), 32 * 64 * 9 + 128 * 32, 32 * 64 * 9 + 128 * 32 + 128),
        (Crop(1), 128 * 64, 128 * 64 + 128),
        (Separable(1), 64 * 9 + 128 * 64, 64 * 9 + 128 * 64 + 128),
        (Separable(2), 2 * 64 * 9 + 128 * 2 * 64, 2 * 64 * 9 + 128 * 2 * 64 + 128),
    ],
    ids=str,
)
def test_golden_counts(choice, macs, params):
    one = site(bias=True)
    assert site_position_macs(one, choice) == macs
    assert site_macs(one, choice) == macs * 14 * 14
    assert site_params(one, choice) == params


def test_without_bias_an_affine_map_still_has_its_shift():
    assert site_params(site(), Ghost(2, 3, "affine")) == 64 * 64 * 9 + 64 * 2
    assert site_params(site(), Ghost(2, 3, "wavelet")) == 64 * 64 * 9 + 64


def test_grouped_convolutions():
    assert site_position_macs(site(groups=4), Ghost(2, 3)) == 64 * 16 * 9 + 64 * 9
    assert site_position_macs(site(groups=4), LowRank(0.25)) == 32 * 16 * 9 + 128 * 8


def test_cut_channels():
    assert site_macs(site(), Ghost(2, 3), in_channels=32, out_channels=96) == (48 * 32 * 9 + 48 * 9) * 14 * 14
    assert site_params(site(bias=True), KEEP, in_channels=32, out_channels=96) == 96 * 32 * 9 + 96


def test_the_papers_speedup_and_where_it_fails():
    # r_s = c·k² / (c·k²/s + (s-1)·d²/s), section 3.2; a thin 1×1 convolution gains little, a thinner one loses.
    assert theoretical_speedup(site(c=512, n=512), Ghost(2, 3)) == pytest.approx(512 * 9 / (512 * 9 / 2 + 9 / 2))
    assert theoretical_speedup(site(c=16, n=64, kernel=(1, 1)), Ghost(4, 3)) == pytest.approx(16 / (16 / 4 + 3 * 9 / 4))
    assert theoretical_speedup(site(c=4, n=64, kernel=(1, 1)), Ghost(4, 3)) < 1


@pytest.mark.parametrize(
    ("where", "choice", "fits"),
    [
        (site(), Ghost(2, 3), True),
        (site(c=4, kernel=(1, 1)), Ghost(2, 5), False),
        (site(n=12, groups=4), Ghost(2, 3), False),
        (site(n=24, groups=4), Ghost(2, 3), True),
        (site(kernel=(1, 1)), LowRank(0.5), False),
        (site(), LowRank(0.5), True),
        (site(), Separable(2), True),
        (site(), Separable(9), False),
        (site(kernel=(1, 1)), Separable(1), False),
        (site(groups=4), Separable(1), False),
        (replace(site(), plain=False), Separable(1), False),
        (site(), Crop(1), True),
        (site(), Crop(3), False),
        (site(groups=4), Crop(1), True),
        (site(kernel=(2, 2)), Crop(1), False),
        (replace(site(), plain=False), Crop(1), False),
        (site(), KEEP, False),
    ],
)
def test_only_choices_that_suit_and_pay_fit(where, choice, fits):
    assert choice_fits(where, choice) is fits


@given(n=st.integers(1, 300), ratio=st.integers(2, 12), groups=st.integers(1, 8))
def test_intrinsic_maps_suffice_and_divide(n, ratio, groups):
    n *= groups
    m = intrinsic_channels(n, ratio, groups)
    assert m % groups == 0
    assert ratio * m >= n
    assert ratio * (m - groups) < n


@given(n=st.integers(1, 64), c=st.integers(1, 64), taps=st.integers(1, 27), share=st.floats(0.001, 0.999))
def test_ranks_stay_within_full_rank(n, c, taps, share):
    assert 1 <= LowRank(share).maps(Filters(c, n, (taps,))) <= min(n, c * taps)


def test_a_choice_without_a_formula_has_no_cost():
    for formula in (site_position_macs, site_params):
        with pytest.raises(NotImplementedError):
            formula(site(), LayerChoice())


@pytest.mark.parametrize(
    ("c", "n", "groups", "depthwise", "passing"),
    [(8, 8, 1, False, False), (8, 8, 8, True, True), (8, 16, 8, True, False), (16, 8, 8, False, False),
     (8, 8, 4, False, False), (1, 1, 1, False, False)],
)  # fmt: skip
def test_what_is_depthwise(c, n, groups, depthwise, passing):
    found = site(c, n, groups=groups)
    assert (is_depthwise(found), passes_channels(found)) == (depthwise, passing)
