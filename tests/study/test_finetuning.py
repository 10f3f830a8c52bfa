"""A study's model is fine-tuned on images that are split as the study did."""

import pytest

from ghostsearch.data.options import ImageOptions
from ghostsearch.errors import GhostsearchWarning
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import write_run
from ghostsearch.study.finetuning import split_as_studied
from ghostsearch.training.recipe import Distillation


@pytest.fixture
def model(tmp_path):
    """A finalist's directory of a study with a seed and a validation list of its own."""
    run = RunConfig(model="ghostsearch:digits_cnn", data="folder:cats", seed=3, validation_list="val.txt")
    write_run(tmp_path, run)
    (tmp_path / "models" / "aa").mkdir(parents=True)
    return tmp_path / "models" / "aa"


def test_seed_and_validation_list_are_the_studys(model):
    with pytest.warns(GhostsearchWarning) as told:
        images, recipe = split_as_studied(model, ImageOptions(data="folder:cats"), Distillation())
    assert (recipe.seed, images.validation_list) == (3, "val.txt")
    assert [str(w.message).split(" ")[0] for w in told] == ["seed", "validation"]


@pytest.mark.filterwarnings("error")
def test_what_was_asked_for_stays_and_other_images_are_split_as_ever(model):
    asked = ImageOptions(data="folder:cats", validation_list="mine.txt"), Distillation(seed=0)
    assert split_as_studied(model, *asked) == asked
    others = ImageOptions(data="folder:dogs"), Distillation()
    assert split_as_studied(model, *others) == others
    assert split_as_studied(model.parent.parent.parent, *others) == others
