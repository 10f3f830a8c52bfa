"""Changes between two studies: which model, and by how much score and costs differ, with honest intervals."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ghostsearch.records import StudyView, packed
from ghostsearch.report.changes import change_rows
from ghostsearch.report.outcome import cost_axes


def table(*views: StudyView) -> dict[str, str]:
    return {name: cells[0] for name, cells in change_rows(views, cost_axes(views[0]))}


def numbers(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"[-+]?\d+\.?\d*(?:e-?\d+)?", text.partition(":")[2])]


def chosen_as(view: StudyView, **changed) -> StudyView:
    finalists = [r.model_copy(update=changed) if r.digest == view.chosen else r for r in view.finalists]
    return view.model_copy(update={"finalists": tuple(finalists)})


def test_the_same_study_twice_changes_nothing(view: StudyView) -> None:
    rows = table(view, view)
    assert rows["chosen model"] == f"{view.chosen}, the same"
    assert numbers(rows["MACs, chosen model"]) == [1.0]
    change, low, high = numbers(rows["test accuracy, chosen model"])
    assert change == 0 > low
    assert high == -low
    quotient, least, most = numbers(rows["latency on onnxruntime:cpu, chosen model"])
    assert quotient == 1
    assert least * most == pytest.approx(1, abs=0.01)


def test_another_model_of_the_front(view: StudyView) -> None:
    before, after = view.record(view.chosen), view.record(view.front[0])
    assert before is not None
    assert after is not None
    rows = table(view, view.model_copy(update={"chosen": after.digest, "front": view.front[:2]}))
    assert rows["models on the front"] == f"{len(view.front)} → 2"
    differing = {k for k in {**before.sites, **after.sites, **before.groups, **after.groups}
                 if (before.sites | before.groups).get(k) != (after.sites | after.groups).get(k)}  # fmt: skip
    assert rows["chosen model"] == f"{before.digest} → {after.digest}: {len(differing)} choices differ"
    assert numbers(rows["MACs, chosen model"]) == [pytest.approx(after.cost.macs / before.cost.macs, rel=0.01)]
    ratios = [r.latencies[0].ratio for r in (before, after)]
    assert numbers(rows["latency on onnxruntime:cpu, chosen model"])[0] == pytest.approx(
        ratios[1] / ratios[0], rel=0.01
    )


def test_scores_on_the_same_images_are_paired_and_on_others_are_not(view: StudyView) -> None:
    score = view.record(view.chosen).score("test")
    right = np.arange(score.images) % 10 != 0
    better = right.copy()
    better[:200] = True
    before, after = (
        chosen_as(view, scores=(score.model_copy(update={"value": x.mean(), "right": packed(x)}),))
        for x in (right, better)
    )
    name = "test accuracy, chosen model"
    change, low, high = numbers(table(before, after)[name])
    assert change == pytest.approx(100 * (better.mean() - right.mean()), rel=0.01)
    assert 0 <= low < change < high
    elsewhere = after.model_copy(update={"config": {**after.config, "data": "folder:others"}})
    _, widest, _ = numbers(table(before, elsewhere)[name])
    assert widest < low
