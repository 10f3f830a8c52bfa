import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.latency import measure_pairs
from ghostsearch.models.cifar import resnet20
from ghostsearch.paper import measured, training
from ghostsearch.paper.counted import layers
from ghostsearch.paper.kept import KEPT_FILE, KeptRows
from ghostsearch.paper.options import PaperOptions
from ghostsearch.paper.pages import TABLES
from ghostsearch.paper.printed import SMALL_NETS
from ghostsearch.paper.run import write_tables
from ghostsearch.paper.toy import block_output, toy_rows
from ghostsearch.space.choice import Ghost
from ghostsearch.training.train import train


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    torch.save(resnet20().state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_cheap_table_and_index(tmp_path):
    paths = write_tables(
        ["cheap"], tmp_path, PaperOptions(command="ghostsearch paper cheap", device="torch:cpu", time_limit=0.1)
    )
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
    data="digits", train_model="ghostsearch:digits_cnn", train_images=128, test_images=64, epochs=1, train_device="cpu"
)


def test_training_table_on_digits(tmp_path):
    page = write_tables(["training"], tmp_path, DIGITS)[0]
    assert page.name == "paper_training_digits_cnn.md"
    text = page.read_text()
    assert text.count("ghost(ratio=2, kernel=3") >= 3
    assert "1 epoch(s) on 128 training images of digits, batches of 64, scored on 64 of the test images" in text
    assert "wavelet" in text


def test_some_settings_alone(tmp_path):
    one = DIGITS.model_copy(update={"train_choices": ("keep",)})
    text = write_tables(["training"], tmp_path, one)[0].read_text()
    assert "ghosts not trained" in text
    assert "Not every setting was trained: 9 are left out." in text


def test_a_stopped_training_table_goes_on(tmp_path, monkeypatch):
    trained = []

    def stops(net, data, **options):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(net)
        return train(net, data, **options)

    monkeypatch.setattr(training, "train", stops)
    with pytest.raises(KeyboardInterrupt):
        write_tables(["training"], tmp_path, DIGITS)
    monkeypatch.setattr(training, "train", lambda net, *a, **o: trained.append(net) or train(net, *a, **o))
    resumed = write_tables(["training"], tmp_path, DIGITS)[0].read_text()
    assert len(trained) == len(training.settings(DIGITS.train_model))
    kept = KeptRows(tmp_path / KEPT_FILE)
    rows = training.trained_rows(DIGITS, kept)
    assert len(trained) == len(rows), "nothing is trained twice"
    assert all(f"{row['top-1 %, short schedule']:.4g}" in resumed for row in rows)


def test_another_schedule_is_another_row(tmp_path):
    kept = KeptRows(tmp_path / "rows.jsonl")
    kept.add({"seed": 0, "epochs": 1.0}, {"accuracy": 0.5})
    assert KeptRows(kept.path).get({"epochs": 1.0, "seed": 0}) == {"accuracy": 0.5}
    assert KeptRows(kept.path).get({"epochs": 2.0, "seed": 0}) is None


@pytest.mark.parametrize("text", ["{", "[1, 2]", "[{}, 3]", "7"])
def test_foreign_rows_are_refused(tmp_path, text):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(GhostsearchError, match="not rows kept by"):
        KeptRows(tmp_path / "rows.jsonl")


def test_seeds_are_averaged():
    runs = [{"accuracy": a, "loss": 2 * a, "steps": 5, "seconds": 1.0} for a in (0.25, 0.5)]
    row = training.summary(runs)
    assert (row["top-1 %, short schedule"], row["lowest seed"], row["highest seed"]) == (37.5, 25, 50)
    assert row["last loss"] == 0.75


def test_every_row_of_the_papers_ablation_is_trained():
    printed = training.settings("ghostsearch:vgg16")
    assert [(str(c or "keep"), p.accuracy) for c, p in printed.items()][:3] == [
        ("keep", "93.6"), ("ghost(ratio=2, kernel=1)", "93.5"), ("ghost(ratio=2, kernel=3)", "93.7"),
    ]  # fmt: skip
    assert len(printed) == 1 + 7 + 2
    assert [p.accuracy for p in training.settings("ghostsearch:resnet56").values()] == ["93.0", "92.7"]


def test_small_nets_beside_mobilenet(monkeypatch):
    few = ("ghostsearch:ghostnet_050", "torchvision:shufflenet_v2_x1_0", measured.REFERENCE)
    monkeypatch.setattr(measured, "SMALL_NETS", {spec: SMALL_NETS[spec] for spec in few})
    family, remarks = measured.small_nets()
    rows = measured.timed_rows(family, PaperOptions(device="torch:cpu", time_limit=0.1))
    assert not remarks
    assert [row["MACs agree"] for row in rows] == [True, False, False]
    assert all(row["95 % from"] <= row["÷ baseline"] <= row["95 % to"] for row in rows)
    assert all(row["latency ms"] > 0 for row in rows)


def test_layers_of_one_shape_are_timed_once(monkeypatch):
    timed = []
    monkeypatch.setattr(measured, "measure_pairs", lambda *a, **o: timed.append(a) or measure_pairs(*a, **o))
    monkeypatch.setattr(measured, "LAYER_S", 0.01)
    every = layers("ghostsearch:resnet20", [Ghost(2, 3)])
    speedups = measured.layer_speedups(every, PaperOptions(device="torch:cpu"))
    assert len(speedups) == len(every) == 19
    assert len(timed) == 1 + 1 + 2 + 2
    assert all(value > 0 for known in speedups for value in known)


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
