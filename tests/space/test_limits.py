"""Limits on a score: a share may be written in percent, decibels are no share, a percent without its sign is told."""

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.space.limits import Limits


def test_a_score_is_a_share_or_has_a_unit_of_its_own():
    assert Limits(min_accuracy="97%").min_accuracy == Limits(min_accuracy="0.97").min_accuracy == 0.97
    Limits(min_accuracy="30", max_drop="2").check_score("PSNR")
    Limits(min_accuracy="97%", max_drop="1%").check_score("mIoU")
    Limits(min_accuracy="100%", max_drop="100%").check_score("accuracy")


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"min_accuracy": 97}, "--min-accuracy 97: .* write 97% or 0.97"),
        ({"max_drop": "2"}, "--max-drop 2: .* write 2%"),
        ({"max_drop": "1"}, "--max-drop 1: .* write 1% or 0.01"),
        ({"min_accuracy": "970"}, "--min-accuracy 970: .* write at most 100%"),
    ],
)
@pytest.mark.parametrize("metric", ["accuracy", "agreement", "COCO mAP", "mIoU against the baseline"])
def test_a_percent_without_its_sign_is_told(limits, told, metric):
    with pytest.raises(GhostsearchError, match=told):
        Limits(**limits).check_score(metric)


@pytest.mark.parametrize(("name", "text"), [("max_drop", "200%"), ("min_accuracy", "101%"), ("max_drop", "100.5 %")])
def test_more_than_the_whole_score_is_refused_as_it_was_typed(name, text):
    with pytest.raises(GhostsearchError, match=f"{name} must be at most 100%, got '{text}'$"):
        Limits(**{name: text})


def test_a_drop_in_percent_is_refused_where_the_score_is_no_share():
    with pytest.raises(GhostsearchError, match="--max-drop 10%: mean absolute error is no share"):
        Limits(max_drop="10%").check_score("mean absolute error")
