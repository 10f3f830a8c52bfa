"""A search for an int8 device times and scores the quantized networks."""

import dataclasses
from types import SimpleNamespace

import onnx
import pytest
import torch
from torch import nn

from ghostsearch import RunConfig, search
from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.export.export_directory import export_directory
from ghostsearch.export.formats.onnx_format import with_notes
from ghostsearch.export.options import Exporting
from ghostsearch.measure.devices.executorch_xnnpack import ExecutorchXnnpack
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.onnx_graph.quantize import float_nodes
from ghostsearch.records import Record
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.study.directory import write_run
from ghostsearch.study.int8_layers import int8_layers, judged_layers
from ghostsearch.study.kept import save_model
from ghostsearch.study.setup import call_here, open_setup
from ghostsearch.study.veto import without_slow
from ghostsearch.study.watch import Watch

pytestmark = pytest.mark.usefixtures("hasty")

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
    assert "## Layers in int8" in (tmp_path / "study" / "report.md").read_text()
    _check_layers(view, tmp_path / "study")
    found = export_directory(tmp_path / "study", Exporting(int8=True), allow_code=True)
    assert found["score"] == view.record(view.chosen).score("test").value, "the file is what was scored"
    assert found["float_nodes"] == ("stem.0 (Conv)",), "with what the study keeps in float"


def test_a_model_that_counts_its_images_itself_is_searched_without_labels(tmp_path):
    """Its graphs take one image, and its forward asks for a view, which one memory order alone allows."""

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
            self.linear = nn.Linear(16 * 64, 5)

        def forward(self, x):
            return self.linear(self.second(self.first(x).relu()).relu().view(len(x), -1))

    images = tuple(torch.randn(n, 3, 8, 8) for n in (64, 40, 40))
    options = {**SMALL, "epochs": 0, "final_epochs": 0, "space": "ghost", "trials": 2, "sampler": "random"}
    view = search(model=Counted().eval(), data=images, out=str(tmp_path / "study"), **options)
    assert [r.state for r in view.records] == ["complete", "complete"], [r.reason for r in view.records]


def _check_layers(view, folder):
    baseline, model = view.int8_layers
    assert (baseline.digest, model.digest) == ("baseline", view.chosen)
    for row in view.int8_layers:
        assert row.in_float == ("stem.0 (Conv)",), "listed of each model, with what the study keeps in float"
        assert all(x.layer != "stem.0" and x.latency_ratio > 0 and x.ratio_interval for x in row.noisiest)
    assert len(baseline.noisiest) > len(model.noisiest) == 1
    assert [x.snr_db for x in baseline.noisiest] == sorted(x.snr_db for x in baseline.noisiest)
    assert all(x.score.split == "validation" and x.score.right for x in baseline.noisiest)
    wanted = Exporting(int8=True, keep_float=("stem", model.noisiest[0].layer), out=str(folder / "kept.onnx"))
    left = export_directory(folder / "models" / model.digest, wanted, allow_code=True)["float_nodes"]
    assert any(x.startswith(f"{model.noisiest[0].layer} (") for x in left), "the name is what --keep-float takes"


@pytest.fixture
def int8_plan(tmp_path):
    """What the layers of a baseline and a finalist are judged with, as far as none of them can be opened."""
    config = RunConfig(device=["onnxruntime:cpu:int8"], out=str(tmp_path))
    records = [Record(number=i, digest=d, origin="solver", state="complete") for i, d in enumerate(["baseline", "0a"])]
    return SimpleNamespace(config=config, setup=SimpleNamespace(baseline=SimpleNamespace(module=None))), records


def test_a_model_whose_layers_cannot_be_judged_does_not_take_the_outcome_away(int8_plan, tmp_path):
    with pytest.warns(GhostsearchWarning, match=r"(baseline|0a): its layers in int8 were not judged") as told:
        assert int8_layers(*int8_plan, Watch(tmp_path)) == []
    assert len(told) == 2


def test_an_interrupted_search_and_one_without_time_judge_no_layer(int8_plan, tmp_path, recwarn):
    assert int8_layers(*int8_plan, Watch(tmp_path, interrupted=lambda: True)) == []
    assert int8_layers(*int8_plan, Watch(tmp_path, budget_s=0.0)) == []
    assert not recwarn


@pytest.mark.parametrize("device", ["onnxruntime:cpu", "executorch:xnnpack:int8"])
def test_layers_are_judged_where_int8_is_an_onnx_graph(device):
    assert judged_layers(RunConfig(device=[device]), 3) == ()


@pytest.fixture
def finalist(tiny, tmp_path):
    """A study's directory with a finished model: its setup, the model, and where it is kept."""

    def made(device, **changed):
        config = RunConfig(**tiny(tmp_path, **{**SMALL, "device": [device], **changed}, seed=3))
        write_run(tmp_path, config)
        setup, architecture = open_setup(config), Architecture.of({"block1.1.project": "ghost(ratio=2, kernel=3)"})
        model = setup.convert(architecture)
        return setup, model, save_model(setup, model, architecture, tmp_path / "models" / "kept")

    return made


def test_a_finalist_is_scored_by_the_very_file_that_export_writes(finalist, tmp_path):
    setup, model, folder = finalist("onnxruntime:cpu:int8")
    scored = setup.deployed(model)
    found = export_directory(folder, Exporting(int8=True, out=str(tmp_path / "net.onnx")), allow_code=True)
    assert found["score"] == setup.score_as_it_is(scored, "test", 0).value
    written, wanted = onnx.load(tmp_path / "net.onnx"), with_notes(onnx.load_from_string(scored.graph), {})
    del written.metadata_props[:], wanted.metadata_props[:]
    assert written.SerializeToString() == wanted.SerializeToString(), "but for the notes on the model"


def test_each_file_that_is_tried_has_one_more_layer_in_float(finalist, tmp_path):
    setup, model, _ = finalist("onnxruntime:cpu:int8", keep_float=["stem"])
    save_model(setup, setup.baseline.module, Architecture(), tmp_path / "models" / "baseline")
    timed = []

    def spy(place, function, files, example, *, baseline, **options):
        timed.append((baseline.graph, {layer: file.graph for layer, file in files.items()}))
        return call_here(place, function, files, example, baseline=baseline, **options)

    plan = SimpleNamespace(config=setup.config, setup=dataclasses.replace(setup, on_device=spy))
    records = [Record(number=0, digest=d, origin="solver", state="complete") for d in ("baseline", "kept")]
    found = int8_layers(plan, records, Watch(tmp_path))
    assert [x.digest for x in found] == ["baseline", "kept"]
    for module, row, (int8, tried) in zip((setup.baseline.module, model), found, timed, strict=True):
        assert float_nodes(int8) == ["stem.0 (Conv)"]
        noise = setup.int8_graph(module).noise()
        assert [(x.layer, x.snr_db) for x in row.noisiest] == [(x.layer, x.snr_db) for x in noise[: len(row.noisiest)]]
        assert list(tried) == [x.layer for x in row.noisiest]
        for layer in row.noisiest:
            left = {text.partition(" (")[0] for text in float_nodes(tried[layer.layer])}
            assert {"stem.0", layer.layer} <= left
            assert layer.score == setup.score_as_it_is(OnnxModule(tried[layer.layer]), "validation", 0)


def test_a_finalist_for_executorch_is_lowered_as_export_lowers_it(finalist, monkeypatch):
    """The same weights and images give the same bytes, in some 20 seconds each."""
    pytest.importorskip("executorch")
    setup, model, folder = finalist("executorch:xnnpack:int8")
    lowered = []

    def lower(_, module, example, calibration):
        images = list(calibration)
        if images:
            lowered.append((module.state_dict(), example, torch.cat(images)))
            raise GhostsearchError("that will do")

    monkeypatch.setattr(ExecutorchXnnpack, "lower", lower)
    for go in (
        lambda: setup.deployed(model),
        lambda: export_directory(folder, Exporting(int8=True, to="executorch"), allow_code=True),
    ):
        with pytest.raises(GhostsearchError, match="that will do"):
            go()
    ours, theirs = lowered
    assert all(torch.equal(ours[0][k], theirs[0][k]) for k in (ours[0] | theirs[0]))
    assert ours[1].shape == theirs[1].shape
    assert torch.equal(ours[2], theirs[2])
    assert len(ours[2]) == 64


def test_images_that_only_code_can_open_are_not_opened_for_an_export_that_may_run_none(tiny, tmp_path):
    config = RunConfig(**tiny(tmp_path, **{**SMALL, "data": "some.package:loaders", "model": "ghostsearch:digits_cnn"}))
    setup = open_setup(RunConfig(**tiny(tmp_path, **{**SMALL, "model": "ghostsearch:digits_cnn"})))
    write_run(tmp_path, config)
    save_model(setup, setup.baseline.module, Architecture(), tmp_path / "models" / "kept")
    with pytest.raises(GhostsearchError, match=r"some\.package:loaders.*are code that exporting.*--allow-code"):
        export_directory(tmp_path / "models" / "kept", Exporting(int8=True))


def test_layers_that_a_study_keeps_in_float_are_named_where_the_format_cannot(tiny, tmp_path):
    config = RunConfig(**tiny(tmp_path, **{**SMALL, "model": "ghostsearch:digits_cnn", "keep_float": ["stem"]}))
    setup = open_setup(config)
    write_run(tmp_path, config)
    save_model(setup, setup.baseline.module, Architecture(), tmp_path / "models" / "kept")
    with pytest.raises(GhostsearchError, match=r"keeps layers in float \(stem\).*--calibrate DATA"):
        export_directory(tmp_path / "models" / "kept", Exporting(int8=True, to="executorch"), allow_code=True)


def test_a_float_study_shows_the_baseline_in_int8(tiny, tmp_path):
    options = {**SMALL, "device": ["onnxruntime:cpu"], "trials": 1, "int8_baseline": True}
    view = search(RunConfig(**tiny(tmp_path / "study", **options)))
    baseline, *_, int8 = view.finalists
    assert (int8.digest, int8.origin) == ("baselineint8", "int8 baseline")
    assert int8.cost.size_bytes < baseline.cost.size_bytes
    assert (int8.cost.macs, int8.cost.peak_memory_bytes) == (baseline.cost.macs, None)
    assert abs(int8.score("test").value - baseline.score("test").value) < 0.05
    assert "int8 baseline" in (tmp_path / "study" / "report.md").read_text()
    assert int8.digest not in view.front


@pytest.mark.parametrize(("options", "message"), [
    ({"keep_float": ["nothing.here"]}, r"matches no layer; nearest: \w"),
    ({"keep_float": ["stum"]}, "--keep-float 'stum' matches no layer; nearest: stem"),
    ({"int8_baseline": True, "device": ["torch:cpu"]}, "--int8-baseline is measured on onnxruntime:cpu"),
    ({"int8_baseline": True, "device": ["onnxruntime:cpu"], "calibration_images": 0}, "int8 sets its scales on images"),
    ({"keep_float": ["stem"], "device": ["executorch:xnnpack:int8"]}, "--keep-float has no say on executorch"),
    ({"calibration_images": 0}, "int8 sets its scales on images"),
    ({"keep_float": ["stem"], "device": ["onnxruntime:cpu"]}, "--keep-float is for a --device in int8"),
    ({"distill_steps": 5, "calibration_images": 0, "device": ["onnxruntime:cpu"]}, "--distill-steps needs images"),
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
