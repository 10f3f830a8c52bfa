"""The int8 file: what is quantized, what stays float, how noisy each layer is; nets that give maps or lists too."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from ghostsearch.data.load import Data
from ghostsearch.errors import GhostsearchError
from ghostsearch.export.export_directory import task_of
from ghostsearch.export.int8 import Judges, quantize, quantize_for_executorch
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.int8_module import FloatFile, feeds
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.onnx_graph.quantize import Int8Options, float_nodes, quantized
from ghostsearch.measure.setting import Setting
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import LoadedModel
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert
from ghostsearch.training.tasks.classification import Classification

QUICK = Setting(time_limit=0.1)
IMAGES = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(1))
INPUT = InputSpec(channels=3, size=12, mean=(0.0,) * 3, std=(1.0,) * 3)


class Stages(nn.Module):
    """Two convolutions in a container, with norms, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Maps(Stages):
    """Class maps at half the size, as segmentation nets give them."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.body(x)[:, :, ::2, ::2]}


class Finder(Stages):
    """As many rows as positions found in one image, like a detector."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        maps = self.body(x)
        return [{"rows": y.flatten(1).T[y.flatten(1).sum(0) > 0]} for y in maps]


def loaded(kind: type[nn.Module]) -> LoadedModel:
    torch.manual_seed(0)
    return LoadedModel(kind().eval(), f"tests:{kind.__name__}", INPUT)


def judged(model: LoadedModel, out: Path, **options: object):
    with torch.no_grad():
        labels = model.module(IMAGES).argmax(1)
    judges = Judges([(IMAGES, labels)], Classification(), QUICK, Int8Options(**options))
    return quantize(model, IMAGES.split(16), out, judges)


def test_a_layer_that_a_studys_model_has_lost_is_no_mistake(tmp_path: Path) -> None:
    """A study keeps layers of its baseline in float, of which a dropped branch leaves none."""
    kept, model = Int8Options(keep_float=("gone.*",)), loaded(Stages)
    result = quantize(model, IMAGES.split(16), tmp_path / "net.onnx", Judges([], None, QUICK, kept, must_match=False))
    assert result.size_bytes == (tmp_path / "net.onnx").stat().st_size


def test_everything_is_quantized_and_the_figures_are_the_files_own(tmp_path: Path) -> None:
    result = judged(loaded(Stages), tmp_path / "net.onnx")
    assert result.size_bytes == (tmp_path / "net.onnx").stat().st_size
    assert result.float_score == 1.0
    assert result.score > 0.8
    assert result.calibration_images == 32
    assert 0 < result.ratio_interval[0] <= result.latency_ratio <= result.ratio_interval[1]
    assert result.float_nodes == ("ReduceMean (ReduceMean)",), "the runtime has no such kernel in int8"
    assert {x.layer for x in result.noisiest} == {"body.0.0", "body.1.0", "head"}
    assert [x.snr_db for x in result.noisiest] == sorted(x.snr_db for x in result.noisiest)
    assert result.kept_float.layer == result.noisiest[0].layer
    model = onnx.load(tmp_path / "net.onnx")
    maker = {name: node.op_type for node in model.graph.node for name in node.output}
    assert all(maker[n.input[0]] == "DequantizeLinear" for n in model.graph.node if n.op_type == "Conv")
    assert {p.key: p.value for p in model.metadata_props}["ghostsearch.model"] == "tests:Stages"


def test_an_executorch_program_is_quantized_run_and_scored(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    model, out = loaded(Stages), tmp_path / "net.pte"
    with torch.no_grad():
        labels = model.module(IMAGES).argmax(1)
    judges = Judges([(IMAGES, labels)], Classification(), QUICK)
    result = quantize_for_executorch(model, IMAGES.split(16), out, judges)
    assert out.stat().st_size == result.size_bytes
    assert (result.float_score, result.calibration_images, result.runtime) == (1.0, 32, "ExecuTorch")
    assert result.score > 0.8
    assert not [x for x in result.float_nodes if "conv" in x]
    with pytest.raises(GhostsearchError, match="--keep-float is for ONNX files"):
        quantize_for_executorch(model, [IMAGES], out, Judges([], options=Int8Options(keep_float=("head",))))


@pytest.mark.parametrize(
    ("glob", "left"), [("body.1", {"body.1.0", "body.1.2", "ReduceMean"}), ("head", {"head", "ReduceMean"})]
)
def test_a_layer_kept_in_float_is_listed_and_has_no_noise(tmp_path: Path, glob: str, left: set[str]) -> None:
    result = judged(loaded(Stages), tmp_path / "net.onnx", keep_float=(glob,))
    kept = {x.partition(" ")[0] for x in result.float_nodes}
    assert kept
    assert kept <= left
    assert not any(x.layer.startswith(glob) for x in result.noisiest)


def test_a_glob_that_matches_nothing_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(GhostsearchError, match=r"--keep-float 'body\.2' matches no layer; nearest: body"):
        judged(loaded(Stages), tmp_path / "net.onnx", keep_float=("body.2",))
    assert not (tmp_path / "net.onnx").exists()


def test_the_noisiest_layer_is_the_one_whose_weights_have_an_outlier() -> None:
    net = Stages().eval()
    with torch.no_grad():
        # The channel that it multiplies is silent, so the float network does not notice.
        net.body[0][1].weight[0], net.body[0][1].bias[0] = 0.0, 0.0
        net.body[1][0].weight[:, 0, 1, 1] = 1e4
    graph, names = onnx_bytes(net, IMAGES[:16])
    noise = quantized(graph, feeds(names, IMAGES.split(16)), Int8Options(equalize=False)).noise()
    assert noise[0].layer == "body.1.0"
    assert noise[0].snr_db < 3 < 20 < noise[1].snr_db


def test_a_ghost_is_named_by_its_parts_and_kept_whole() -> None:
    net = convert(Stages().eval(), Architecture.of({"body.1.0": "ghost(ratio=2, kernel=3)"}), example=IMAGES[:1])
    graph, names = onnx_bytes(net, IMAGES[:16])
    found = quantized(graph, feeds(names, IMAGES.split(16)), Int8Options(keep_float=("body.1.0",)))
    kept = {x.partition(" ")[0] for x in float_nodes(found.graph)}
    assert {"body.1.0.primary", "body.1.0.cheap"} <= kept
    assert {x.layer for x in found.noise()} == {"body.0.0", "head"}


class OneImage(Stages):
    """Takes one image at a time."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)).view(1, 8))


def test_the_graph_of_a_net_for_one_image_is_quantized_and_run_image_by_image() -> None:
    net = loaded(OneImage).module
    file = FloatFile.of(net, IMAGES[:1])
    assert not file.takes_batches
    assert FloatFile.of(loaded(Stages).module, IMAGES[:1]).takes_batches
    small = OnnxModule(file.int8(IMAGES.split(16)).graph)
    with torch.no_grad():
        wanted = torch.cat([net(x[None]) for x in IMAGES[:5]])
    assert (OnnxModule(file.graph)(IMAGES[:5]) - wanted).abs().max() < 1e-5
    assert 0 < (small(IMAGES[:5]) - wanted).abs().max() < 0.1 * wanted.abs().max()


class Branching(Stages):
    """Goes another way where an image is bright, which random ones are not."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.mean() < 1 else -super().forward(x)


def test_a_graph_that_does_not_give_what_the_module_gives_on_the_users_images_is_refused(tmp_path: Path) -> None:
    model, judges = loaded(Branching), Judges([], None, QUICK)
    with pytest.raises(GhostsearchError, match=r"ONNX graph .* computes something else: an output of up to"):
        quantize(model, [IMAGES + 2], tmp_path / "net.onnx", judges)
    assert not list(tmp_path.iterdir())
    assert quantize(model, [IMAGES], tmp_path / "net.onnx", judges).path


@pytest.mark.parametrize("kind", [Maps, Finder])
def test_maps_and_lists_are_quantized_and_run(tmp_path: Path, kind: type[nn.Module]) -> None:
    model, labels = loaded(kind), torch.zeros(32, dtype=torch.long)
    data = Data("images", [], [], [(IMAGES, labels)], kind="class")
    task = task_of(None, data, model)
    assert (task is None) == (kind is Finder)
    result = quantize(model, IMAGES.split(16), tmp_path / "net.onnx", Judges(data.test, task, QUICK))
    assert result.metric == ("" if kind is Finder else "mIoU against the baseline")
    assert result.score is None if kind is Finder else result.score > 0.5
    assert (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Identity()])
def test_what_an_activation_cuts_off_is_no_noise(activation: nn.Module) -> None:
    conv = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        # Most of the outputs lie beyond ReLU6's upper end.
        conv.weight.mul_(20)
    net = nn.Sequential(conv, activation, nn.Conv2d(8, 4, 1)).eval()
    graph, names = onnx_bytes(net, IMAGES, free_batch=True)
    assert min(x.snr_db for x in quantized(graph, feeds(names, IMAGES.split(16))).noise()) > 25
