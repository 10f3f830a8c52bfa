"""The one sentence, word by word."""

from __future__ import annotations

import numpy as np
import pytest

from ghostsearch.records import Cost, Latency, Record, Score, StudyView, packed
from ghostsearch.report.headline import cautions, headline

DEVICE = "onnxruntime:cpu"


def record(digest: str, score: float, seconds: float, macs: int, test: float | None = None) -> Record:
    scores = [Score(metric="accuracy", value=score, split="validation", epochs=1, images=100, seed=0)]
    if test is not None:
        scores.append(Score(metric="accuracy", value=test, split="test", epochs=4, images=100, seed=0))
    latency = Latency(device=DEVICE, threads=1, batch=1, times_s=(seconds,), baseline_times_s=(8e-3,))
    cost = Cost(params=macs // 10, macs=macs, size_bytes=macs)
    return Record(
        number=0,
        digest=digest,
        origin="sampler",
        state="complete",
        cost=cost,
        latencies=(latency,),
        scores=tuple(scores),
    )


def study(*records: Record, chosen: str, finalists: tuple[Record, ...] = ()) -> StudyView:
    return StudyView(
        directory="d", name="mine", config={}, anatomy={}, objectives=(), records=records, front=(chosen,),
        chosen=chosen, finalists=finalists,
    )  # fmt: skip


BASELINE = record("baseline", 0.9, 8e-3, 40_000_000, test=0.91)


@pytest.mark.parametrize(
    ("seconds", "pace"),
    [
        (4e-3, "is 2.00× as fast as the baseline on onnxruntime:cpu, 4.00 ms (50%)"),
        (10e-3, "is 1.25× as slow as the baseline on onnxruntime:cpu, 10.0 ms (125%)"),
        (8e-3, "is as fast as the baseline on onnxruntime:cpu, 8.00 ms (100%)"),
    ],
)
def test_says_the_pace_in_the_right_direction(seconds: float, pace: str) -> None:
    small = record("0123456789", 0.88, seconds, 10_000_000)
    told = (
        f"odel 0123456789 {pace}, with 25 % of its MACs and 25 % of its parameters, "
        "at 88.0 ± 3.2 % validation accuracy against the baseline's 90.0 ± 3.0 %"
    )
    so_far = study(BASELINE, small, chosen="0123456789")
    assert headline(so_far) == f"So far m{told}; rerun the same command to finish."
    baseline = BASELINE.model_copy(update={"scores": BASELINE.scores[:1]})
    assert headline(so_far.model_copy(update={"finalists": (baseline, small)})) == f"M{told}."


def test_takes_test_scores_once_the_finalists_have_them() -> None:
    small = record("0123456789", 0.88, 4e-3, 10_000_000)
    final = record("0123456789", 0.88, 4e-3, 10_000_000, test=0.905)
    text = headline(study(BASELINE, small, chosen="0123456789", finalists=(BASELINE, final)))
    assert text.endswith("at 90.5 ± 2.9 % test accuracy against the baseline's 91.0 ± 2.9 %.")


def test_compares_with_the_better_of_the_two_baselines() -> None:
    small = record("0123456789", 0.88, 4e-3, 10_000_000, test=0.905)
    for score, expected in ((0.93, "the baseline's 93.0 ± 2.6 % with the same training."), (0.89, "91.0 ± 2.9 %.")):
        trained = BASELINE.model_copy(
            update={"digest": "baselinetrained", "scores": record("baseline", 0.9, 1, 1, test=score).scores}
        )
        text = headline(study(BASELINE, small, chosen="0123456789", finalists=(BASELINE, trained, small)))
        assert text.endswith(expected)


def test_says_how_far_the_same_images_part_it_from_the_baseline() -> None:
    """Of 100 images 2 that only the baseline gets right."""

    def answering(known: Record, wrong: int) -> Record:
        bits = packed(np.arange(100) >= wrong)
        scores = tuple(s.model_copy(update={"right": bits, "value": 1 - wrong / 100}) for s in known.scores)
        return known.model_copy(update={"scores": scores})

    small = answering(record("0123456789", 0.88, 4e-3, 10_000_000, test=0.905), 12)
    baseline = answering(BASELINE, 10)
    text = headline(study(baseline, small, chosen="0123456789", finalists=(baseline, small)))
    assert text.endswith("the baseline's 90.0 ± 3.0 % (-2.0 [-5.8, +1.9] points on the same images).")


def test_a_baseline_without_the_training_is_named_without_the_difference() -> None:
    """As an interrupted search leaves it: trials had an epoch, the baseline had none and no trained one is there."""

    def after(known: Record, epochs: int) -> Record:
        bits = packed(np.arange(100) >= 10)
        scores = tuple(s.model_copy(update={"epochs": epochs, "right": bits, "images": 100}) for s in known.scores)
        return known.model_copy(update={"scores": scores})

    baseline, small = after(BASELINE, 0), after(record("0123456789", 0.9, 4e-3, 10_000_000, test=0.9), 1)
    view = study(baseline, small, chosen="0123456789")
    assert "against the baseline's 90.0 ± 3.0 % without that training; rerun" in headline(view)
    trained = after(BASELINE, 1).model_copy(update={"digest": "baselinetrained"})
    view = study(baseline, small, chosen="0123456789", finalists=(baseline, trained, small))
    assert headline(view).endswith("points on the same images)."), "the better baseline is the one as given"
    equal = study(after(BASELINE, 1), small, chosen="0123456789")
    assert headline(equal).endswith("points on the same images); rerun the same command to finish.")


def test_without_latency_it_speaks_of_macs() -> None:
    baseline, small = (
        r.model_copy(update={"latencies": ()}) for r in (BASELINE, record("0123456789", 0.88, 1, 10_000_000))
    )
    text = headline(study(baseline, small, chosen="0123456789"))
    assert text.startswith("So far model 0123456789 has 25 % of the baseline's MACs and 25 % of its parameters, at")


def test_claims_nothing_when_the_baseline_model_stays() -> None:
    small = record("0123456789", 0.88, 4e-3, 10_000_000)
    assert "stays the choice" in headline(study(BASELINE, small, chosen="baseline"))


def test_says_that_no_model_meets_every_limit_only_where_the_search_has_ended_and_has_limits() -> None:
    small = record("0123456789", 0.88, 4e-3, 10_000_000)
    limited = study(BASELINE, small, chosen="", finalists=(BASELINE, small)).model_copy(
        update={"config": {"max_latency": "10%"}}
    )
    assert "No model of mine meets every limit yet; relax a limit" in headline(limited)
    begun = limited.model_copy(update={"finalists": ()})
    assert headline(begun) == (
        "The search of mine has not ended and chose no model yet; rerun the same command to go on."
    )
    assert "limit" not in headline(limited.model_copy(update={"config": {}}))


def failed(digest: str, reason: str = "the loss is not finite") -> Record:
    change = {"state": "failed", "reason": reason, "scores": (), "latencies": ()}
    return record(digest, 0.88, 4e-3, 10_000_000).model_copy(update=change)


@pytest.mark.parametrize("chosen", ["baseline", ""])
def test_says_that_every_other_trial_failed(chosen: str) -> None:
    def told(*records: Record) -> str:
        return headline(study(BASELINE, *records, chosen=chosen))

    assert told(failed("aa"), failed("bb", "another")) == (
        "All 2 other trials of mine failed, the first with: the loss is not finite; fix the cause and raise --trials."
    )
    assert told(failed("aa")).startswith("The only other trial of mine failed, the first with: the loss")
    small = record("0123456789", 0.88, 4e-3, 10_000_000)
    assert "failed" not in told(failed("aa"), small)
    final = study(BASELINE, small, chosen=chosen, finalists=(BASELINE, failed("0123456789")))
    assert headline(final).startswith("The only other finalist of mine failed, the first with: the loss is not finite")


@pytest.mark.parametrize("chosen", ["baseline", ""])
def test_says_what_to_do_where_nothing_but_the_baseline_was_tried(chosen: str) -> None:
    def told(**config: object) -> str:
        return headline(study(BASELINE, chosen=chosen).model_copy(update={"config": config}))

    assert told(trials=1, time_budget="3s") == "Only the baseline of mine was tried; raise --trials."
    assert "tried before the run was stopped; rerun the same command to go on" in told(trials=8)
    late = told(trials=8, time_budget="3s")
    assert "the time budget of 3s was over before any other trial, or the run was stopped; rerun" in late


def test_says_in_an_int8_search_that_nothing_beats_the_int8_baseline() -> None:
    there = BASELINE.latencies[0].model_copy(update={"device": "onnxruntime:cpu:int8"})
    small = record("0123456789", 0.88, 4e-3, 10_000_000)
    view = study(BASELINE.model_copy(update={"latencies": (there,)}), small, chosen="baseline")
    assert headline(view).startswith("The int8 baseline of ")
    assert "no other model is a better trade" in headline(view)


@pytest.mark.parametrize(
    ("score", "seconds", "verdict"),
    [(0.92, 3e-3, "scores no worse"), (0.92, 5e-3, ""), (0.85, 3e-3, "is not proven worse"), (0.75, 3e-3, "")],
)
def test_names_the_int8_baseline_only_where_it_is_faster_and_not_proven_worse(
    score: float, seconds: float, verdict: str
) -> None:
    small = record("0123456789", 0.88, 4e-3, 10_000_000, test=0.905)
    int8 = record("baselineint8", 0.9, seconds, 40_000_000, test=score).model_copy(update={"origin": "int8 baseline"})
    text = " ".join(cautions(study(BASELINE, small, chosen="0123456789", finalists=(BASELINE, small, int8))))
    assert (f"in int8 is faster and {verdict}: 38 % of the latency at {100 * score:.1f}" in text) == bool(verdict)
    assert ("--device onnxruntime:cpu:int8" in text) == bool(verdict)


@pytest.mark.parametrize(
    ("metric", "score", "careful", "label_free"),
    [
        ("agreement", 0.02, True, True), ("agreement", 0.9, False, True), ("accuracy", 0.02, True, False),
        ("mIoU against the baseline", 0.1, True, True), ("PSNR", 0.1, False, False),
    ],
)  # fmt: skip
def test_warns_of_a_model_that_is_hardly_usable_and_says_what_no_labels_leave_open(
    metric: str, score: float, careful: bool, label_free: bool
) -> None:
    small = record("0123456789", 0.9, 4e-3, 10_000_000, test=score)
    baseline, small = (
        r.model_copy(update={"scores": tuple(s.model_copy(update={"metric": metric}) for s in r.scores)})
        for r in (BASELINE, small)
    )
    view = study(baseline, small, chosen="0123456789", finalists=(baseline, small))
    told = cautions(view)
    assert ["hardly usable" in text for text in told].count(True) == careful
    assert ["no labels" in text for text in told].count(True) == label_free
