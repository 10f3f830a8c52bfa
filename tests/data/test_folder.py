"""Image folders: layouts, lists of validation images, broken files."""

from __future__ import annotations

import os
import sys
from collections import Counter

import pytest
import skimage.data
from PIL import Image

from ghostsearch.data.folder import read_folder
from ghostsearch.data.load import load_data
from ghostsearch.errors import GhostsearchError


def names(source, split):
    return [source.names[i] for i in source.splits[split]]


def test_a_bare_folder_is_split_by_class_and_seed(write_digits, digit_input, tmp_path):
    root = write_digits(tmp_path)
    source = read_folder(root, digit_input, seed=0)
    # 30 images: a fifth for the test, then a fifth of the rest (24) for validation.
    assert {k: len(v) for k, v in source.splits.items()} == {"test": 6, "validation": 5, "train": 19}
    together = [i for positions in source.splits.values() for i in positions]
    assert sorted(together) == list(range(30))
    assert Counter(source.targets[i] for i in source.splits["test"]) == {0: 2, 1: 2, 2: 2}
    assert source.classes == ("class0", "class1", "class2")
    assert read_folder(root, digit_input, seed=0).splits == source.splits
    assert read_folder(root, digit_input, seed=1).splits != source.splits


def test_train_and_test_folders_are_respected(write_digits, digit_input, tmp_path):
    write_digits(tmp_path / "train")
    write_digits(tmp_path / "test", each=4, start=10)
    source = read_folder(tmp_path, digit_input, seed=0)
    assert all(name.startswith("test/") for name in names(source, "test"))
    assert len(names(source, "test")) == 3 * 4
    assert all(name.startswith("train/") for name in names(source, "train") + names(source, "validation"))


def test_all_three_folders_are_respected(write_digits, digit_input, tmp_path):
    for part, start in (("train", 0), ("valid", 10), ("test", 14)):
        write_digits(tmp_path / part, each=4, start=start)
    source = read_folder(tmp_path, digit_input, seed=0)
    assert {s: names(source, s)[0].split("/")[0] for s in source.splits} == {
        "train": "train", "validation": "valid", "test": "test",
    }  # fmt: skip


def test_a_lone_val_folder_is_the_test_split(write_digits, digit_input, tmp_path):
    write_digits(tmp_path / "train")
    write_digits(tmp_path / "val", each=4, start=10)
    source = read_folder(tmp_path, digit_input, seed=0)
    assert {name.split("/")[0] for name in names(source, "test")} == {"val"}
    assert {name.split("/")[0] for name in names(source, "validation")} == {"train"}


@pytest.mark.parametrize("prefix", ["train/", "./train/", ""])
def test_a_list_makes_the_selection_split(write_digits, digit_input, tmp_path, prefix):
    write_digits(tmp_path / "train")
    write_digits(tmp_path / "test", each=4, start=10)
    wanted = ["class0/001.png", "class2/007.png"]
    (tmp_path / "list.txt").write_text("".join(f"{prefix}{w}\n" for w in wanted) + "\n")
    source = read_folder(tmp_path, digit_input, 0, tmp_path / "list.txt")
    assert names(source, "validation") == [f"train/{w}" for w in wanted]
    assert len(names(source, "train")) == 30 - 2
    assert not set(names(source, "train")) & set(names(source, "validation"))


def test_a_list_beside_val_loses_no_image(write_digits, digit_input, tmp_path):
    write_digits(tmp_path / "train")
    write_digits(tmp_path / "val", each=4, start=10)
    (tmp_path / "list.txt").write_text("class0/001.png\n")
    source = read_folder(tmp_path, digit_input, 0, tmp_path / "list.txt")
    assert {name.split("/")[0] for name in names(source, "test")} == {"val"}
    assert [len(source.splits[s]) for s in ("train", "validation", "test")] == [29, 1, 12]
    write_digits(tmp_path / "test", each=4, start=14)
    with pytest.raises(GhostsearchError, match="val holds the validation images; leave out the list"):
        read_folder(tmp_path, digit_input, 0, tmp_path / "list.txt")


@pytest.mark.parametrize("line", ["train/class0/999.png", "../outside.png", "test/class0/010.png", "/etc/passwd"])
def test_a_list_names_training_images_only(write_digits, digit_input, tmp_path, line):
    write_digits(tmp_path / "train")
    write_digits(tmp_path / "test", each=4, start=10)
    (tmp_path / "list.txt").write_text(f"train/class0/001.png\n{line}\n")
    with pytest.raises(GhostsearchError, match="1 of 2 are no training images"):
        read_folder(tmp_path, digit_input, 0, tmp_path / "list.txt")


def test_a_list_leaves_every_class_an_image_to_train_on(write_digits, digit_input, tmp_path):
    write_digits(tmp_path / "train", each=3)
    (tmp_path / "list.txt").write_text("".join(f"class1/{n:03}.png\n" for n in range(3)) + "class0/000.png\n")
    with pytest.raises(
        GhostsearchError, match=r"list\.txt: names every training image of class 'class1'; leave each class an"
    ):
        read_folder(tmp_path, digit_input, 0, tmp_path / "list.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are text")
@pytest.mark.parametrize("layout", ["", "train"])
def test_a_class_whose_name_is_no_utf_8_is_refused_before_the_work(write_digits, digit_input, tmp_path, layout):
    write_digits(tmp_path / layout)
    os.rename(tmp_path / layout / "class1", os.fsencode(tmp_path / layout) + b"/caf\xe9")
    refuse(tmp_path, digit_input, r"the class folder 'caf\\xe9' has a name that is no UTF-8; rename it")


def test_an_unreadable_list_gets_one_line(write_digits, digit_input, tmp_path):
    write_digits(tmp_path)
    for content in (b"", b"\xff\xfe\x00"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(GhostsearchError, match=r"list\.txt"):
            read_folder(tmp_path, digit_input, 0, tmp_path / "list.txt")
    with pytest.raises(GhostsearchError, match="cannot read the list"):
        read_folder(tmp_path, digit_input, 0, tmp_path / "absent.txt")


def test_broken_images_are_skipped_and_named(write_digits, digit_input, tmp_path):
    write_digits(tmp_path / "train")
    write_digits(tmp_path / "test", each=4, start=10)
    truncated = tmp_path / "train/class0/003.png"
    truncated.write_bytes(truncated.read_bytes()[:60])
    (tmp_path / "train/class1/text.jpg").write_text("no image")
    (tmp_path / "test/class2/empty.png").touch()
    data = load_data(f"folder:{tmp_path}", input=digit_input)
    assert [line.split(":")[0] for line in data.broken] == [
        "train/class0/003.png", "train/class1/text.jpg", "test/class2/empty.png",
    ]  # fmt: skip
    loaded = sum(len(x) for loader in (data.validation, data.test) for x, _ in loader) + len(data.train.dataset)
    assert loaded == 3 * 10 - 1 + 3 * 4


def test_a_broken_file_leaves_the_others_in_their_split(write_digits, digit_input, tmp_path):
    root = write_digits(tmp_path)
    before = read_folder(root, digit_input, seed=0)
    victim = names(before, "train")[0]
    (root / victim).write_bytes(b"")
    data = load_data(f"folder:{root}", input=digit_input)
    assert len(data.train.dataset) == len(before.splits["train"]) - 1
    assert len(data.test.dataset) == len(before.splits["test"])


def test_a_class_with_only_broken_images_is_refused(write_digits, digit_input, tmp_path):
    write_digits(tmp_path)
    for file in (tmp_path / "class1").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(GhostsearchError, match="class 'class1' has no readable image left in the train split"):
        load_data(f"folder:{tmp_path}", input=digit_input)


def refuse(root, digit_input, match):
    with pytest.raises(GhostsearchError, match=match) as caught:
        load_data(f"folder:{root}", input=digit_input)
    assert "\n" not in str(caught.value)


def test_an_empty_class_an_empty_folder_and_no_folder_are_refused(write_digits, digit_input, tmp_path):
    refuse(tmp_path / "absent", digit_input, "no folder")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", digit_input, "holds no image")
    write_digits(tmp_path / "some")
    (tmp_path / "some" / "class9").mkdir()
    (tmp_path / "some" / "class9" / "recording.wav").write_text("no image either")
    refuse(tmp_path / "some", digit_input, "class9' holds no image; .* recordings come as arrays:FILE.npz")


def test_a_test_class_without_training_images_is_refused(write_digits, digit_input, tmp_path):
    write_digits(tmp_path / "train", classes=(0, 1))
    write_digits(tmp_path / "test", classes=(0, 1, 2))
    refuse(tmp_path, digit_input, "class2 is a class that .*train has not")


def test_images_without_classes_calibrate(digit_input, write_digits, tmp_path):
    write_digits(tmp_path / "x", classes=(4,))
    data = load_data(f"folder:{tmp_path / 'x' / 'class4'}", input=digit_input)
    assert data.classes == ()
    assert len(data.train.dataset) + len(data.validation.dataset) + len(data.test.dataset) == 10


def test_pipes_hidden_folders_and_looping_links_are_left_alone(write_digits, digit_input, tmp_path):
    root = write_digits(tmp_path / "x")
    os.mkfifo(root / "class0" / "pipe.png")
    (root / ".cache").mkdir()
    (root / "class0" / "loop").symlink_to(root / "class0", target_is_directory=True)
    source = read_folder(root, digit_input, seed=0)
    assert len(source.names) == 30


def test_photographs_may_be_mirrored_and_grey_images_not(write_digits, digit_input, tmp_path):
    assert not read_folder(write_digits(tmp_path / "grey"), digit_input, seed=0).flips
    for name in ("astronaut", "coffee"):
        (tmp_path / "colour" / name).mkdir(parents=True)
        photograph = Image.fromarray(getattr(skimage.data, name)())
        for n in range(5):
            photograph.resize((40, 30)).save(tmp_path / "colour" / name / f"{n}.jpg")
    assert read_folder(tmp_path / "colour", digit_input, seed=0).flips
