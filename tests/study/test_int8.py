"""A search for an int8 device times and scores the quantized networks."""

import pytest

from ghostsearch import RunConfig, search
from ghostsearch.errors import GhostsearchError

SMALL = {
    "device": ["onnxruntime:cpu:int8"], "trials": 3, "epochs": 0, "final_epochs": 0, "finalists": 1, "time_limit": 0.3,
    "baseline_epochs": 2, "calibration_images": 64, "seeds": "uniform", "veto": False, "train_images": 300,
}  # fmt: skip


def test_trials_are_timed_and_scored_in_int8(tmp_path):
    view = search(RunConfig(out=str(tmp_path / "study"), **SMALL))
    done = [r for r in view.records if r.state == "complete"]
    assert len(done) >= 2, [r.reason for r in view.records]
    assert {x.device for r in view.records for x in r.latencies} == {"onnxruntime:cpu:int8"}
    assert any("quantized to int8" in note for note in view.notes)
    assert all(0 < r.score().value <= 1 for r in done)


def test_int8_needs_images(tmp_path):
    with pytest.raises(GhostsearchError, match="an int8 device sets its scales on images"):
        search(RunConfig(out=str(tmp_path / "study"), **{**SMALL, "calibration_images": 0}))
    assert not (tmp_path / "study").exists()
