"""Loaders of the user's own in every form, and what is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)  # fmt: skip

from ghostsearch.data.calibration import calibration_batches, spread_batches
from ghostsearch.data.load import load_data, own_data
from ghostsearch.data.user_loaders import TARGET_KEYS, batch_of
from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.batches import IMAGE_KEYS
from ghostsearch.models.input import InputSpec

SPEC = InputSpec(4, 1, (0.0,), (1.0,))
X, Y = torch.rand(9, 1, 4, 4), torch.arange(9) % 3


def own(loader, batch=4, spec=SPEC):
    return own_data((loader, loader, loader), "mine", spec, batch=batch)


class Rows(Dataset):
    def __init__(self, row):
        self.row = row

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return self.row(i)


class Endless(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Named(Rows):
    classes = ("a", "b", "c")


FORMS = {
    "a DataLoader": lambda: DataLoader(TensorDataset(X, Y), 4),
    "a data set": lambda: TensorDataset(X, Y),
    "triples": lambda: DataLoader(TensorDataset(X, Y, Y), 4),
    "dicts": lambda: DataLoader(Rows(lambda i: {"image": X[i], "label": Y[i]}), 4),
    "dicts of Hugging Face": lambda: DataLoader(Rows(lambda i: {"labels": int(Y[i]), "pixel_values": X[i]}), 4),
    "names": lambda: DataLoader(Named(lambda i: (X[i], "abc"[int(Y[i])])), 4),
    "a list of batches": lambda: [(X[:4], Y[:4]), (X[4:], Y[4:])],
    "a list of samples": lambda: list(zip(X, Y, strict=True)),
    "arrays": lambda: [(X[:4].numpy(), Y[:4].numpy()), (X[4:].numpy(), Y[4:].numpy())],
    "plain numbers": lambda: [(X[:4], Y[:4].tolist()), (X[4:], Y[4:].tolist())],
    "an iterable without length": lambda: Endless(),
    "a batch sampler": lambda: DataLoader(
        TensorDataset(X, Y), batch_sampler=BatchSampler(RandomSampler(X), 4, drop_last=False)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images_and_labels(form):
    data = own(FORMS[form]())
    assert data.labelled
    found = {x.numpy().tobytes(): int(y) for images, labels in data.test for x, y in zip(images, labels, strict=True)}
    assert found == {x.numpy().tobytes(): int(y) for x, y in zip(X, Y, strict=True)}
    assert all(len(images) > 1 for images, _ in data.train), "BatchNorm cannot train on a last batch of one"
    assert sum(map(len, calibration_batches(data, 6))) == 6


def test_a_batch_of_one_is_kept_where_all_are():
    assert sum(1 for _ in own(DataLoader(TensorDataset(X, Y), 1)).train) == 9
    assert sum(1 for _ in own([(x[None], y[None]) for x, y in zip(X, Y, strict=True)]).train) == 9


def test_images_alone_are_unlabelled():
    data = own(DataLoader(TensorDataset(X), 4))
    assert not data.labelled
    assert next(iter(data.test))[1] is None


@pytest.mark.parametrize("image", IMAGE_KEYS)
@pytest.mark.parametrize("target", [*TARGET_KEYS, None])
def test_documented_keys(image, target):
    images, labels = batch_of({image: X, **({target: Y} if target else {}), "path": "x"})
    assert images is X
    assert labels is (Y if target else None)


def test_several_inputs_stay_together():
    rows = Rows(lambda i: ((X[i], X[i] + 1), Y[i]))
    images, _ = next(iter(own(DataLoader(rows, 4)).test))
    assert isinstance(images, tuple)
    assert [tuple(x.shape) for x in images] == [(4, 1, 4, 4)] * 2
    batches = calibration_batches(own(DataLoader(rows, 4)), 6)
    assert [tuple(len(x) for x in b) for b in batches] == [(4, 4), (2, 2)]
    named = [({"left": X, "right": X}, Y)]
    assert [len(b["right"]) for b in calibration_batches(own(named), 5)] == [5]


def test_a_list_of_images_stays_a_list():
    images, target = batch_of(([X[0], X[1]], [{"boxes": 1}, {"boxes": 2}]))
    assert isinstance(images, list)
    assert len(target) == 2


def test_order_and_workers_are_the_users(tmp_path):
    loader = DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=torch.Generator().manual_seed(1), num_workers=1)
    ready = own(loader).train
    assert (ready.num_workers, ready.generator, ready.sampler) == (1, loader.generator, loader.sampler)


class Loader(DataLoader):
    """A subclass, whose iteration may be of its own."""


SHUFFLED = {
    "shuffle": lambda: DataLoader(TensorDataset(X, Y), 4, shuffle=True),
    "a part": lambda: DataLoader(TensorDataset(X, Y), 4, sampler=SubsetRandomSampler([7, 1, 4, 3, 2])),
    "batches": lambda: DataLoader(
        TensorDataset(X, Y), batch_sampler=BatchSampler(RandomSampler(range(len(X))), 4, drop_last=False)
    ),
    "batches by the set": lambda: DataLoader(
        TensorDataset(X, Y), None, sampler=BatchSampler(RandomSampler(range(len(X))), 4, drop_last=False)
    ),
    "two images": lambda: DataLoader(TensorDataset(X[:2], Y[:2]), 2, shuffle=True),
}


@pytest.mark.parametrize("form", SHUFFLED)
def test_validation_and_test_images_come_in_one_order(form):
    """Models are compared image by image."""
    loader = SHUFFLED[form]()
    data = own(loader)
    for ready in (data.validation, data.test):
        passes = [torch.cat([images for images, _ in ready]) for _ in range(6)]
        assert all(torch.equal(passes[0], other) for other in passes)
        given = torch.cat([images for images, _ in loader])
        assert {x.numpy().tobytes() for x in passes[0]} == {x.numpy().tobytes() for x in given}


def test_an_order_of_the_users_stays():
    loader = DataLoader(TensorDataset(X, Y), 4, sampler=[3, 1, 8])
    assert own(loader).test.sampler == [3, 1, 8]


def test_images_that_cannot_be_read_in_one_order_are_refused():
    train = DataLoader(TensorDataset(X, Y), 4)
    weighted = DataLoader(TensorDataset(X, Y), 4, sampler=WeightedRandomSampler(torch.ones(len(X)), 100))
    with pytest.raises(GhostsearchError, match=r"validation loader draws other images each time \(WeightedRandom"):
        own_data((train, weighted, train), "mine", SPEC)
    with pytest.raises(GhostsearchError, match="test loader is a Loader that shuffles; give it shuffle=False"):
        own_data((train, train, Loader(TensorDataset(X, Y), 4, shuffle=True)), "mine", SPEC)
    own_data((train, train, Loader(TensorDataset(X, Y), 4)), "mine", SPEC)


class Foreign:
    """A batch sampler of the user's own."""

    def __init__(self, draw):
        self.draw = draw

    def __iter__(self):
        return iter(self.draw())


def test_batch_samplers_of_the_users_own_are_read_in_one_order_or_refused_in_one_line():
    def test_split(draw):
        train = DataLoader(TensorDataset(X, Y), 4)
        test = DataLoader(TensorDataset(X, Y), batch_sampler=Foreign(draw))
        return [labels.tolist() for _, labels in own_data((train, train, test), "mine", SPEC).test]

    halves = torch.arange(8).view(2, 4)
    shuffled = [test_split(lambda: halves[torch.randperm(2)]) for _ in range(6)]
    assert all(labels == [Y[:4].tolist(), Y[4:8].tolist()] for labels in shuffled)
    with pytest.raises(GhostsearchError, match="test loader draws other images each time"):
        test_split(lambda: torch.randperm(9).view(3, 3))
    with pytest.raises(GhostsearchError, match="a loader's Foreign draws no images"):
        test_split(lambda: 1 // 0)


def test_a_set_that_gives_whole_batches_is_labelled():
    batches = BatchSampler(RandomSampler(range(len(X))), 4, drop_last=False)
    data = own(DataLoader(TensorDataset(X, Y), batch_size=None, sampler=batches))
    assert data.labelled
    (images, labels), *_ = spread_batches(data.train, 3)
    assert (images.shape, labels.shape) == ((4, 1, 4, 4), (4,))


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (3, "the train loader is a int"),
        (X, "the train loader is a Tensor"),
        ("text", "the train loader is a str"),
        (iter([(X, Y)]), "can be read only once"),
        (DataLoader(Rows(lambda i: {"photo": X[i]}), 4), "has the keys photo; expected"),
        ([None], "a batch is a NoneType"),
        (
            DataLoader(Rows(lambda i: (X[i], "cat")), 4),
            "text such as 'cat', and the data name no classes",
        ),
        (DataLoader(Named(lambda i: (X[i], "cat")), 4), "'cat', and the data name 3 other classes"),
    ],
)
def test_what_is_no_loader_gets_one_line(loader, said):
    with pytest.raises(GhostsearchError, match=said) as caught:
        list(own(loader).train)
    assert "\n" not in str(caught.value)


def test_a_function_that_raises_gets_one_line(tmp_path, monkeypatch):
    import sys

    from ghostsearch.data.load import load_data

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "raising_loaders.py").write_text("def data():\n    raise OSError('disk gone')\n")
    with pytest.raises(GhostsearchError, match="failed: OSError: disk gone"):
        load_data("raising_loaders:data", input=SPEC)
    sys.modules.pop("raising_loaders", None)


def test_an_error_in_a_worker_is_one_line():
    bad = DataLoader(Rows(lambda i: {"photo": np.zeros(3)}), 4, num_workers=1)
    with pytest.raises(GhostsearchError, match=r"^a batch has the keys photo") as caught:
        list(own_data((DataLoader(TensorDataset(X, Y)), bad, bad), "mine", SPEC).test)
    assert "\n" not in str(caught.value)


def test_own_loaders_are_not_shortened(tmp_path, monkeypatch):
    (tmp_path / "own_sets.py").write_text("def loaders():\n    raise AssertionError\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(GhostsearchError, match="leave --train-images out"):
        load_data("own_sets:loaders", input=SPEC, train_images=4)
