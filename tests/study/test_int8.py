"""A search for an int8 device times and scores the quantized networks."""

import pytest

from ghostsearch import RunConfig, search
from ghostsearch.errors import GhostsearchError
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.study.veto import without_slow

SMALL = {
    "device": ["onnxruntime:cpu:int8"], "trials": 3, "finalists": 1, "seeds": "uniform", "veto": False,
    "objectives": ["score", "latency", "params"],
}  # fmt: skip


def test_trials_are_timed_and_scored_in_int8(tiny, tmp_path):
    view = search(RunConfig(**tiny(tmp_path / "study", **SMALL, keep_float=["stem"])))
    done = [r for r in view.records if r.state == "complete"]
    assert len(done) >= 2, [r.reason for r in view.records]
    assert {x.device for r in view.records for x in r.latencies} == {"onnxruntime:cpu:int8"}
    assert any("quantized to int8" in note for note in view.notes)
    assert "in float within the int8 baseline: stem.0 (Conv)" in view.notes
    assert all(0 < r.score().value <= 1 for r in done)
    (other,) = (r for r in view.finalists if r.digest == "baselinefloat")
    assert other.latency("onnxruntime:cpu:int8").ratio
    assert abs(other.score("test").value - view.finalists[0].score("test").value) < 0.05
    assert "baselinefloat" in (tmp_path / "study" / "front.csv").read_text()
    assert "float baseline" in (tmp_path / "study" / "report.md").read_text()


def test_a_float_study_shows_the_baseline_in_int8(tiny, tmp_path):
    options = {**SMALL, "device": ["onnxruntime:cpu"], "trials": 1, "int8_baseline": True}
    view = search(RunConfig(**tiny(tmp_path / "study", **options)))
    baseline, *_, int8 = view.finalists
    assert (int8.digest, int8.origin) == ("baselineint8", "int8 baseline")
    assert abs(int8.score("test").value - baseline.score("test").value) < 0.05
    assert "int8 baseline" in (tmp_path / "study" / "report.md").read_text()
    assert int8.digest not in view.front


@pytest.mark.parametrize(("options", "message"), [
    ({"keep_float": ["stum"]}, "--keep-float 'stum' matches no layer; nearest: stem"),
    ({"int8_baseline": True, "device": ["torch:cpu"]}, "--int8-baseline is measured on onnxruntime:cpu"),
    ({"int8_baseline": True, "device": ["onnxruntime:cpu"], "calibration_images": 0}, "int8 sets its scales on images"),
    ({"keep_float": ["stem"], "device": ["executorch:xnnpack:int8"]}, "--keep-float has no say on executorch"),
    ({"calibration_images": 0}, "int8 sets its scales on images"),
])  # fmt: skip
def test_what_int8_cannot_be_measured_on_is_told(tiny, tmp_path, options, message):
    with pytest.raises(GhostsearchError, match=message):
        search(RunConfig(**tiny(tmp_path / "study", **{**SMALL, **options})))
    assert not (tmp_path / "study").exists()


def test_an_int8_search_leaves_out_what_is_slow_in_int8_alone():
    space = SearchSpace({"a": ("keep", "ghost(ratio=2, kernel=3)")}, {"a": ("width(1)", "width(0.5)")})
    row = {"site": "a", "choice": "ghost(ratio=2, kernel=3)", "device": "onnxruntime:cpu:int8"}
    devices = ["onnxruntime:cpu", "onnxruntime:cpu:int8"]
    assert "ghost(ratio=2, kernel=3)" not in without_slow(space, [row], devices).sites.get("a", ())
    assert without_slow(space, [{**row, "device": "onnxruntime:cpu"}], devices) == space
