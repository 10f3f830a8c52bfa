"""One of the measured models is taken under limits named afterwards; where none keeps them, the nearest is named."""

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Axis, Cost, Latency, Record, Score, StudyView
from ghostsearch.space.limits import Limits
from ghostsearch.study.pick import measured_within, pick
from ghostsearch.study.recommendation import BASELINE, TRAINED

DEVICE = "onnxruntime:cpu"


def model(digest, accuracy, ms, macs, *, epochs=4):
    return Record(
        number=0, digest=digest, origin="sampler", state="complete",
        cost=Cost(params=macs, macs=macs, size_bytes=4 * macs),
        latencies=(Latency(device=DEVICE, threads=1, batch=1, times_s=(ms / 1e3,) * 5, baseline_times_s=(0.01,) * 5),),
        scores=(Score(metric="accuracy", value=accuracy, split="validation", epochs=epochs, images=100, seed=0),),
    )  # fmt: skip


FINALISTS = (
    model(BASELINE, 0.90, 10, 100, epochs=0), model(TRAINED, 0.95, 10, 100), model("aa", 0.955, 8, 80),
    model("bb", 0.945, 6, 70), model("cc", 0.90, 4, 30),
)  # fmt: skip


def view(finalists=FINALISTS, latency=None, config=None):
    return StudyView(
        directory="mine", name="x", config=config or {}, anatomy={}, records=(), front=("aa", "bb", "cc"), chosen="aa",
        objectives=(Axis.of_score("accuracy"), Axis.of_latency(DEVICE, baseline=0.01, **(latency or {}))),
        finalists=finalists,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "taken"),
    [
        ({}, "aa"),
        ({"max_drop": "1%"}, "bb"),
        ({"max_drop": "5%"}, "cc"),
        ({"max_latency": "60%"}, "bb"),
        ({"max_latency": "7ms", "max_drop": "10%"}, "cc"),
        ({"max_macs": "75"}, "bb"),
        ({"max_macs": "50%"}, "cc"),
        ({"max_drop": "10%", "min_accuracy": "94%"}, "bb"),
    ],
)
def test_the_cheapest_that_keeps_the_limits_is_taken(limits, taken):
    found = pick(view(), Limits(**limits))
    assert found.record.digest == taken
    assert found.baseline.digest == TRAINED, "the better baseline is the one to compare with"


def test_limits_of_the_search_hold_until_others_are_given():
    searched = view(latency={"limit": 0.5, "relative": True}, config={"max_drop": "9%"})
    assert pick(searched, Limits()).record.digest == "cc"
    assert pick(searched, Limits(max_latency="70%", max_drop="1%")).record.digest == "bb"


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"max_latency": "3ms"}, "nearest is cc: latency on onnxruntime:cpu 4.00 ms over the limit 3.00 ms"),
        ({"max_latency": "50%", "max_drop": "1%"}, "accuracy 5.0 % below the baseline's, over the drop 1.0 %"),
        ({"min_accuracy": 0.99}, "nearest is aa: accuracy 95.5 % below the limit 99.0 %"),
        ({"max_memory": "50%"}, "did not measure it"),
    ],
)
def test_where_none_keeps_them_one_line_names_the_nearest(limits, told):
    with pytest.raises(GhostsearchError, match=told):
        pick(view(), Limits(**limits))


def test_a_study_without_finalists_is_told_to_finish():
    with pytest.raises(GhostsearchError, match="no measured finalists"):
        pick(view(finalists=()), Limits())


def test_all_that_keep_the_limits_are_offered_best_score_first():
    def kept(limits, **more):
        return [r.digest for r in measured_within(view(**more), Limits(**limits))]

    short = model("dd", 0.99, 3, 20, epochs=1)
    assert kept({}, finalists=(*FINALISTS[::-1], short)) == ["aa", "bb", "cc"], "neither baselines nor less training"
    assert kept({"max_latency": "60%"}) == ["bb", "cc"]
    assert kept({"max_macs": "40"}) == ["cc"]
    assert kept({}, latency={"limit": 0.5, "relative": True}) == ["cc"], "the search's own limit"
    assert kept({}, finalists=()) == []
    assert measured_within(view().model_copy(update={"objectives": ()}), Limits()) == [], "a search that has not ended"
