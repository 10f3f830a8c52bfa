"""A node of a file is known by the name that its layer has in the network, whatever wraps it."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from ghostsearch.export.export_directory import with_softmax
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.onnx_graph.int8_module import FloatFile
from ghostsearch.measure.onnx_graph.names import layer_of
from ghostsearch.measure.onnx_graph.quantize import Int8Options, float_nodes
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import LoadedModel


class Named(nn.Module):
    """A network whose parts are called as a wrapper might be."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 8, 1)))
        self.model2 = nn.ModuleList([nn.Conv2d(8, 8, 1), nn.Sequential(nn.Conv2d(8, 4, 1))])

    def forward(self, x):
        x = self.model(x)
        for part in self.model2:
            x = part(x)
        return x.mean((2, 3))


def sequential():
    inner = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sequential(nn.Conv2d(8, 4, 1)))
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), inner, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("net", [sequential, Named])
@pytest.mark.parametrize("softmax", [False, True])
def test_layers_have_the_networks_names(net, softmax):
    model = LoadedModel(net().eval(), "", InputSpec(8, 3, (0.0,) * 3, (1.0,) * 3, 8))
    module = with_softmax(model) if softmax else model.module
    file, names = FloatFile.of(module, torch.randn(1, 3, 8, 8)), [n for n, m in model.module.named_modules()
                                                                  if isinstance(m, nn.Conv2d)]  # fmt: skip
    graph = onnx.load_from_string(file.graph).graph
    assert [layer_of(node) for node in graph.node if node.op_type == "Conv"] == names
    kept = file.int8([torch.randn(4, 3, 8, 8)], Int8Options(keep_float=(names[0], names[-1])))
    assert {n.split(" ")[0] for n in float_nodes(kept.graph) if "Conv" in n} == {names[0], names[-1]}


class Shared(nn.Module):
    """A head that is called on maps of two sizes."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))

    def forward(self, x):
        y = self.a(x)
        return self.head(y), self.head(nn.functional.max_pool2d(y, 2))


def test_every_call_of_a_layer_has_its_name_and_stays_in_float_with_it():
    x = torch.randn(1, 3, 16, 16)
    file = FloatFile.of(Shared().eval(), x)
    made = file.int8([torch.randn(4, 3, 16, 16)], Int8Options(keep_float=("head.2",)))
    assert float_nodes(made.graph) == ["head.2 (Conv)"]
    assert {noise.layer for noise in made.noise()} == {"a", "head.0"}
    everything = file.int8([x], Int8Options(keep_float=("head",)))
    assert {name for name in float_nodes(everything.graph) if "Conv" in name} == {"head.0 (Conv)", "head.2 (Conv)"}


def test_what_the_tracing_exporter_cannot_write_has_its_names_too_and_says_nothing(capfd):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(5), nn.Conv2d(4, 2, 1))
    graph = onnx.load_from_string(onnx_bytes(net, torch.randn(1, 3, 14, 14))[0]).graph
    assert [layer_of(node) for node in graph.node if node.op_type == "Conv"] == ["0", "2"]
    assert capfd.readouterr().out == "", "standard output is for what was asked for"


@pytest.mark.parametrize(
    ("layer", "operator"),
    [(nn.ELU, "Elu"), (lambda: nn.PReLU(4), "PRelu"), (lambda: nn.ConvTranspose2d(4, 4, 2), "ConvTranspose"),
     (lambda: nn.ConvTranspose2d(4, 4, 2, groups=2), "ConvTranspose"), (nn.Sigmoid, None), (nn.ReLU, None),
     (nn.LeakyReLU, None), (lambda: nn.MaxPool2d(2), None), (lambda: nn.AvgPool2d(2), None)],
)  # fmt: skip
def test_what_the_runtime_has_in_float_alone_is_told(layer, operator, tmp_path):
    x = torch.randn(1, 3, 16, 16)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), layer(), nn.Conv2d(4, 4, 1)).eval()
    made = FloatFile.of(net, x).int8([x])
    assert float_nodes(made.graph) == ([f"1 ({operator})"] if operator else [])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    onnxruntime.InferenceSession(made.graph, options, providers=["CPUExecutionProvider"])
    run = {node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node}
    assert (operator in run) if operator else not run & {"Sigmoid", "Relu", "LeakyRelu", "AveragePool"}
