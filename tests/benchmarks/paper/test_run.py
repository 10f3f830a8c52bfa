import pytest
import torch

from benchmarks.paper import measured, training
from benchmarks.paper.kept import KEPT_FILE, KeptRows
from benchmarks.paper.options import PaperOptions
from benchmarks.paper.printed import SMALL_NETS
from benchmarks.paper.run import write_tables
from benchmarks.paper.toy import toy_rows
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.cifar import resnet20
from ghostsearch.training.loop import train


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    torch.save(resnet20().state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_cheap_table_and_index(tmp_path):
    paths = write_tables(
        ["cheap"],
        tmp_path,
        PaperOptions(command="python -m paper", device="torch:cpu", time_limit=0.1),
    )
    assert [p.name for p in paths] == ["paper_cheap.md", "README.md"]
    assert "cheap=wavelet" in paths[0].read_text()
    assert "`python -m paper`" in paths[1].read_text()


def test_toy_error_falls_with_the_kernel(weights):
    pairs, everywhere = toy_rows(PaperOptions(toy_weights=weights))
    assert len(pairs) == 3
    medians = [row["best other map, median"] for row in everywhere]
    assert [row["d"] for row in everywhere] == [1, 3, 5, 7]
    assert medians[0] > medians[1] > medians[3] > 0


@pytest.mark.parametrize(
    ("names", "options", "told"),
    [
        (["vgg19"], {}, "nearest: vgg16"),
        (["toy"], {}, "give --toy-weights"),
        (["training"], {}, "give --data"),
        (["ghostnet-search"], {}, "give --data"),
        (
            ["training"],
            {"data": "digits", "train_choices": ("ghost(9)",)},
            "no setting 'ghost\\(9\\)' of ghostsearch:vgg16",
        ),
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


DIGITS = PaperOptions(
    data="digits",
    train_model="ghostsearch:digits_cnn",
    train_images=128,
    test_images=64,
    epochs=1,
    compute_device="cpu",
)


def test_a_stopped_training_table_goes_on(tmp_path, monkeypatch):
    trained = []

    def stops(net, data, recipe):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(net)
        return train(net, data, recipe)

    monkeypatch.setattr(training, "train", stops)
    with pytest.raises(KeyboardInterrupt):
        write_tables(["training"], tmp_path, DIGITS)
    monkeypatch.setattr(training, "train", lambda net, *given: trained.append(net) or train(net, *given))
    page = write_tables(["training"], tmp_path, DIGITS)[0]
    resumed = page.read_text()
    assert page.name == "paper_training_digits_cnn.md"
    assert "wavelet" in resumed
    assert len(trained) == len(training.settings(DIGITS.train_model))
    kept = KeptRows(tmp_path / KEPT_FILE)
    rows = training.trained_rows(DIGITS, kept)
    assert len(trained) == len(rows), "nothing is trained twice"
    assert all(f"{row['top-1 %, short schedule']:.4g}" in resumed for row in rows)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "[{}, 3]", "7"])
def test_foreign_rows_are_refused(tmp_path, text):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(GhostsearchError, match="not rows of finished"):
        KeptRows(tmp_path / "rows.jsonl")


def test_small_nets_beside_mobilenet(monkeypatch):
    few = ("ghostsearch:ghostnet_050", "torchvision:shufflenet_v2_x1_0", measured.REFERENCE)
    monkeypatch.setattr(measured, "SMALL_NETS", {spec: SMALL_NETS[spec] for spec in few})
    family, remarks = measured.small_nets()
    rows = measured.timed_rows(family, PaperOptions(device="torch:cpu", time_limit=0.1))
    assert not remarks
    assert [row["MACs agree"] for row in rows] == [True, False, False]
    assert all(row["95 % from"] <= row["÷ baseline"] <= row["95 % to"] for row in rows)
    assert all(row["latency ms"] > 0 for row in rows)
