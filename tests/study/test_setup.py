"""What a search is opened with: labels or none, weights for these classes or others, one line where it cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from ghostsearch.errors import GhostsearchError
from ghostsearch.models.load import load_model
from ghostsearch.study.config import RunConfig
from ghostsearch.study.setup import open_setup


@pytest.fixture
def config(tmp_path):
    """Weights of the digits' network, three classes of digits in folders, and some without labels."""
    save_file(load_model("ghostsearch:digits_cnn").module.state_dict(), tmp_path / "w.safetensors")
    digits = load_digits()
    for label in range(3):
        (tmp_path / "classes" / str(label)).mkdir(parents=True)
        for i, pixels in enumerate(digits.images[digits.target == label][:12]):
            Image.fromarray((pixels * 15).astype(np.uint8)).save(tmp_path / "classes" / str(label) / f"{i}.png")
    (tmp_path / "flat").mkdir()
    for i, pixels in enumerate(digits.images[:30]):
        Image.fromarray((pixels * 15).astype(np.uint8)).save(tmp_path / "flat" / f"{i}.png")

    def make(folder, **options):
        options = {"weights": str(tmp_path / "w.safetensors"), "calibration_images": 0, **options}
        return RunConfig(data=f"folder:{tmp_path / folder}", out=str(tmp_path / "out"), **options)

    return make


def test_without_labels_the_score_is_agreement_with_the_baseline(config):
    setup = open_setup(config("flat"))
    assert setup.task.metric == "agreement"
    images, target = next(iter(setup.data.test))
    assert target is None
    assert setup.task.target(images, None).shape == (len(images), 10)


def test_a_baseline_cannot_be_trained_without_labels(config):
    with pytest.raises(GhostsearchError, match="no labels to train the baseline on; add --weights"):
        open_setup(config("flat", weights=None))


def test_a_fresh_classifier_has_to_be_trained(config):
    with pytest.raises(GhostsearchError, match=r"starts from random weights, .* add --baseline-epochs"):
        open_setup(config("classes", classes=3))
    assert open_setup(config("classes", classes=3, baseline_epochs=1)).data.classes == ("0", "1", "2")


def test_classes_that_do_not_fit_are_refused_before_the_work(config):
    with pytest.raises(GhostsearchError, match="the model has 10 outputs, the data 3 classes; add --classes 3"):
        open_setup(config("classes"))
