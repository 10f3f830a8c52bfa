"""Hypervolume by trial, and how far early rungs foretell late ones."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ghostsearch.records import StudyView
from ghostsearch.report.history import hypervolume_history, rung_curves


def test_hypervolume_never_falls_and_the_baseline_model_adds_none(view: StudyView) -> None:
    curve = hypervolume_history(view)["curve"]
    values = [v for _, v in curve]
    assert curve[0] == [0, 0.0]
    assert all(a <= b for a, b in pairwise(values))
    assert 0 < values[-1] < 1


def test_hypervolume_of_one_model_is_its_box(view: StudyView) -> None:
    baseline, cheap = view.records[0], view.records[1]
    small = view.model_copy(update={"records": (baseline, cheap)})
    # Two scores only: the better one's box is as high as the span, so the cheaper, worse model adds nothing.
    assert hypervolume_history(small)["curve"][-1][1] == pytest.approx(0.0)
    better = baseline.scores[-1].model_copy(update={"value": 0.99})
    cheap = cheap.model_copy(update={"scores": (better,)})
    share = cheap.latencies[0].ratio
    curve = hypervolume_history(view.model_copy(update={"records": (baseline, cheap)}))["curve"]
    assert curve[-1][1] == pytest.approx(1 - share, abs=1e-6)


def test_rank_correlation_is_one_where_ranks_agree(view: StudyView) -> None:
    same = [
        r.model_copy(update={"scores": (s, s.model_copy(update={"epochs": 5.0, "value": s.value / 2}))})
        for r in view.records
        if (s := r.score())
    ]
    found = rung_curves(view.model_copy(update={"records": tuple(r for r in same if r.scores[0].epochs == 3)}))
    first = found["correlations"][0]
    assert first["tau"] == pytest.approx(1.0)
    assert first["models"] == len([r for r in same if r.scores[0].epochs == 3])


def test_too_few_models_make_no_correlation(view: StudyView) -> None:
    few = [r for r in view.records if r.state == "complete"][:3]
    assert rung_curves(view.model_copy(update={"records": tuple(few)}))["correlations"] == []
