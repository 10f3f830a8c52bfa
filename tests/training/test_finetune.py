"""Fine-tuning: resumes to the same weights, keeps the best ones, several processes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ghostsearch.data.load import load_data
from ghostsearch.data.options import ImageOptions
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.load import load_model
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.saved import load, save
from ghostsearch.training.evaluate import evaluate
from ghostsearch.training.finetune import RESULT_FILE, finetune, finetune_directory, placed
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Distillation, Recipe, Tuning

EPOCHS = 3
RECIPE = Tuning(epochs=EPOCHS, ema=0.9, compute_device="cpu")


@pytest.fixture(scope="module")
def loaded():
    return load_model("ghostsearch:digits_cnn")


@pytest.fixture(scope="module")
def data(loaded):
    return load_data("digits", input=loaded.input, batch=64, train_images=320)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def weights(model):
    return torch.cat([p.detach().flatten() for p in [*model.parameters(), *model.buffers()]])


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run: its folder, model and result."""
    folder, model = tmp_path_factory.mktemp("whole"), network()
    return folder, model, finetune(model, data, folder, RECIPE)


def test_the_best_epoch_is_kept_and_tested(data, whole):
    _, model, result = whole
    scores = [epoch.score for epoch in result.history]
    assert len(scores) == EPOCHS
    assert result.validation == pytest.approx(max(scores))
    assert result.best_epoch == 1 + scores.index(max(scores))
    assert result.validation > result.before
    assert evaluate(model, data.validation) == pytest.approx(result.validation)
    assert evaluate(model, data.test) == pytest.approx(result.test)


@pytest.mark.parametrize("stop_at", [3, 7])
def test_a_stopped_run_goes_on_to_the_same_weights(data, whole, tmp_path, stop_at):
    def stop(done, total, text):
        if done >= stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(network(), data, tmp_path, RECIPE, progress=stop)
    model = network()
    result = finetune(model, data, tmp_path, RECIPE)
    assert torch.equal(weights(model), weights(whole[1]))
    told = [(e.epoch, e.loss, e.score) for e in result.history]
    assert told == [(e.epoch, e.loss, e.score) for e in whole[2].history]


def test_a_finished_run_is_not_trained_again(data, whole):
    folder, model, result = whole
    before = (folder / "last.ckpt").stat().st_mtime_ns
    again = network()
    repeated = finetune(again, data, folder, RECIPE)
    assert torch.equal(weights(again), weights(model))
    assert (repeated.history, repeated.test) == (result.history, result.test)
    assert (folder / "last.ckpt").stat().st_mtime_ns == before


def test_another_runs_folder_is_refused(data, whole):
    with pytest.raises(GhostsearchError, match="another epochs"):
        finetune(network(), data, whole[0], RECIPE.but(epochs=EPOCHS + 1))
    with pytest.raises(GhostsearchError, match="another lr"):
        finetune(network(), data, whole[0], RECIPE.but(lr=0.2))
    other = network()
    nn.init.zeros_(other[0].weight)
    with pytest.raises(GhostsearchError, match="another starting weights"):
        finetune(other, data, whole[0], RECIPE)


def test_a_model_whose_training_was_stopped_is_as_it_was(data, tmp_path):
    def stop(done, total, text):
        if done >= 3:
            raise KeyboardInterrupt

    model = network()
    before = weights(model)
    with pytest.raises(KeyboardInterrupt):
        finetune(model, data, tmp_path, RECIPE, progress=stop)
    assert torch.equal(weights(model), before)
    assert finetune(model, data, tmp_path, RECIPE).best_epoch > 0, "the same call goes on"


def test_relabelled_images_are_another_run(data, whole):
    """Their numbers are the same; the half-trained weights have learned the old labels."""
    test = data.fingerprint["test"]
    other = replace(data, fingerprint={**data.fingerprint, "test": test[:-1] + "01"[test[-1] == "0"]})
    with pytest.raises(GhostsearchError, match="another set of images; repeat"):
        finetune(network(), other, whole[0], RECIPE)


def test_checkpoints_hold_nothing_but_baseline_data(whole):
    for name in ("last.ckpt", "best.ckpt"):
        torch.load(whole[0] / name, weights_only=True)


def test_tensorboard_can_read_the_log(whole):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(whole[0] / "tensorboard"))
    events.Reload()
    assert {"loss", "lr", "score"} <= set(events.Tags()["scalars"])


def test_weights_that_get_worse_are_not_kept(data, tmp_path):
    model = network()
    train(model, data, Recipe(epochs=10, lr=0.1))
    start = copy.deepcopy(model)
    result = finetune(model, data, tmp_path, Tuning(epochs=1, lr=50.0, clip_norm=0.0, ema=0))
    assert result.best_epoch == 0
    assert result.validation == result.before
    assert torch.equal(weights(model), weights(start))
    assert "start kept" in str(result)


def test_the_average_forgets_the_start_in_a_short_run(data, tmp_path):
    """Untrained weights at decay 0.999 would still be most of the average after 15 steps."""
    model = network()
    result = finetune(model, data, tmp_path, Tuning(epochs=3, lr=0.1))
    assert result.validation > 2 * result.before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "^epochs: "),
        ({"ema": 1.0}, "^ema: "),
        ({"processes": 0}, "^processes: "),
        ({"compute_device": "cuda:99"}, "cannot compute"),
    ],
)
def test_bad_arguments_get_one_line(data, tmp_path, options, said):
    with pytest.raises(GhostsearchError, match=said):
        finetune(network(), data, tmp_path, Tuning(**{"epochs": 1, **options}))


def test_a_directory_is_fine_tuned_into_another(loaded, tmp_path):
    save(loaded.module, tmp_path / "in", source=loaded, architecture=Architecture())
    before = (tmp_path / "in" / "weights.safetensors").read_bytes()
    images = ImageOptions(data="digits", train_images=128)
    recipe = Distillation(epochs=2, distill_from="ghostsearch:digits_cnn", compute_device="cpu")
    result = finetune_directory(tmp_path / "in", images, tmp_path / "out", recipe)
    tuned, spec = load(tmp_path / "out"), load_data("digits", input=loaded.input)
    assert evaluate(tuned, spec.test) == pytest.approx(result.test)
    about = json.loads((tmp_path / "out" / RESULT_FILE).read_text())
    assert (about["test"], about["best_epoch"]) == (result.test, result.best_epoch)
    assert "<svg" in (tmp_path / "out" / "finetune.svg").read_text()
    assert (tmp_path / "in" / "weights.safetensors").read_bytes() == before
    with pytest.raises(GhostsearchError, match="own directory"):
        finetune_directory(tmp_path / "in", images, tmp_path / "in", recipe)


def test_another_run_in_the_same_directory_is_refused_and_has_a_directory_of_its_own(loaded, tmp_path, monkeypatch):
    """Another model, other images: what is there is not the answer."""
    monkeypatch.chdir(tmp_path)
    other = load_model("ghostsearch:digits_cnn", seed=1)
    for name, model in (("one", loaded), ("other", other)):
        save(model.module, tmp_path / name, source=model, architecture=Architecture())
    images, recipe = ImageOptions(data="digits", train_images=64), Distillation(epochs=1, compute_device="cpu")
    first = placed("one", images, recipe, what="-finetuned")
    finetune_directory(Path("one"), images, first, recipe)
    assert placed("one", images, recipe, what="-finetuned") == first
    with pytest.raises(GhostsearchError, match="with another model"):
        finetune_directory(Path("other"), images, first, recipe)
    more = images.but(train_images=128)
    with pytest.raises(GhostsearchError, match=r"with another .*train_images"):
        finetune_directory(Path("one"), more, first, recipe)
    assert placed("one", more, recipe, what="-finetuned") != first


def test_another_teacher_is_another_run_and_a_moved_one_the_same(loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("one", 0), ("teacher", 1)):
        model = load_model("ghostsearch:digits_cnn", seed=seed)
        save(model.module, tmp_path / name, source=model, architecture=Architecture())
    images, alone = ImageOptions(data="digits", train_images=64), Distillation(epochs=1, compute_device="cpu")
    first = placed("one", images, alone, what="-finetuned")
    finetune_directory(Path("one"), images, first, alone)
    taught = alone.but(distill_from="teacher")
    with pytest.raises(GhostsearchError, match="with another teacher"):
        finetune_directory(Path("one"), images, first, taught)
    second = placed("one", images, taught, what="-finetuned")
    assert second != first
    finetune_directory(Path("one"), images, second, taught)
    Path("teacher").rename("moved")
    assert placed("one", images, alone.but(distill_from="moved"), what="-finetuned") == second
    assert placed("one", images, alone, what="-finetuned") == first


def test_weights_of_no_teacher_are_refused(tmp_path):
    with pytest.raises(GhostsearchError, match="--distill-weights is for --distill-from"):
        finetune_directory(tmp_path, ImageOptions(), tmp_path / "out", Distillation(distill_weights="x.pt"))


@pytest.mark.parametrize(("file", "said"), [("architecture.json", "another model"), ("run.yaml", "a study")])
def test_another_model_and_a_study_are_not_written_into(loaded, tmp_path, file, said):
    save(loaded.module, tmp_path / "in", source=loaded, architecture=Architecture())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / file).write_text("{}")
    with pytest.raises(GhostsearchError, match=f"out holds {said}, which .*choose another --out"):
        finetune_directory(tmp_path / "in", ImageOptions(train_images=64), tmp_path / "out", Distillation(epochs=1))
    assert [p.name for p in (tmp_path / "out").iterdir()] == [file]


@pytest.mark.parametrize(
    ("teacher", "said"),
    [("ghostsearch:resnet20", "teacher does not run on the model's images"), ("another", r"outputs \(4, 7\) are not")],
)
def test_a_teacher_that_does_not_fit_is_one_line(loaded, tmp_path, teacher, said):
    save(loaded.module, tmp_path / "in", source=loaded, architecture=Architecture())
    if teacher == "another":
        seven = load_model("ghostsearch:digits_cnn", classes=7)
        save(seven.module, tmp_path / "seven", source=seven, architecture=Architecture())
        teacher = str(tmp_path / "seven")
    recipe = Distillation(epochs=1, distill_from=teacher, compute_device="cpu")
    with pytest.raises(GhostsearchError, match=said):
        finetune_directory(tmp_path / "in", ImageOptions(train_images=64), tmp_path / "out", recipe)


@pytest.mark.timeout(900)  # two processes that import everything
def test_two_processes_share_an_epoch(data, tmp_path):
    model = network()
    result = finetune(model, data, tmp_path, Tuning(epochs=2, ema=0, compute_device="cpu", processes=2))
    # 320 images, 160 for each process, in batches of 64.
    assert [e.steps for e in result.history] == [160 // 64, 2 * (160 // 64)]
    assert evaluate(model, data.validation) == pytest.approx(result.validation)
