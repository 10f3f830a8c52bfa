"""Data sets by name."""

from __future__ import annotations

import gzip
import struct
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from ghostsearch.data.calibration import calibration_batches, spread_batches
from ghostsearch.data.load import Data, load_data, place_of, read_fingerprint
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.input import InputSpec

GREY = InputSpec(8, 1, (0.3,), (0.4,))


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits", input=GREY, batch=32)


def test_digits_are_scikit_learns_in_three_splits(digits):
    splits = (digits.train.dataset, digits.validation.dataset, digits.test.dataset)
    assert [len(s) for s in splits] == [1797 - 2 * 360, 360, 360]
    assert digits.classes == tuple("0123456789")
    assert digits.broken == ()
    given = np.concatenate([np.sort(s.images.reshape(len(s), -1), axis=1) for s in splits])
    wanted = np.sort(np.round(load_digits().images * 255 / 16).astype(np.uint8).reshape(1797, -1), axis=1)
    order = np.lexsort(given.T), np.lexsort(wanted.T)
    assert (given[order[0]] == wanted[order[1]]).all()


def test_batches_of_digits(digits):
    x, y = next(iter(digits.train))
    assert x.shape == (32, 1, 8, 8)
    assert x.dtype == torch.float32
    assert y.shape == (32,)
    assert sum(len(x) for x, _ in digits.test) == 360
    assert sum(len(x) for x, _ in digits.train) == 1077 // 32 * 32


def test_digits_are_shifted_but_not_mirrored_and_only_in_training(digits):
    assert (digits.train.dataset.shift, digits.train.dataset.flips) == (1, False)
    for loader in (digits.validation, digits.test):
        assert (loader.dataset.shift, loader.dataset.flips) == (0, False)


def test_the_seed_makes_splits_and_order():
    a, b, c = (load_data("digits", input=GREY, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.test.dataset.labels, b.test.dataset.labels)
    assert torch.equal(next(iter(a.train))[1], next(iter(b.train))[1])
    assert not torch.equal(a.test.dataset.images, c.test.dataset.images)


def test_digits_for_a_larger_colour_model():
    data = load_data("digits", input=InputSpec(16))
    x, _ = next(iter(data.test))
    assert x.shape[1:] == (3, 16, 16)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (InputSpec(16).mean, InputSpec(16).std))
    grey = x * std + mean
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    assert not data.train.dataset.flips


def test_fewer_training_images_leave_the_other_splits_alone(digits):
    few = load_data("digits", input=GREY, train_images=50)
    assert len(few.train.dataset) == 50
    assert few.train.dataset.labels.bincount().tolist() == [5] * 10
    assert torch.equal(few.test.dataset.images, digits.test.dataset.images)
    assert any("50 of 1077" in note for note in few.notes)
    with pytest.raises(GhostsearchError, match="at least 1, got 0"):
        load_data("digits", input=GREY, train_images=0)


def test_a_small_training_set_keeps_its_only_batch():
    data = load_data("digits", input=GREY, train_images=20, batch=64)
    assert [len(x) for x, _ in data.train] == [20]


def test_calibration_images_are_baseline_training_images(digits):
    batches = calibration_batches(digits, 100, seed=3, batch=48)
    assert [len(b) for b in batches] == [48, 48, 4]
    # They are read when looked at: nothing is held, and every pass reads the same.
    assert batches[0] is not batches[0]
    assert [len(b) for b in batches[1:]] == [48, 4]
    again = calibration_batches(digits, 100, seed=3, batch=48)
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not torch.equal(batches[0], calibration_batches(digits, 100, seed=4, batch=48)[0])
    baseline = digits.train.dataset.unaugmented()
    everything = {x.numpy().tobytes() for x, _ in (baseline[i] for i in range(len(baseline)))}
    assert {x.numpy().tobytes() for x in torch.cat(list(batches))} <= everything
    assert len(torch.cat(list(calibration_batches(digits, 10_000)))) == 1077


def write_idx(path, array):
    """The format of MNIST's files: magic number, shape, bytes."""
    head = struct.pack(">HBB", 0, 8, array.ndim) + b"".join(struct.pack(">I", n) for n in array.shape)
    path.write_bytes(head + array.tobytes())


@pytest.fixture
def mnist_root(tmp_path):
    """scikit-learn's digits in the files that torchvision's MNIST reads."""
    digits, raw = load_digits(), tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.zeros((1797, 28, 28), dtype=np.uint8)
    images[:, 10:18, 10:18] = digits.images * 15
    for name, part in (("train", slice(0, 1400)), ("t10k", slice(1400, None))):
        write_idx(raw / f"{name}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{name}-labels-idx1-ubyte", digits.target[part].astype(np.uint8))
    return tmp_path


def test_a_torchvision_set_on_disk(mnist_root):
    data = load_data(f"torchvision:MNIST@{mnist_root}", input=InputSpec(28, 1, (0.1,), (0.3,)))
    sizes = [len(loader.dataset) for loader in (data.train, data.validation, data.test)]
    assert sizes == [1400 - 1400 // 5, 1400 // 5, 397]
    assert len(data.classes) == 10
    assert not data.train.dataset.flips
    assert data.test.dataset.labels.tolist() == load_digits().target[1400:].tolist()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("torchvision:MNIST", "names no folder"),
        ("torchvision:NoSuchSet@/tmp", "has no data set 'NoSuchSet'"),
        ("torchvision:os@/tmp", "has no data set 'os'"),
        ("torchvision:CIFAR10@/nonexistent", "cannot be read from"),
        ("torchvision:FakeData@/nonexistent", "no training and test split"),
        ("nonsense", "no data set 'nonsense'"),
        ("", "no data set ''"),
        ("folder:", "holds no image|no folder|must keep|no readable"),
    ],
)
def test_what_is_not_there_gets_one_line(spec, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GhostsearchError, match=said) as caught:
        load_data(spec, input=GREY)
    assert "\n" not in str(caught.value)


def test_damaged_torchvision_files_get_one_line(mnist_root):
    file = mnist_root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(gzip.compress(b"x"))
    with pytest.raises(GhostsearchError, match="cannot be read"):
        load_data(f"torchvision:MNIST@{mnist_root}", input=GREY)


def test_other_bad_arguments(tmp_path):
    with pytest.raises(GhostsearchError, match="batch must be at least 1"):
        load_data("digits", input=GREY, batch=0)
    with pytest.raises(GhostsearchError, match="goes with folder:PATH"):
        load_data("digits", input=GREY, validation_list=tmp_path / "x")
    with pytest.raises(GhostsearchError, match="takes 4 channels"):
        load_data("digits", input=InputSpec(8, 4, (0.5,) * 4, (0.5,) * 4))
    with pytest.raises(GhostsearchError, match=f"no data set '{tmp_path}'; write folder:{tmp_path}$"):
        load_data(str(tmp_path), input=GREY)


USERS = """
import torch
from torch.utils.data import DataLoader, TensorDataset
def loader(n, batch): return DataLoader(TensorDataset(torch.zeros(n, 5, 4, 4), torch.zeros(n)), batch_size=batch)
def three(batch, input): return loader(8, batch), loader(4, batch), loader(2, batch)
def mapping(): return {"train": loader(8, 2), "validation": loader(4, 2), "test": loader(2, 2), "more": 1}
def two(): return loader(1, 1), loader(1, 1)
number = 3
"""


@pytest.fixture
def users_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "users_loaders.py").write_text(USERS)
    yield "users_loaders"
    sys.modules.pop("users_loaders", None)


def test_loaders_of_the_users_own(users_module):
    five = InputSpec(4, 5, (0.0,) * 5, (1.0,) * 5)
    data = load_data(f"{users_module}:three", input=five, batch=3)
    assert data.name == "users_loaders:three"
    assert [len(x) for x, _ in data.train] == [3, 3, 2]
    assert [b.shape for b in calibration_batches(data, 5)] == [(3, 5, 4, 4), (2, 5, 4, 4)]
    assert len(load_data(f"{users_module}:mapping", input=five).test.dataset) == 2


@pytest.mark.parametrize(("name", "said"), [("two", "three loaders"), ("number", "not a function")])
def test_what_is_no_loader_function_gets_one_line(users_module, name, said):
    with pytest.raises(GhostsearchError, match=said):
        load_data(f"{users_module}:{name}", input=GREY)


def test_calibrating_on_nothing_gets_one_line():
    empty = DataLoader(TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0)))
    with pytest.raises(GhostsearchError, match="no training images"):
        calibration_batches(Data("x", empty, empty, empty))


@pytest.mark.parametrize("shuffle", [True, False])
def test_calibration_images_of_a_users_loader_are_drawn_by_the_seed(shuffle):
    images, labels = torch.arange(40.0).reshape(40, 1), torch.arange(40) // 10
    mine = DataLoader(TensorDataset(images, labels), 4, shuffle=shuffle)
    drawn = [torch.cat([*calibration_batches(Data("x", mine, mine, mine), 16, seed=seed)]) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert len({int(x) // 10 for x in drawn[0]}) > 1, "of a set that is sorted by class"


@pytest.mark.parametrize("places", [[5, 1, 9, 30], SubsetRandomSampler([5, 1, 9, 30])])
def test_spread_batches_read_nothing_outside_a_loaders_part_of_its_set(places):
    loader = DataLoader(TensorDataset(torch.arange(40.0).reshape(40, 1), torch.zeros(40)), 2, sampler=places)
    for images in (2, 3, 40):
        found = torch.cat([x for x, _ in spread_batches(loader, images)]).flatten()
        assert len(found) == min(images, 4)
        assert {*found.tolist()} <= {5.0, 1.0, 9.0, 30.0}


def test_spread_batches_see_every_class_of_a_folder_read_class_by_class():
    images, labels = torch.arange(40.0).reshape(40, 1), torch.arange(40) // 10
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    batches = spread_batches(loader, 8)
    assert [len(target) for _, target in batches] == [4, 4]
    assert torch.cat([target for _, target in batches]).bincount().tolist() == [2, 2, 2, 2]
    assert [x.tolist() for x, _ in spread_batches(list(loader), 6)] == [x.tolist() for x, _ in list(loader)[:2]]


def known(spec, **options):
    found = load_data(spec, input=GREY, **options).fingerprint
    same = {k: options[k] for k in ("seed", "train_images") if k in options}
    assert read_fingerprint(spec, input=GREY, **{"seed": 0, **same}) == found, "and without an image decoded"
    return found


def test_splits_are_known_by_names_targets_and_sizes_wherever_the_folder_stands(write_digits, tmp_path):
    first = known(f"folder:{write_digits(tmp_path / 'a')}")
    assert [told.split(",")[0] for told in first.values()] == ["19 images", "6 images", "5 images"]
    assert known(f"folder:{write_digits(tmp_path / 'b')}") == first
    assert known(f"folder:{tmp_path / 'b'}", seed=1)["test"] != first["test"]
    fewer = known(f"folder:{tmp_path / 'b'}", train_images=9)
    assert {s for s in first if first[s] != fewer[s]} == {"train"}
    write_digits(tmp_path / "more", each=11)
    assert all(told != first[s] for s, told in known(f"folder:{tmp_path / 'more'}").items())
    (tmp_path / "b" / "class0").rename(tmp_path / "b" / "class9")
    assert all(told != first[s] for s, told in known(f"folder:{tmp_path / 'b'}").items())
    name = next(iter((tmp_path / "a" / "class0").iterdir()))
    name.write_bytes(name.read_bytes() + b" ")
    assert len([s for s, told in known(f"folder:{tmp_path / 'a'}").items() if told != first[s]]) == 1


def test_splits_of_arrays_are_known_by_what_they_hold(tmp_path):
    x, y, found = np.arange(30 * 64, dtype=np.float32).reshape(30, 1, 8, 8) / 1920, np.arange(30) % 3, []
    for images, targets in ((x, y), (x, y), (x[:, :, ::-1], y), (x, (y + 1) % 3)):
        np.savez(tmp_path / "a.npz", x=images, y=targets)
        found.append(known(f"arrays:{tmp_path / 'a.npz'}"))
    assert found[0] == found[1]
    assert len({told["test"] for told in found}) == 3


def test_loaders_of_the_users_own_are_not_known(users_module):
    five = InputSpec(4, 5, (0.0,) * 5, (1.0,) * 5)
    assert load_data(f"{users_module}:three", input=five, batch=3).fingerprint == {}
    assert read_fingerprint("no_such_module:three", input=five, seed=0) == {}


@pytest.mark.parametrize("other", ["folder:cats/", "folder:./cats", "folder:dogs/../cats", "folder:{here}/cats"])
def test_a_place_has_one_name(other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place_of(other.format(here=tmp_path)) == place_of("folder:cats")
    assert place_of("folder:cats") != place_of("csv:cats")
    assert place_of("torchvision:MNIST@r/") == place_of("torchvision:MNIST@r") != place_of("torchvision:KMNIST@r")
