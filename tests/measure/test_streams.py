"""The sums behind a layer: which ones its output reaches, and what spoiling them adds to a prediction."""

import numpy as np
import pytest
import torch
from torch import nn

from ghostsearch.measure.cells import CellStore, CellTime
from ghostsearch.measure.cost_table import encode
from ghostsearch.measure.latency_table import UNCORRECTED
from ghostsearch.measure.layers import timed_layers
from ghostsearch.measure.profiling import Network, profile
from ghostsearch.measure.setting import Setting
from ghostsearch.measure.streams import SUMS, Stream, WithSums, find_streams, one_sum_each, spoiled_sums
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.space.preset import parse_preset
from ghostsearch.surgery.sites import find_sites

GHOST = "ghost(ratio=4, kernel=3)"


class Block(nn.Module):
    """A residual block with its sum in place, as torchvision writes it."""

    def __init__(self, channels: int, first: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(first or channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Conv2d(first, channels, 1) if first else None

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x) if self.shortcut else x
        return self.relu(y)


def residual():
    torch.manual_seed(0)
    blocks = [Block(32, 3), Block(32), Block(32)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()


def test_a_stream_is_the_sums_that_an_output_reaches_before_another_layer():
    streams = find_streams(residual())
    three, two, one = (streams[f"{i}.conv2"].sums for i in range(3))
    assert (len(three), len(two), len(one)) == (3, 2, 1)
    assert three[1:] == two
    assert two[1:] == one
    assert streams["0.shortcut"].sums == three
    # A block's first convolution is read by the second alone.
    assert "0.conv1" not in streams
    assert "0.bn2" not in streams, "what the sums' cells do not replace"
    assert all(s.relu for s in streams.values())


def test_sums_without_a_relu_say_so():
    class Linear(Block):
        def forward(self, x):
            return self.conv2(self.conv1(x)) + x

    assert find_streams(nn.Sequential(Linear(8)))["0.conv2"] == Stream(("add",), relu=False)
    behind = find_streams(nn.Sequential(Linear(8), Block(8)))["0.conv2"]
    assert (len(behind.sums), behind.relu) == (2, False), "the first sum's activation is the stream's"


def test_an_activation_that_is_called_lets_a_stream_through():
    class Called(Block):
        def forward(self, x):
            return torch.relu(self.conv2(self.conv1(x)) + x)

    assert len(find_streams(nn.Sequential(Called(8), Called(8)))["0.conv2"].sums) == 2


def test_sums_without_a_relu_are_timed_without():
    torch.manual_seed(0)
    layer, x = WithSums(nn.Identity(), nn.Conv2d, 2, relu=False), torch.randn(1, 2, 4, 4)
    stream = x
    for branch in layer.branches:
        stream = branch(stream) + stream
    assert (stream < 0).any()
    assert torch.equal(layer(x), stream)


def test_a_forward_that_torch_fx_cannot_follow_has_no_streams():
    class Moody(Block):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    assert find_streams(nn.Sequential(Moody(8))) == {}


def test_a_sum_in_place_stands_between_a_norm_and_the_activation():
    model, example = residual(), torch.randn(1, 3, 8, 8)
    layers = {x.path: x for x in timed_layers(model, example, find_sites(model, example))}
    assert [type(f) for f in layers["1.conv1"].followers] == [nn.BatchNorm2d, nn.ReLU]
    assert [type(f) for f in layers["1.conv2"].followers] == [nn.BatchNorm2d]


def test_a_cell_with_sums_runs_them_behind_its_layer():
    model, example = residual(), torch.randn(1, 3, 8, 8)
    layers = {x.path: x for x in timed_layers(model, example, find_sites(model, example))}
    layer = layers["0.conv2"]
    cell = layer.stream_cell(layer_choice(GHOST))
    assert cell.key.endswith(f"then {SUMS} sums with ReLU")
    assert cell.key != layer.cell(layer_choice(GHOST), 32, 32).key
    stack, x = layer.tiny(cell, 2)
    y = stack(x)
    assert y.shape == (2, 32, 8, 8)
    expected = stack.layer(x)
    for branch in stack.branches:
        expected = torch.relu(branch(expected) + expected)
    assert torch.equal(y, expected)
    # A layer of no stream that is otherwise the same builds the same cell.
    assert isinstance(layers["1.conv1"].tiny(cell, 2)[0].relu, nn.ReLU)


def layer_choice(text):
    from ghostsearch.space.choice_text import parse_layer_choice

    return parse_layer_choice(text)


def test_a_sum_costs_as_much_as_the_layer_that_spoils_it_most():
    streams = [Stream(("a", "b", "c")), Stream(("b", "c")), Stream(()), Stream(("c",))]
    seconds = np.array([[1.0, 0, 0, 0], [1.0, 3, 0, 2], [0, 0, 0, 2.0], [0, 0, 9.0, 0]])
    assert spoiled_sums(streams, seconds).tolist() == [3.0, 1 + 3 + 3, 2.0, 0.0]
    assert one_sum_each(streams, seconds[:3]).tolist() == [1.0, 6.0, 2.0]
    assert spoiled_sums([Stream()], np.ones((2, 1))).tolist() == [0.0, 0.0]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    model, example = residual(), torch.randn(1, 3, 16, 16)
    anatomy = find_sites(model, example)
    space = parse_preset({"sites": [{"choices": [GHOST]}]}, "test").resolve(anatomy)
    folder, setting = tmp_path_factory.mktemp("cells"), Setting()
    return profile(Network(model, example, anatomy), space, CellStore("onnxruntime:cpu", setting, folder), cell_s=0.02)


def test_predictions_count_each_spoiled_sum_once(table):
    space = table.space
    ends = [p for p in space.sites if p.endswith("conv2")]
    # Times are set, so that the sums are known: a ghost costs its layer nothing and each sum behind it 1 ms.
    table.store.take(dict.fromkeys(table.store.cells, CellTime(median_s=0.01, ratio=1.0, interval=(1.0, 1.0))))
    slow = CellTime(median_s=0.013, ratio=1.3, interval=(1.2, 1.4))
    spoiling = [layer.stream_cell(layer_choice(GHOST)).key for layer in table.layers if layer.path in ends]
    table.store.take(dict.fromkeys(spoiling, slow))
    table.refresh()
    first, last, both = (Architecture.of(dict.fromkeys(p, GHOST)) for p in (ends[:1], ends[-1:], [ends[0], ends[-1]]))
    codes = encode(space, [Architecture(), first, last, both])
    sums = table.terms(codes)[:, 1] * table.baseline_layers_s
    assert sums == pytest.approx([0, 0.003, 0.001, 0.003])
    assert table.predict_ratios(codes) == pytest.approx(1 + table.terms(codes) @ np.array(UNCORRECTED))
    # The linear program's form: every layer answers for one sum, so single layers add up.
    additive = (table.additive_ratios(codes) - table.predict_ratios(codes)) * table.baseline_layers_s
    assert additive == pytest.approx([0, 0.001 - 0.003, 0, 0.002 - 0.003])


def test_no_sum_is_charged_where_the_interval_shows_nothing(table):
    for layer in table.layers:
        if layer.stream.sums and layer.path in table.space.sites:
            key = layer.stream_cell(layer_choice(GHOST)).key
            table.store.take({key: CellTime(median_s=0.01, ratio=1.01, interval=(0.99, 1.03))})
    table.refresh()
    codes = encode(SearchSpace(table.space.sites, {}), [table.space.uniform(GHOST)])
    assert table.terms(codes)[0, 1] == 0
