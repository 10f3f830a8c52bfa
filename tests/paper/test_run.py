import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.models.cifar import resnet20
from ghostsearch.paper.options import PaperOptions
from ghostsearch.paper.run import TABLES, write_tables
from ghostsearch.paper.toy import block_output, toy_rows


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    torch.save(resnet20().state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_cheap_table_and_index(tmp_path):
    paths = write_tables(["cheap"], tmp_path, PaperOptions(command="ghostsearch paper cheap"))
    assert [p.name for p in paths] == ["paper_cheap.md", "README.md"]
    assert "cheap=wavelet" in paths[0].read_text()
    assert "`ghostsearch paper cheap`" in paths[1].read_text()


def test_toy_error_falls_with_the_kernel(weights):
    pairs, everywhere = toy_rows(PaperOptions(toy_weights=weights))
    assert len(pairs) == 3
    medians = [row["best other map, median"] for row in everywhere]
    assert [row["d"] for row in everywhere] == [1, 3, 5, 7]
    assert medians[0] > medians[1] > medians[3] > 0


def test_block_output_is_what_the_block_gives():
    model, pixels = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(1, 3, 8, 8)
    assert torch.equal(block_output(model, "0", pixels), model[0](pixels)[0])
    assert not model[0]._forward_hooks


@pytest.mark.parametrize(
    ("names", "options", "told"),
    [
        (["vgg19"], {}, "nearest: vgg16"),
        (["toy"], {}, "give --toy-weights"),
        (["training"], {}, "give --data"),
        (["ghostnet-search"], {}, "give --data"),
        (["toy"], {"toy_layer": "nowhere"}, "no module 'nowhere'"),
        (["toy"], {"toy_layer": "layer3.0"}, "too small"),
    ],
)
def test_refusals(tmp_path, weights, names, options, told):
    if "toy_layer" in options:
        options = options | {"toy_weights": weights}
    with pytest.raises(GhostsearchError, match=told):
        write_tables(names, tmp_path / "out", PaperOptions(**options))
    assert not (tmp_path / "out").exists()


def test_training_table_on_digits(tmp_path):
    options = PaperOptions(
        data="digits", train_model="ghostsearch:digits_cnn", train_images=128, epochs=1, train_device="cpu"
    )
    page = write_tables(["training"], tmp_path, options)[0].read_text()
    assert page.count("ghost(ratio=2, kernel=3") >= 3
    assert "1 epochs on 128 training images of digits" in page


def test_every_table_is_documented():
    assert all(make.__doc__ for make in TABLES.values())
    assert set(TABLES) == {
        "formulas",
        "toy",
        "cheap",
        "vgg16",
        "cifar",
        "resnet50",
        "small-nets",
        "training",
        "ghostnet-search",
    }
