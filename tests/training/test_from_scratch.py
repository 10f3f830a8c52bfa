import json

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ghostsearch.data.options import ImageOptions
from ghostsearch.errors import GhostsearchError
from ghostsearch.surgery.saved import load_directory
from ghostsearch.training.from_scratch import train_from_scratch
from ghostsearch.training.recipe import Tuning


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    """An image folder of three digits, thirty images each."""
    root = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    for wanted, name in ((0, "zero"), (1, "one"), (7, "seven")):
        (root / name).mkdir()
        for i, pixels in enumerate(digits.images[digits.target == wanted][:30]):
            Image.fromarray((pixels * 15.9).astype("uint8")).resize((32, 32)).save(root / name / f"{i}.png")
    return root


def test_ghostnet_learns_three_classes(three_classes, tmp_path):
    result, trained = train_from_scratch(
        "ghostsearch:ghostnet_cifar",
        ImageOptions(data=f"folder:{three_classes}"),
        tmp_path / "out",
        Tuning(epochs=4, batch_size=16, ema=0, compute_device="cpu"),
    )
    assert set(trained.categories) == {"zero", "one", "seven"}
    losses = [e.loss for e in result.history]
    assert losses[-1] < losses[0]
    assert (tmp_path / "out" / "train.svg").read_text().lstrip().startswith("<?xml")
    record = json.loads((tmp_path / "out" / "train.json").read_text())
    assert record["validation"] == result.validation
    saved = load_directory(tmp_path / "out")
    assert saved.module.classifier.out_features == 3
    assert saved.categories == trained.categories


def test_unlabelled_images_are_refused(three_classes, tmp_path):
    with pytest.raises(GhostsearchError, match="no labels to train on"):
        train_from_scratch(
            "ghostsearch:resnet20", ImageOptions(data=f"folder:{three_classes / 'one'}"), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_another_model_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "architecture.json").write_text("{}")
    with pytest.raises(GhostsearchError, match=r"out holds another model, which .*choose another --out"):
        train_from_scratch("ghostsearch:digits_cnn", ImageOptions(data="digits"), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["architecture.json"]


LOADERS = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from ghostsearch.models.input import InputSpec

X, Y = torch.randn(24, 3, 8, 8), torch.arange(24) % 3

def net():
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    made.input_spec = InputSpec(8, 3, (0.5,) * 3, (0.25,) * 3)
    return made

def good():
    return (TensorDataset(X, Y),) * 3

def too_many():
    return (TensorDataset(X, Y + 3),) * 3

def late():
    return TensorDataset(X, torch.where(torch.arange(24) == 5, 9, Y)), TensorDataset(X, Y), TensorDataset(X, Y)
"""


def test_loaders_without_class_names_train_and_labels_are_checked(tmp_path, monkeypatch):
    (tmp_path / "own_loaders.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(tmp_path)
    options = Tuning(epochs=1, batch_size=8, ema=0, compute_device="cpu")

    def trained(data):
        return train_from_scratch("own_loaders:net", ImageOptions(data=f"own_loaders:{data}"), tmp_path / data, options)

    result, model = trained("good")
    assert 0 <= result.validation <= 1
    assert (model.classes, model.categories) == (None, ())
    with pytest.raises(GhostsearchError, match="train split: label 3 with a model of 3 outputs"):
        trained("too_many")
    assert not (tmp_path / "too_many").exists()
    with pytest.raises(GhostsearchError, match="label 9 with a model of 3 outputs"):
        trained("late")


PIXELS = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from ghostsearch.models.input import InputSpec

def net():
    made = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 21, 1))
    made.input_spec = InputSpec(8, 3, (0.5,) * 3, (0.25,) * 3)
    return made

def masks():
    return (TensorDataset(torch.randn(24, 3, 8, 8), torch.randint(3, (24, 8, 8))),) * 3
"""


def test_masks_name_no_classes_so_their_number_is_an_option(tmp_path, monkeypatch):
    (tmp_path / "pixels.py").write_text(PIXELS)
    monkeypatch.syspath_prepend(tmp_path)
    images = ImageOptions(data="pixels:masks", task="segmentation")
    recipe = Tuning(epochs=1, batch_size=8, ema=0, compute_device="cpu")
    out = tmp_path / "out"
    _, trained = train_from_scratch("pixels:net", images, out, recipe, classes=3)
    assert trained.classes == 3
    assert load_directory(out, allow_code=True).module[2].out_channels == 3
    with pytest.raises(GhostsearchError, match="holds a run with another classes"):
        train_from_scratch("pixels:net", images, out, recipe)
