import contextlib
import dataclasses
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError, MissingExtraError
from ghostsearch.export.card import write_card
from ghostsearch.export.export_directory import export_directory
from ghostsearch.export.formats.table import FORMATS, get_format
from ghostsearch.export.options import Exporting
from ghostsearch.export.writer import _compare, descriptive_name, export
from ghostsearch.measure.onnx_graph.file import open_onnx
from ghostsearch.measure.onnx_graph.folds import split_ghost_norms
from ghostsearch.measure.onnx_graph.module import cpu_session
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import LoadedModel, example_input, load_model
from ghostsearch.records import Cost, Record, Score
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.preset import Preset, SiteRule
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.saved import SavedModel, load_directory, save
from ghostsearch.surgery.sites import find_sites
from ghostsearch.version import VERSION


def ghosted(spec: str, choice: str = "ghost(ratio=2, kernel=3)", size: int | None = None) -> SavedModel:
    """A converted network whose statistics and scales differ from their initial values."""
    loaded = load_model(spec, size=size)
    example = example_input(loaded.input)
    rules = Preset(sites=(SiteRule(choices=(choice,)),))
    architecture = rules.resolve(find_sites(loaded.module, example)).uniform(choice)
    module = convert(loaded.module, architecture, example=example)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith(("running_mean", "running_var", "bias")):
                value.add_(torch.rand(value.shape, generator=generator) * 0.2)
            elif value.dim() > 1:
                # Fresh weights give outputs that hardly depend on the image; then a check would prove little.
                value.mul_(2)
    return SavedModel(module, loaded.spec, loaded.input, architecture=architecture)


@pytest.fixture(scope="module")
def digits() -> SavedModel:
    return ghosted("ghostsearch:digits_cnn")


@pytest.fixture(scope="module")
def resnet() -> SavedModel:
    return ghosted("torchvision:resnet18", size=32)


@pytest.fixture(scope="module")
def resnet_file(resnet: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("resnet") / "net.onnx"
    export(resnet, "onnx", out)
    return out


@pytest.mark.parametrize("name", list(FORMATS))
def test_file_computes_what_the_module_does(name: str, digits: SavedModel, tmp_path: Path) -> None:
    package = {"openvino": "openvino", "executorch": "executorch"}.get(name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    form = get_format(name)
    out = tmp_path / f"net{form.suffix}"
    result = export(digits, name, out)
    assert result.batch == f"1 to {form.max_batch}"
    assert result.size_bytes == sum(f.stat().st_size for f in tmp_path.iterdir())
    assert result.max_difference < 1e-4 * result.largest_output
    # An own look at the published file, on images and a batch that the check has not used.
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        wanted = digits.module(images).numpy()
    assert np.ptp(wanted, axis=0).max() > 0.01, "the outputs do not depend on the image: nothing is proved"
    np.testing.assert_allclose(form.open(out)(images)[0], wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_file_that_computes_something_else_is_refused(
    digits: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ghostsearch.export.formats.torch_export import TorchExport

    write = TorchExport.write

    def spoil(self: TorchExport, program: torch.export.ExportedProgram, path: Path, notes: dict[str, str]) -> None:
        name, value = next(iter(program.state_dict.items()))
        program.state_dict[name] = nn.Parameter(value * 3)
        write(self, program, path, notes)

    monkeypatch.setattr(TorchExport, "write", spoil)
    with pytest.raises(GhostsearchError, match=r"computes something else: an output of up to .* differs by"):
        export(digits, "torch-export", tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_no_needless_gather_or_slice(resnet: SavedModel, resnet_file: Path) -> None:
    """Every channel count of resnet18 divides by two, so a ghost is two convolutions and a concatenation."""
    graph = onnx.load(resnet_file).graph
    kinds = [node.op_type for node in graph.node]
    ghosts = len(resnet.architecture.sites)
    assert kinds.count("Concat") == ghosts
    assert kinds.count("Conv") == 20 + ghosts
    assert not {"Gather", "Slice", "Split", "Transpose", "Identity", "ScatterND"} & set(kinds)


def test_the_file_names_its_model_and_no_path_of_this_machine(resnet: SavedModel, resnet_file: Path) -> None:
    content = resnet_file.read_bytes()
    assert os.fsencode(Path(__file__).parents[2]) not in content
    assert b"site-packages" not in content
    notes = {p.key: p.value for p in onnx.load(resnet_file).metadata_props}
    assert notes["ghostsearch.model"] == "torchvision:resnet18"
    assert notes["ghostsearch.digest"] == resnet.architecture.digest
    assert notes["ghostsearch.mean"] == "0.485 0.456 0.406"


def test_normalisation_split_for_int8_is_exact(resnet: SavedModel, resnet_file: Path) -> None:
    model = onnx.load(resnet_file)
    assert split_ghost_norms(model) == len(resnet.architecture.sites)
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in kinds
    images = example_input(resnet.input, batch=2)
    before = cpu_session(resnet_file.read_bytes(), 1).run(None, {"image": images.numpy()})[0]
    after = cpu_session(model.SerializeToString(), 1).run(None, {"image": images.numpy()})[0]
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize(
    ("spec", "architecture", "name"),
    [
        ("torchvision:resnet50", Architecture(), "resnet50@4.1GMACs"),
        ("ghostsearch:digits_cnn", Architecture.of({"a": "ghost(ratio=2, kernel=3)"}), "digits_cnn_ghost@"),
        (
            "ghostsearch:resnet20",
            Architecture.of({"a": "lowrank(rank=0.5)", "b": "ghost(ratio=2, kernel=3)"}, {"c": "width(0.5)"}),
            "resnet20_ghost_lowrank_width@40.6MMACs",
        ),
    ],
)
def test_descriptive_name(spec: str, architecture: Architecture, name: str) -> None:
    loaded = load_model(spec)
    found = descriptive_name(SavedModel(loaded.module, loaded.spec, loaded.input, architecture=architecture))
    assert found.startswith(name)


def test_a_model_that_fixes_its_batch(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).sum((2, 3)).reshape(1, 4)

    result = export(LoadedModel(Fixed().eval(), "", InputSpec(8)), "onnx", tmp_path / "net.onnx")
    assert result.batch == "1"


def test_a_model_that_cannot_be_exported(tmp_path: Path) -> None:
    class Stubborn(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * np.random.default_rng(int(x.sum().item())).random()

    with pytest.raises(GhostsearchError, match="format onnx cannot") as told:
        export(LoadedModel(Stubborn(), "", InputSpec(8)), "onnx", tmp_path / "net.onnx")
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_a_directory(digits: SavedModel, tmp_path: Path) -> None:
    save(digits.module, tmp_path / "model", source=digits, architecture=digits.architecture)
    found = export_directory(tmp_path / "model", Exporting(to="torch-export"))
    path = Path(found["path"])
    assert path.parent == tmp_path / "model"
    assert path.name.startswith("digits_cnn_ghost@")
    assert load_directory(tmp_path / "model").architecture == digits.architecture


def test_a_file_says_what_its_user_must_know(digits: SavedModel, tmp_path: Path) -> None:
    """Named axes, classes, preprocessing, figures; a softmax where asked for; the card says the same."""
    source = dataclasses.replace(digits, categories=tuple(f"digit <{i}>" for i in range(10)))
    folder = tmp_path / "models" / "aa"
    save(digits.module, folder, source=source, architecture=digits.architecture)
    score = Score(metric="accuracy", value=0.5, split="test", epochs=1, images=9, seed=0)
    for name, macs in (("aa", 100), ("baselinetrained", 200)):
        record = Record(number=0, digest=name, origin="sampler", state="complete", scores=(score,),
                        cost=Cost(params=1, macs=macs, size_bytes=4))  # fmt: skip
        (folder.parent / name).mkdir(exist_ok=True)
        (folder.parent / name / "record.json").write_text(record.model_dump_json())
    found = export_directory(folder, Exporting(with_softmax=True))
    file = open_onnx(Path(found["path"]))
    notes = file.module.notes
    assert file.module.inputs == {"image": ("batch", 1, 8, 8)}
    assert [x.name for x in file.module.session.get_outputs()] == ["output"]
    assert json.loads(notes["classes"])[3] == "digit <3>"
    assert json.loads(notes["record"]) == {"test accuracy": 0.5, "params": 1, "macs": 100, "size_bytes": 4}
    assert json.loads(notes["baseline"])["macs"] == 200
    assert (notes["version"], notes["output"]) == (VERSION, "probabilities")
    assert file.input == digits.input or file.input == dataclasses.replace(digits.input, resize=8)
    images = example_input(digits.input, 3)
    with torch.no_grad():
        assert torch.allclose(file.module(images), digits.module(images).softmax(1), atol=1e-5)
    card = Path(found["card"]).read_text()
    assert "digit &lt;3&gt;" in card
    assert "| MACs | 100 | 200 |" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    with contextlib.chdir(folder):
        exec(code, names := {})
    assert names["outputs"][0].shape == (1, 10)


@pytest.mark.parametrize(
    ("size", "batch", "said"),
    [
        (
            64,
            "1 to 1024",
            "resized to 64 on the shorter side (bilinear), then cropped to the centre. The batch is free.",
        ),
        ((32, 100), "any", "images stretched to 32 × 100 (bilinear). The batch is free."),
        ((500,), "1", "per channel. The batch is 1."),
    ],
)
def test_the_card_says_how_an_image_comes_to_its_size(size, batch: str, said: str, tmp_path: Path) -> None:
    spec = InputSpec(size, 1, (0.5,), (0.5,))
    model = LoadedModel(nn.Identity(), "toy:net", spec)
    assert said in write_card(tmp_path / "net.onnx", model, {}, {"batch": batch}).read_text()


@pytest.mark.parametrize(("device", "said"), [("onnxruntime:cpu:int8", True), ("onnxruntime:cpu", False)])
def test_the_card_of_an_int8_study_says_what_its_scores_are_of(device: str, said: bool, tmp_path: Path) -> None:
    known = {"model": {"test accuracy": 0.5, f"latency_s[{device}]": 0.001}}
    model = LoadedModel(nn.Identity(), "toy:net", InputSpec(64, 1, (0.5,), (0.5,)))
    card = write_card(tmp_path / "net.onnx", model, known, {"batch": "1"}).read_text()
    assert ("Scores are those of the networks in int8." in card) is said


def test_a_damaged_record_is_one_line(digits: SavedModel, tmp_path: Path) -> None:
    save(digits.module, tmp_path, source=digits, architecture=digits.architecture)
    (tmp_path / "record.json").write_text('{"number": ')
    with pytest.raises(GhostsearchError, match=r"record\.json is damaged"):
        export_directory(tmp_path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"to": "tflite"}, "no format is called 'tflite'; choose from onnx, torch-export"),
        ({"out": "net.bin"}, "a file of format onnx ends in .onnx"),
        ({"int8": True}, "--int8 needs images to calibrate on; add --calibrate"),
        ({"int8": True, "to": "openvino"}, "--int8 writes onnx or executorch, not openvino"),
        ({"int8": True, "calibrate": "digits", "out": "net.pte"}, "a file of format onnx ends in .onnx"),
        ({"calibrate": "digits"}, "--calibrate is for --int8; add it, or leave --calibrate out"),
        ({"keep_float": ["stem"]}, "--keep-float is for --int8"),
    ],
)
def test_bad_requests(options: dict[str, object], match: str, digits: SavedModel, tmp_path: Path) -> None:
    save(digits.module, tmp_path, source=digits, architecture=digits.architecture)
    with pytest.raises(GhostsearchError, match=match):
        export_directory(tmp_path, Exporting(**options))


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ghostsearch.export.formats.openvino_format import OpenVino

    monkeypatch.setattr(OpenVino, "package", "no_such_runtime")
    with pytest.raises(MissingExtraError, match="pip install"):
        get_format("openvino")


def test_an_unwritable_place(digits: SavedModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(GhostsearchError, match="cannot be written"):
        export(digits, "torch-export", tmp_path / "file" / "net.pt2")


class TwoOutputs(nn.Module):
    """Probabilities beside values ten thousand times as large, and signs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.net(x)
        return y.softmax(1), 1e4 * y, y > 0


@pytest.mark.parametrize("spoiled", [None, 0, 1, 2])
@pytest.mark.parametrize("value", [0.2, np.nan])
def test_every_output_is_judged_by_its_own_size(spoiled: int | None, value: float) -> None:
    net = TwoOutputs().eval()

    def run(images: torch.Tensor) -> list[np.ndarray]:
        with torch.no_grad():
            found = [y.numpy() for y in net(images)]
        if spoiled is not None:
            found[spoiled] = ~found[2] if spoiled == 2 else np.full_like(found[spoiled], value)
        return found

    model = LoadedModel(net, "", InputSpec(8, 3, (0.0,) * 3, (1.0,) * 3, 8))
    if spoiled is None:
        assert _compare(run, net, model, 8)[0] == 0
    else:
        with pytest.raises(GhostsearchError, match="computes something else"):
            _compare(run, net, model, 8)
