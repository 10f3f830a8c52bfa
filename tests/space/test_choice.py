"""Choices: the string is the choice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostsearch.errors import GhostsearchError
from ghostsearch.space.choice import CHEAP_OPERATIONS, Ghost, Keep, LowRank, Separable, Width
from ghostsearch.space.choice_text import parse_choice, parse_layer_choice, parse_width

ghosts = st.builds(
    Ghost,
    ratio=st.integers(2, 64),
    kernel=st.integers(0, 15).map(lambda n: 2 * n + 1),
    cheap=st.sampled_from(CHEAP_OPERATIONS),
)
low_ranks = st.builds(LowRank, rank=st.floats(0.01, 0.99))
separables = st.builds(Separable, multiplier=st.integers(1, 20))
widths = st.builds(Width, share=st.integers(1, 100).map(lambda n: n / 100))


@given(ghosts | low_ranks | separables | widths | st.just(Keep()))
def test_every_printed_choice_can_be_pasted_back(choice):
    assert parse_choice(str(choice)) == choice
    assert str(parse_choice(str(choice))) == str(choice)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("keep", "keep"),
        ("keep()", "keep"),
        (" ghost ", "ghost(ratio=2, kernel=3)"),
        ("ghost(4)", "ghost(ratio=4, kernel=3)"),
        ("ghost(kernel=5,ratio=3)", "ghost(ratio=3, kernel=5)"),
        ("ghost(2, 3, conv)", "ghost(ratio=2, kernel=3)"),
        ("ghost(2, 3, cheap='affine')", "ghost(ratio=2, kernel=3, cheap=affine)"),
        ("width(0.50)", "width(0.5)"),
        ("width(1.0)", "width(1)"),
    ],
)
def test_spellings_of_one_choice_have_one_form(text, canonical):
    assert str(parse_choice(text)) == canonical


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ghost(ratio=1)", "ratio must be a whole number of at least 2, got 1"),
        ("ghost(ratio=2.5)", "ratio must be a whole number"),
        ("ghost(ratio=True)", "does not parse|ratio must be"),
        ("ghost(kernel=4)", "kernel must be an odd whole number, got 4"),
        ("ghost(kernel=-1)", "kernel must be an odd whole number, got -1"),
        ("ghost(cheap=fft)", "cheap must be one of conv, affine, wavelet, got 'fft'"),
        ("ghost(2, ratio=2)", "once each"),
        ("ghost(ratio=2, ratio=3)", "once each, got 'ratio'"),
        ("ghost(depth=2)", "got 'depth'"),
        ("ghost(1, 2, 3, 4)", "at most 3 values"),
        ("width(0)", "the share must lie above 0"),
        ("width(1.5)", "at most 1, got 1.5"),
        ("lowrank(rank=1)", "between 0 and 1"),
        ("crop(kernel=2)", "kernel must be an odd whole number, got 2"),
        ("separable(multiplier=0)", "multiplier must be a whole number of at least 1, got 0"),
        ("separable(1.5)", "multiplier must be a whole number of at least 1, got 1.5"),
        ("gohst(2)", "no choice is called 'gohst'"),
        ("", "does not parse"),
        ("ghost(", "does not parse"),
        ("ghost(*[1])", "does not parse"),
        ("ghost(**{'ratio': 2})", "does not parse"),
        ("__import__('os').system('true')", "does not parse"),
        ("x" * 201, "at most 200 characters"),
    ],
)
def test_bad_choices_say_the_rule_and_the_value(text, told):
    with pytest.raises(GhostsearchError, match=told) as caught:
        parse_choice(text)
    assert "\n" not in str(caught.value)


def test_sites_and_groups_refuse_each_others_choices():
    with pytest.raises(GhostsearchError, match="for a group of channels"):
        parse_layer_choice("width(0.5)")
    with pytest.raises(GhostsearchError, match="for a site"):
        parse_width("ghost(2, 3)")
