"""A node of a file is known by the name that its layer has in the network, whatever wraps it."""

import onnx
import pytest
import torch
from torch import nn

from ghostsearch.export.export_directory import with_softmax
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
