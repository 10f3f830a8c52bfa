"""Any ONNX file stands in the place of a model: its inputs from its shapes, its cost as the module's."""

import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.onnx_graph.capture import onnx_bytes, onnx_module
from ghostsearch.measure.onnx_graph.file import check_device, example_of, open_onnx
from ghostsearch.measure.setting import Setting
from ghostsearch.report.compact import compact_rows, compare_models
from ghostsearch.report.inspection import measurement

QUICK = Setting(time_limit=0.05)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, stride=2, groups=1)
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.up(self.deep(self.one(x))).mean((2, 3)))


class Two(nn.Module):
    def forward(self, image, index):
        return image.flatten(1)[:, :4] * index


def written(path, net, example, **axes):
    names = [f"x{i}" for i in range(len(example))]
    torch.onnx.export(net.eval(), example, path, input_names=names, dynamic_axes=axes, dynamo=False)
    return path


def test_cost_is_the_modules_own(tmp_path):
    net, example = Net(), torch.randn(2, 3, 32, 20)
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx_bytes(net, example)[0])
    loaded = open_onnx(path)
    assert loaded.input.shape == (3, 32, 20)
    assert example_of(loaded).shape == (2, 3, 32, 20), "the graph's own batch"
    found, ours = measure_cost(loaded.module, example_of(loaded)), measure_cost(net, example)
    assert (found.params, found.macs) == (ours.params, ours.macs)
    with pytest.raises(GhostsearchError, match="a fixed batch of 2; give --batch 2"):
        example_of(loaded, 1)


def test_free_sides_need_a_size_and_free_batches_do_not(tmp_path):
    path = written(tmp_path / "free.onnx", Net(), (torch.randn(1, 3, 32, 32),), x0={0: "batch", 2: "h", 3: "w"})
    with pytest.raises(GhostsearchError, match=r"leaves h, w free; give --size"):
        open_onnx(path)
    loaded = open_onnx(path, size="24x40")
    assert example_of(loaded, 3).shape == (3, 3, 24, 40)
    small, large = (measure_cost(m.module, example_of(m)).macs for m in (loaded, open_onnx(path, size=64)))
    assert small < large


def test_a_size_that_a_file_does_not_take_is_told(tmp_path):
    path = written(tmp_path / "net.onnx", Net(), (torch.randn(1, 3, 32, 20),))
    with pytest.raises(GhostsearchError, match=r"takes inputs of 32×20 alone; leave --size 64 out"):
        open_onnx(path, size=64)
    assert open_onnx(path, size="32x20").input.size == (32, 20)


def test_weights_in_a_file_of_their_own_are_found_from_anywhere(tmp_path, monkeypatch):
    folder, net, x = tmp_path / "there", Net().eval(), torch.randn(1, 3, 32, 32)
    folder.mkdir()
    torch.onnx.export(net, (x,), folder / "net.onnx", dynamo=True, external_data=True, verbose=False)
    assert (folder / "net.onnx.data").is_file()
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(open_onnx(folder / "net.onnx").module(x), net(x), atol=1e-4, rtol=1e-4)


def test_inputs_of_half_precision_and_of_three_sides_are_made_and_timed(tmp_path):
    half = written(tmp_path / "half.onnx", nn.Conv2d(3, 4, 3).half(), (torch.randn(1, 3, 8, 8).half(),))
    video = written(tmp_path / "video.onnx", nn.Conv3d(3, 4, 3), (torch.randn(1, 3, 4, 8, 8),))
    for path in (half, video):
        assert measurement(open_onnx(path), ("onnxruntime:cpu",), QUICK)["latency"][0]["median_s"] > 0


def test_several_inputs_of_other_kinds_are_made(tmp_path):
    path = written(tmp_path / "two.onnx", Two(), (torch.randn(1, 3, 8, 8), torch.tensor([[1, 2, 3, 4]])))
    image, index = example_of(open_onnx(path))
    assert image.shape == (1, 3, 8, 8)
    assert index.dtype == torch.int64
    assert measurement(open_onnx(path), ("onnxruntime:cpu",), QUICK)["latency"][0]["median_s"] > 0
    with pytest.raises(GhostsearchError, match="takes 2 inputs"):
        compare_models([str(path)], device="onnxruntime:cpu", setting=QUICK)


def test_compare_sets_a_file_beside_a_model(tmp_path):
    path = written(tmp_path / "net.onnx", Net(), (torch.randn(1, 3, 32, 32),))
    rows = compare_models([str(path), "ghostsearch:resnet20"], device="onnxruntime:cpu", setting=QUICK)
    assert rows[0].cost.macs < rows[1].cost.macs
    assert rows[0].latency.ratio is not None
    assert compact_rows(rows)[1][0][-1] == "–", "the kinds of a file's layers are not known"


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_foreign_files_are_one_line(tmp_path, content):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(GhostsearchError, match="not an ONNX graph"):
        open_onnx(path)
    with pytest.raises(GhostsearchError, match="no such file"):
        open_onnx(tmp_path / "none.onnx")


def test_a_device_that_runs_modules_alone_says_so(tmp_path):
    path = written(tmp_path / "net.onnx", Net(), (torch.randn(1, 3, 32, 32),))
    with pytest.raises(GhostsearchError, match="does not run ONNX files"):
        check_device(open_onnx(path), "torch:cpu")


class Recurrent(nn.Module):
    """x: (N, 10, 16) -> (N, 4)"""

    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


class Summed(nn.Module):
    """x: (N, 10, 16) -> (N, 4)"""

    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(16, 32)), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(torch.einsum("bij,jk->bik", x, self.weight).mean(1))


@pytest.mark.parametrize(("net", "named"), [(Recurrent, "LSTM"), (Summed, "Einsum")])
def test_operators_whose_multiply_adds_are_not_counted_are_named(net, named):
    x = torch.randn(1, 10, 16)
    with pytest.warns(GhostsearchWarning, match=f"not in macs: .*{named}"):
        measure_cost(onnx_module(net().eval(), x), x)
