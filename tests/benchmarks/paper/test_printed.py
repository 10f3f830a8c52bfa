import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper.printed import BILLION, MILLION, agrees


@pytest.mark.parametrize(
    ("printed", "counted", "unit", "verdict"),
    [
        ("157", 157_003_776, MILLION, True),
        ("65", 65_665_296, MILLION, True),  # cut
        ("66", 65_665_296, MILLION, True),  # rounded
        ("64", 65_665_296, MILLION, False),
        ("0.85", 853_018, MILLION, True),
        ("13.0", 13_953_512, MILLION, False),
        ("2.2", 2_151_023_360, BILLION, True),
        ("0.3", 299_999, MILLION, True),
        ("", 1, MILLION, None),
    ],
)
def test_agrees(printed, counted, unit, verdict):
    assert agrees(printed, counted, unit) is verdict


@given(st.integers(1, 10**12), st.sampled_from([0, 1, 2]))
def test_a_count_agrees_with_its_own_print(counted, digits):
    assert agrees(f"{counted * 10**digits // MILLION / 10**digits:.{digits}f}", counted, MILLION)


@given(st.integers(2 * MILLION, 10**12))
def test_a_count_disagrees_two_units_away(counted):
    assert not agrees(str(counted // MILLION + 2), counted, MILLION)
