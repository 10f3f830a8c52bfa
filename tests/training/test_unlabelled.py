"""Fine-tuning without labels: towards a teacher, by its agreement; refused without one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ghostsearch.data.options import ImageOptions
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.load import load_model
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.saved import load_directory, save
from ghostsearch.training.finetune import finetune_directory
from ghostsearch.training.recipe import Distillation


@pytest.fixture
def digits_without_labels(tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for i, pixels in enumerate(load_digits().images[:60]):
        Image.fromarray((pixels * 15).astype(np.uint8)).save(folder / f"{i}.png")
    return f"folder:{folder}"


def test_a_teacher_takes_the_place_of_labels(digits_without_labels, tmp_path):
    student = load_model("ghostsearch:digits_cnn", seed=1)
    save(student.module, tmp_path / "student", source=student, architecture=Architecture())
    images = ImageOptions(data=digits_without_labels)
    recipe = Distillation(epochs=1, compute_device="cpu")
    with pytest.raises(GhostsearchError, match="has no labels; add --distill-from"):
        finetune_directory(tmp_path / "student", images, tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()
    teacher = load_model("ghostsearch:digits_cnn", seed=2)
    save(teacher.module, tmp_path / "teacher", source=teacher, architecture=Architecture())
    taught = recipe.but(distill_from=str(tmp_path / "teacher"))
    found = finetune_directory(tmp_path / "student", images, tmp_path / "out", taught)
    assert found.metric == "agreement"
    assert found.validation >= found.before
    assert load_directory(tmp_path / "out").module is not None
