"""Marks and the front of a picture agree: what is called front lies on the line, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from ghostsearch.records import Axis, Latency, Record, Score, StudyView, packed
from ghostsearch.report.outcome import cost_axes, last_rung
from ghostsearch.report.points import STAGES, make_panel, stages
from ghostsearch.report.tables import front_rows
from ghostsearch.study.recommendation import BASELINES
from ghostsearch.study.statistics import error_of
from ghostsearch.units import share_text

ON_FRONT = {"front", "front, uniform", "not separable", "not separable, uniform", "chosen", "baseline"}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("column", ["latency_s[onnxruntime:cpu]", "macs", "params"])
def test_the_front_is_that_of_the_axes_shown(view: StudyView, stage: str, column: str) -> None:
    cost = next(a for a in cost_axes(view) if a.name == column)
    panel = make_panel(view, cost, stage)
    corners = set(panel.line)
    for point in panel.points:
        on_line = (point.x, point.y) in corners
        assert not on_line or point.kind in ON_FRONT
        assert on_line or not point.kind.startswith("front")
    assert any(point.kind.startswith("not separable") for point in panel.points)
    scores = [y for _, y in panel.line]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)


def test_the_chosen_model_is_on_the_front_of_what_it_was_chosen_by(view: StudyView) -> None:
    panel = make_panel(view, cost_axes(view)[0], stages(view)[0])
    (star,) = (p for p in panel.points if p.kind == "chosen")
    assert (star.x, star.y) in panel.line


def test_a_model_worse_than_the_trained_baseline_is_not_on_the_front_after_training(view: StudyView) -> None:
    baseline = view.finalists[0]
    best, good = (baseline.score().model_copy(update={"value": value}) for value in (0.99, 0.95))
    trained = baseline.model_copy(update={"digest": "baselinetrained", "scores": (best,)})
    slow = baseline.model_copy(update={"digest": "slow", "scores": (good,)})
    study = view.model_copy(update={"finalists": (baseline, trained, slow)})
    panel = make_panel(study, cost_axes(view)[0], "finished")
    assert {p.model: p.kind for p in panel.points}["slow"] == "other models"


def test_scores_of_an_earlier_rung_are_not_on_the_front(view: StudyView) -> None:
    early = view.records[1].scores[0].model_copy(update={"value": 0.999})
    lucky = view.records[20].model_copy(update={"scores": (early,), "state": "complete", "reason": "stopped at rung 0"})
    assert early.epochs < last_rung(view)
    records = tuple(lucky if r.digest == lucky.digest else r for r in view.records)
    panel = make_panel(view.model_copy(update={"records": records}), cost_axes(view)[0], "searched")
    (point,) = (p for p in panel.points if p.model == lucky.digest)
    assert point.kind == "stopped early"
    assert (point.x, point.y) not in panel.line


def test_further_baselines_have_marks_of_their_own_off_the_front(view: StudyView) -> None:
    baseline = view.finalists[0]
    trained = baseline.model_copy(update={"digest": "baselinetrained"})
    quick = Latency(device="onnxruntime:cpu", threads=1, batch=1, times_s=(1e-4,))
    int8 = baseline.model_copy(update={"digest": "baselineint8", "origin": "int8 baseline", "latencies": (quick,)})
    study = view.model_copy(update={"finalists": (*view.finalists, trained, int8)})
    panel = make_panel(study, cost_axes(view)[0], "test")
    marks = {p.model: p for p in panel.points}
    assert {"baseline", "trained baseline", "int8 baseline"} <= set(marks)
    assert marks["int8 baseline"].x == pytest.approx(0.1)
    assert panel.line == make_panel(view, cost_axes(view)[0], "test").line


def test_error_bars_are_the_interval_and_the_standard_error(view: StudyView) -> None:
    panel = make_panel(view, cost_axes(view)[0], "test")
    record: Record = view.finalists[1]
    (point,) = (p for p in panel.points if p.model == record.digest)
    latency = record.latencies[-1]
    assert point.x_range == pytest.approx([1e3 * x for x in latency.interval_s], rel=0.05)
    assert point.x_range[0] <= point.x <= point.x_range[1]
    value = record.score("test").value
    assert point.y_error == pytest.approx(100 * (value * (1 - value) / 1000) ** 0.5)
    stated = Score(metric="psnr", value=30.0, split="test", epochs=0, images=10, seed=0, stderr=0.5)
    assert error_of(stated) == 0.5
    assert error_of(stated.model_copy(update={"stderr": None})) is None


def test_a_latency_that_is_no_objective_is_a_share_of_the_trials_baseline_too(view: StudyView) -> None:
    panel = make_panel(view, Axis.of_latency("onnxruntime:cpu"), "searched")
    first = view.records[0].latencies[0].median_s
    assert panel.cost.baseline == first
    for record in view.records[1:]:
        (point,) = (p for p in panel.points if p.model == record.digest)
        assert point.x == pytest.approx(1e3 * record.latencies[0].ratio * first)
        assert point.x_range is not None


def test_what_keeps_a_relative_limit_is_never_drawn_beyond_its_line(view: StudyView) -> None:
    """The machine was half as fast while a trial was timed, the baseline beside it as well."""
    cost = next(a for a in cost_axes(view) if a.device).model_copy(
        update={"limit": 0.9, "relative": True, "baseline": 0.8e-3}
    )
    record = next(r for r in view.records[1:] if r.latencies and r.latencies[0].baseline_times_s)
    slow = record.latencies[0].model_copy(
        update={
            "times_s": tuple(2 * t for t in record.latencies[0].times_s),
            "baseline_times_s": tuple(2 * t for t in record.latencies[0].baseline_times_s),
        }
    )
    late = record.model_copy(update={"latencies": (slow,)})
    study = view.model_copy(update={"records": (view.records[0], late), "finalists": ()})
    panel = make_panel(study, cost, "searched")
    (point,) = (p for p in panel.points if p.model == late.digest)
    assert cost.bound is not None
    assert (point.x > cost.bound * cost.scale[0]) == bool(cost.breach(late))
    assert point.x == pytest.approx(slow.ratio * cost.baseline * cost.scale[0])


def test_an_absolute_limit_moves_with_the_machine_as_the_points_do(view: StudyView) -> None:
    """All of the final run is 3 % slower than the first figure of the baseline, by which limits are judged."""
    axis = next(a for a in cost_axes(view) if a.device)
    final = axis.value(next(r for r in view.finalists if r.digest == "baseline"))
    finalist = next(r for r in view.finalists if r.digest not in BASELINES)
    limit = axis.ratio(finalist) * final / 1.03 * 1.001
    cost = axis.model_copy(update={"limit": limit, "relative": False, "baseline": final / 1.03})
    assert cost.breach(finalist) is None
    panel = make_panel(view, cost, "test")
    (point,) = (p for p in panel.points if p.model == finalist.digest)
    assert panel.cost.bound is not None
    assert point.x <= panel.cost.bound * panel.cost.scale[0]
    assert panel.asked == f"{cost.text(limit)}, {share_text(limit / cost.baseline)}"


def test_a_relative_limit_is_called_by_its_share_whose_line_moves_with_the_baseline(view: StudyView) -> None:
    """The final run took another figure of the baseline than the first one, by which a label in ms would be wrong."""
    axis = next(a for a in cost_axes(view) if a.device)
    final = axis.value(next(r for r in view.finalists if r.digest == "baseline"))
    cost = axis.model_copy(update={"limit": 0.625, "relative": True, "baseline": final / 1.2})
    panel = make_panel(view, cost, "finished")
    assert panel.cost.bound == pytest.approx(0.625 * final)
    assert panel.asked == "62.5 %"


def test_a_lead_that_the_images_do_not_prove_is_marked_on_the_line_and_beside_it(view: StudyView) -> None:
    """One of 1,000 images more at more MACs, one less: neither a model of the front nor one that it beats."""

    def finalist(digest: str, wrong: int, macs: int) -> Record:
        right = np.arange(1000) >= wrong
        known = {"value": float(right.mean()), "right": packed(right), "images": 1000}
        scores = tuple(s.model_copy(update=known) for s in view.finalists[1].scores)
        cost = view.finalists[1].cost.model_copy(update={"macs": macs})
        return view.finalists[1].model_copy(update={"digest": digest, "scores": scores, "cost": cost})

    made = [("cheap", 100, 10), ("lucky", 99, 20), ("unlucky", 101, 15), ("beaten", 150, 16), ("best", 50, 30)]
    finalists = tuple(finalist(*each) for each in made)
    digests = tuple(r.digest for r in finalists)
    study = view.model_copy(update={
        "finalists": finalists, "front": ("best", "lucky", "cheap"), "missed": (), "chosen": "",
        "objectives": (Axis.of_score("accuracy"), Axis.of_cost("macs")),
    })  # fmt: skip
    for stage in ("finished", "test"):
        panel = make_panel(study, Axis.of_cost("macs"), stage)
        assert {p.model: p.kind for p in panel.points} == {
            "cheap": "front", "lucky": "not separable", "unlucky": "not separable", "beaten": "other models",
            "best": "front",
        }  # fmt: skip
        assert [x for x, _ in panel.line] == pytest.approx([1e-5, 2e-5, 3e-5])
    remarks = {row[0]: row[-1] for row in front_rows(study)[1]}
    assert [remarks[d].removesuffix("; noisy") for d in digests] == [
        "", "not separable from cheap", "not separable from cheap", "beaten by cheap", "",
    ]  # fmt: skip


def test_no_panel_calls_front_what_breaks_a_limit_on_another_axis(view: StudyView) -> None:
    """A trial of a search begun under a looser latency limit, on the panel of the parameters."""
    stage = stages(view)[-1]
    cost = next(a for a in cost_axes(view) if a.name == "params")
    front = [p.model for p in make_panel(view, cost, stage).points if p.kind.startswith("front")]
    ratios = {r.digest: r.latency("onnxruntime:cpu").ratio for r in view.records if r.latency("onnxruntime:cpu")}
    slowest = max((m for m in front if m in ratios), key=ratios.__getitem__)
    axes = tuple(
        a.model_copy(update={"limit": 0.99 * ratios[slowest], "relative": True}) if a.device else a
        for a in view.objectives
    )
    tighter = view.model_copy(update={"objectives": axes})
    (point,) = (p for p in make_panel(tighter, cost, stage).points if p.model == slowest)
    assert not point.kind.startswith("front")
