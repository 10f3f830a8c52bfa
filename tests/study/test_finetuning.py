"""A study's model is fine-tuned on images that are split as the study did."""

import shutil

import pytest

from ghostsearch.data.load import read_fingerprint
from ghostsearch.data.options import ImageOptions
from ghostsearch.errors import GhostsearchWarning
from ghostsearch.models.load import load_model
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import write_run, write_study
from ghostsearch.study.finetuning import split_as_known
from ghostsearch.study.split import split_of
from ghostsearch.surgery.saved import save
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
        images, recipe = split_as_known(model, ImageOptions(data="folder:cats"), Distillation())
    assert (recipe.seed, images.validation_list) == (3, "val.txt")
    assert [str(w.message).split(" ")[0] for w in told] == ["seed", "validation"]


@pytest.mark.filterwarnings("error")
def test_what_was_asked_for_stays_and_other_images_are_split_as_ever(model):
    asked = ImageOptions(data="folder:cats", validation_list="mine.txt"), Distillation(seed=0)
    assert split_as_known(model, *asked) == asked
    others = ImageOptions(data="folder:dogs"), Distillation()
    assert split_as_known(model, *others) == others
    assert split_as_known(model.parent.parent.parent, *others) == others


@pytest.mark.parametrize("spelled", ["folder:cats/", "folder:./cats", "folder:{here}/cats"])
def test_a_path_that_is_spelled_otherwise_is_the_same(model, spelled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, recipe = split_as_known(model, ImageOptions(data=spelled.format(here=tmp_path)), Distillation())
    assert recipe.seed == 3


def test_a_trained_models_images_are_split_as_its_training_did(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "settings.json").write_text('{"seed": 7, "data": "folder:cats"}')
    with pytest.warns(GhostsearchWarning, match="seed 7, by which"):
        assert split_as_known(tmp_path, ImageOptions(data="folder:cats"), Distillation())[1].seed == 7
    found = split_of(tmp_path)
    assert found is not None
    assert (found.seed, found.validation_list) == (7, None)
    assert split_of(tmp_path / "elsewhere") is None


def test_images_are_known_where_they_were_moved_and_a_change_is_told(own_digits, tmp_path):
    data, add = own_digits
    loaded = load_model("ghostsearch:digits_cnn")
    folder = tmp_path / "study" / "models" / "aa"
    save(loaded.module, folder, source=loaded, architecture=Architecture())
    write_run(tmp_path / "study", RunConfig(model="ghostsearch:digits_cnn", data=data, seed=3))
    known = read_fingerprint(data, input=loaded.input, seed=3)
    write_study(tmp_path / "study", {"fingerprint": known})
    shutil.copytree(tmp_path / "digits", tmp_path / "moved")
    asked = ImageOptions(data=f"folder:{tmp_path / 'moved'}")
    with pytest.warns(GhostsearchWarning, match="seed 3, by which"):
        assert split_as_known(folder, asked, Distillation())[1].seed == 3
    add()
    with pytest.warns(GhostsearchWarning, match="have changed since .*train 51 images.*may have trained it"):
        assert split_as_known(folder, ImageOptions(data=data), Distillation())[1].seed == 3
    (tmp_path / "moved" / "0" / "000.png").unlink()
    assert split_as_known(folder, asked, Distillation()) == (asked, Distillation())
