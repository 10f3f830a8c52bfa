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
    result, classes = train_from_scratch(
        "ghostsearch:ghostnet_cifar",
        ImageOptions(data=f"folder:{three_classes}"),
        tmp_path / "out",
        Tuning(epochs=4, batch_size=16, ema=0, compute_device="cpu"),
    )
    assert set(classes) == {"zero", "one", "seven"}
    losses = [e.loss for e in result.history]
    assert losses[-1] < losses[0]
    assert (tmp_path / "out" / "train.svg").read_text().lstrip().startswith("<?xml")
    record = json.loads((tmp_path / "out" / "train.json").read_text())
    assert record["validation"] == result.validation
    saved = load_directory(tmp_path / "out")
    assert saved.module.classifier.out_features == 3


def test_unlabelled_images_are_refused(three_classes, tmp_path):
    with pytest.raises(GhostsearchError, match="no class labels"):
        train_from_scratch(
            "ghostsearch:resnet20", ImageOptions(data=f"folder:{three_classes / 'one'}"), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
