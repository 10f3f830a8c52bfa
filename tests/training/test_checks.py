"""What does not fit is found, and said in one line, before anything is trained."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, TensorDataset

from ghostsearch.data.load import own_data
from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.models.input import InputSpec
from ghostsearch.training.checks import check_run
from ghostsearch.training.tasks.table import load_task, task_for

SPEC = InputSpec(4, 1, (0.0,), (1.0,))


def net(outputs=3):
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, outputs))


def loader(images=9, labels=None, **options):
    x = torch.rand(images, 1, 4, 4)
    y = torch.arange(images) % 3 if labels is None else labels
    return DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True, **options)


def data(**splits):
    made = {"train": loader(), "validation": loader(), "test": loader(), **splits}
    return own_data(made, "mine", SPEC)


def test_what_fits_passes_and_leaves_everything_as_it_was():
    model, generator = net().train(), torch.Generator().manual_seed(3)
    ready = data(train=loader(generator=generator))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state, order = torch.random.get_rng_state(), generator.get_state()
    check_run(model, ready, load_task())
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(order, generator.get_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


NAN = torch.full((9, 1, 4, 4), float("nan"))


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"test": DataLoader(TensorDataset(torch.rand(0, 1, 4, 4), torch.zeros(0)))}, "test split: empty"),
        ({"validation": loader(labels=torch.arange(9) % 5)}, "validation split: label 4 with a model of 3 outputs"),
        ({"test": loader(labels=torch.full((9,), 1.5))}, "test split: labels must be whole numbers, got 1.5"),
        ({"train": DataLoader(TensorDataset(torch.rand(9, 2, 4, 4), torch.arange(9) % 3))}, "train split: the model"),
        ({"train": DataLoader(TensorDataset(NAN, torch.arange(9) % 3))}, "train split: images hold values"),
        ({"test": DataLoader(TensorDataset(torch.rand(9, 1, 4, 4)))}, "test split: the data have no labels"),
        ({"test": DataLoader(TensorDataset(torch.zeros(9, 1, 4, 4, dtype=torch.uint8), torch.zeros(9)))}, "uint8"),
    ],
)  # fmt: skip
def test_each_split_is_looked_at(splits, said):
    with pytest.raises(GhostsearchError, match=said) as caught:
        check_run(net(), data(**splits), load_task())
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("mine, ")


def test_classes_of_the_data_are_the_models_outputs():
    class Named(TensorDataset):
        classes = ("a", "b", "c", "d")

    named = DataLoader(Named(torch.rand(9, 1, 4, 4), torch.arange(9) % 3), 4)
    with pytest.raises(GhostsearchError, match="3 outputs, the data 4 classes; add --classes 4 where it is made"):
        check_run(net(), data(train=named), load_task())


def test_images_without_labels_are_searched_by_agreement():
    unlabelled = [DataLoader(TensorDataset(torch.rand(9, 1, 4, 4)), 4)] * 3
    ready = own_data(unlabelled, "mine", SPEC)
    assert not ready.labelled
    model = net()
    check_run(model, ready, task_for("classification", labelled=False, baseline=model))


def test_a_task_of_another_kind_is_refused(write_class_folder):
    from ghostsearch.data.load import load_data

    ready = load_data(f"folder:{write_class_folder}", input=SPEC)
    with pytest.raises(GhostsearchError, match="targets of kind 'class', mIoU needs mask"):
        check_run(net(), ready, load_task("segmentation"))


def test_a_task_of_the_users_own_may_raise_anything():
    class Broken(type(load_task())):
        def loss(self, output, target):
            raise KeyError("boom")

    with pytest.raises(GhostsearchError, match=r"does not take outputs \(.*\) and targets"):
        check_run(net(), data(), Broken())


@pytest.fixture
def write_class_folder(tmp_path):
    from PIL import Image

    for name in "abc":
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("L", (4, 4), 60 * i).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_torch_is_not_needed_to_parse_a_size():
    import subprocess

    code = "import sys, ghostsearch.models.input as i; i.parse_size('8'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


class Unseeded(Sampler):
    """Draws from a generator that nobody can start again."""

    def __init__(self):
        self.random = np.random.default_rng(0)

    def __len__(self):
        return 9

    def __iter__(self):
        return iter(self.random.permutation(9))


def test_an_order_that_no_seed_reaches_is_told(recwarn):
    images = TensorDataset(torch.rand(9, 1, 4, 4), torch.arange(9) % 3)
    generator = torch.Generator().manual_seed(3)
    seeded = (
        DataLoader(images, 4, shuffle=True),
        DataLoader(images, 4, sampler=RandomSampler(images, generator=generator)),
    )
    before = generator.get_state()
    for train in seeded:
        check_run(net(), data(train=train), load_task())
    assert torch.equal(generator.get_state(), before)
    assert not recwarn
    for options in ({"sampler": Unseeded(), "batch_size": 4}, {"batch_sampler": BatchSampler(Unseeded(), 4, False)}):
        with pytest.warns(GhostsearchWarning, match="mine: no seed reaches the order"):
            check_run(net(), data(train=DataLoader(images, **options)), load_task())


class Augmented(Dataset):
    """Images that a random transform changes."""

    def __len__(self):
        return 9

    def __getitem__(self, i):
        return torch.rand(1, 4, 4), i % 3


@pytest.mark.parametrize("split", ["validation", "test"])
def test_images_that_are_others_each_time_are_not_judged_on(split):
    with pytest.raises(GhostsearchError, match=f"mine, {split} split: gives other images each time it is read"):
        check_run(net(), data(**{split: DataLoader(Augmented(), 4)}), load_task())
    check_run(net(), data(train=DataLoader(Augmented(), 4)), load_task())


def test_masks_of_0_and_255_are_told(recwarn):
    def masked(foreground):
        masks = torch.zeros(9, 4, 4, dtype=torch.long)
        masks[:, 1:3, 1:3] = foreground
        return DataLoader(TensorDataset(torch.rand(9, 1, 4, 4), masks), 4)

    for foreground in (1, 255):
        splits = dict.fromkeys(("train", "validation", "test"), masked(foreground))
        check_run(nn.Conv2d(1, 2, 1), data(**splits), load_task("segmentation"))
        assert bool([x for x in recwarn if "write 1 for what is to be found" in str(x.message)]) == (foreground == 255)
