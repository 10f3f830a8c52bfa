"""Folders, images, tables and arrays as people have them: read, scaled by a known range, or refused in one line."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ghostsearch.data.images import BrokenImageError, deep_range, eight_bits, fit
from ghostsearch.data.load import load_calibration, load_data
from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.models.input import InputSpec, parse_size

GREY, COLOUR = InputSpec(8, 1, (0.0,), (1.0,)), InputSpec(8, 3, (0.0,) * 3, (1.0,) * 3)
RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def write(folder: Path, count: int = 6, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        Image.fromarray(np.full((8, 8), (9 * i + 1) % 256, np.uint8)).save(folder / f"{i}.png")
    return folder


def classes(root: Path, names: str = "abc", count: int = 6) -> Path:
    for name in names:
        write(root / name, count)
    return root


def refused(spec: str, said: str, input_spec: InputSpec = GREY) -> None:
    with pytest.raises(GhostsearchError, match=said) as caught:
        load_data(spec, input=input_spec)
    assert "\n" not in str(caught.value)


def test_classes_in_train_and_a_flat_test_folder_are_refused_before_the_work(tmp_path):
    classes(tmp_path / "train")
    write(tmp_path / "test")
    refused(f"folder:{tmp_path}", "test has no class folders, .*train has; sort its images")


@pytest.mark.parametrize("layout", ["cifar/train/a", "cifar/a", "x/Test/a"])
def test_one_level_too_high_names_the_folder_to_give(tmp_path, layout):
    write(tmp_path / "root" / layout)
    refused(
        f"folder:{tmp_path / 'root'}", f"one level too high: .*write folder:{tmp_path}/root/{layout.split('/')[0]}$"
    )


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("TRAINING", "Testing"), ("train", "TEST")])
def test_capitals_do_not_matter(tmp_path, train, test):
    classes(tmp_path / train)
    classes(tmp_path / test, count=2)
    data = load_data(f"folder:{tmp_path}", input=GREY)
    assert data.classes == ("a", "b", "c")
    assert len(data.test.dataset) == 6


def test_two_training_folders_and_a_test_folder_alone_are_refused(tmp_path):
    classes(tmp_path / "one" / "test")
    refused(f"folder:{tmp_path / 'one'}", "holds test/ but no train/")
    classes(tmp_path / "two" / "train")
    classes(tmp_path / "two" / "Training")
    refused(f"folder:{tmp_path / 'two'}", "keep one of them")


@pytest.mark.parametrize("names", [("bus", "car", "train"), ("Test", "bus"), ("bus", "train", "training", "val")])
def test_a_class_may_be_called_train(tmp_path, names):
    """As in the vehicles of VOC and COCO."""
    for name in names:
        write(tmp_path / name)
    data = load_data(f"folder:{tmp_path}", input=GREY)
    assert data.classes == names
    assert any("classes as the folders beside them, no splits" in note for note in data.notes)


def test_classes_beside_splits_are_not_lost(tmp_path):
    classes(tmp_path / "train")
    (tmp_path / "devkit").mkdir()
    assert load_data(f"folder:{tmp_path}", input=GREY).classes == ("a", "b", "c")
    write(tmp_path / "bus")
    refused(f"folder:{tmp_path}", "holds images in bus beside train/, which has class folders of its own")


def test_hidden_folders_and_files_are_left_alone(tmp_path):
    classes(tmp_path)
    for hidden in ("a/.ipynb_checkpoints", ".git", "__MACOSX", "b/.thumbs"):
        write(tmp_path / hidden)
    (tmp_path / "a" / "._0.png").write_bytes(b"resource fork")
    data = load_data(f"folder:{tmp_path}", input=GREY)
    assert data.classes == ("a", "b", "c")
    assert sum(len(x.dataset) for x in (data.train, data.validation, data.test)) == 18
    assert not data.broken


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    classes(tmp_path / "pictures")
    assert load_data("folder:~/pictures", input=GREY).classes == ("a", "b", "c")


def test_unlabelled_images_have_no_label_at_all(tmp_path):
    data = load_data(f"folder:{write(tmp_path, 10)}", input=GREY)
    assert (data.labelled, data.kind, data.classes) == (False, "none", ())
    assert all(target is None for loader in (data.train, data.test) for _, target in loader)


def test_images_beside_class_folders_are_said_to_be_left_out(tmp_path):
    classes(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "stray.png")
    assert "1 images beside the class folders were left out" in load_data(f"folder:{tmp_path}", input=GREY).notes


DEEP = {
    "float 0 to 1": RAMP.astype(np.float32),
    "float 0 to 255": (RAMP * 255).astype(np.float32),
    "int32 0 to 255": (RAMP * 255).astype(np.int32),
    "12 bits in 16": (RAMP * 4095).astype(np.uint16),
    "16 bits": (RAMP * 65535).astype(np.uint16),
    "10 bits in 32": (RAMP * 1023).astype(np.int32),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("spec", [GREY, COLOUR])
def test_deep_images_keep_their_greys(tmp_path, name, spec):
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(4):
            Image.fromarray(DEEP[name]).save(tmp_path / label / f"{i}.tif")
    data = load_data(f"folder:{tmp_path}", input=spec)
    images, _ = next(iter(data.test))
    assert not data.broken
    # 16 bits keep their upper byte; all others are rounded.
    assert (images[0] - torch.tensor(RAMP)).abs().max() < 1.01 / 255
    assert len(images[0].unique()) >= 63


def test_a_dark_image_is_scaled_like_the_others_of_its_set(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for i, most in enumerate((4095, 100, 4095, 4095)):
            Image.fromarray((RAMP * most).astype(np.uint16)).save(tmp_path / label / f"{i}.tif")
    found = load_calibration(f"folder:{tmp_path}", input=GREY, images=100)
    tops = sorted({round(float(x.max()), 2) for batch in found.batches for x in batch})
    assert tops == [0.02, 1.0] or tops == [1.0]
    assert deep_range([lambda: Image.fromarray((RAMP * 100).astype(np.uint16))] * 2) == 255


@pytest.mark.parametrize("limit", [2**30, 0])
def test_the_range_is_the_whole_sets_wherever_it_is_opened(tmp_path, monkeypatch, limit):
    """Also where one bright image among many would be missed by looking at some."""
    import ghostsearch.data.load

    monkeypatch.setattr(ghostsearch.data.load, "MEMORY_LIMIT_BYTES", limit)
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(150):
            Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / label / f"{i:03}.tif")
    Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(tmp_path / "a" / "006.tif")
    Image.new("L", (8, 8)).save(tmp_path / "b" / "shallow.jpg")
    data = load_data(f"folder:{tmp_path}", input=GREY, workers=0)
    assert not data.broken
    seen = {float(x.max()) * 255 for loader in (data.validation, data.test) for images, _ in loader for x in images}
    assert {round(value) for value in seen} <= {0, 15, 234}
    for seed in range(2):
        few = load_calibration(f"folder:{tmp_path}", input=GREY, images=4, seed=seed)
        assert {round(float(x.max()) * 255) for x in few.batches[0]} <= {0, 15, 234}
    some = load_data(f"folder:{tmp_path}", input=GREY, workers=0, train_images=4, test_images=4)
    assert {round(float(x.max()) * 255) for images, _ in some.test for x in images} <= {0, 15, 234}


def test_the_image_to_be_restored_counts_in_the_range(tmp_path):
    for i in range(10):
        Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(tmp_path / f"{i}.tif")
        Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(tmp_path / f"t{i}.tif")
    data = load_data(table(tmp_path, "path,target", [f"{i}.tif,t{i}.tif" for i in range(10)]), input=GREY)
    images, targets = next(iter(data.test))
    assert (round(float(images.max()) * 255), round(float(targets.max()) * 255)) == (1000 // 256, 60_000 // 256)


def test_a_pair_smaller_than_its_crop_is_left_out_not_padded(tmp_path):
    for i in range(10):
        Image.new("L", (8, 7 if i < 5 else 8), 200).save(tmp_path / f"{i}.png")
    data = load_data(table(tmp_path, "path,target", [f"{i}.png,{i}.png" for i in range(10)]), input=GREY, workers=0)
    loaders = (data.train, data.validation, data.test)
    with pytest.warns(GhostsearchWarning, match="8x7 pixels, fewer than the 8x8 that pairs are cropped to"):
        seen = [y for loader in loaders for _, y in loader]
    assert all(y.min() == y.max() == 200 / 255 for y in seen)


@pytest.mark.parametrize(
    "values", [np.full((8, 8), 70_000, np.int32), np.full((8, 8), -1, np.int32), np.full((8, 8), np.nan, np.float32)]
)
def test_values_of_no_known_range_are_broken_not_black(values):
    with pytest.raises(BrokenImageError, match="expected"):
        eight_bits(Image.fromarray(values))


def test_broken_images_are_counted_and_named_by_every_reader(tmp_path):
    classes(tmp_path)
    (tmp_path / "a" / "0.png").write_bytes(b"no image")
    (tmp_path / "b" / "1.png").write_bytes((tmp_path / "b" / "2.png").read_bytes()[:50])
    for reader in (load_data, load_calibration):
        with pytest.warns(GhostsearchWarning, match=r"2 of \d+ images are broken and left out: .*0\.png.*1\.png"):
            found = reader(f"folder:{tmp_path}", input=GREY)
        assert len(found.broken) == 2


def test_calibrating_counts_the_images_that_there_are(tmp_path):
    found = load_calibration(f"folder:{write(tmp_path, 3)}", input=GREY, images=16)
    assert (found.images, sum(len(b) for b in found.batches)) == (3, 3)


def test_calibrating_needs_no_split(tmp_path):
    for i in range(50):
        write(tmp_path / f"class{i}", 1)
    found = load_calibration(f"folder:{tmp_path}", input=GREY, images=40)
    assert found.images == 40
    refused(f"folder:{tmp_path}", "50 images in 50 classes leave none for the validation split")
    data = load_data(f"folder:{tmp_path}", input=GREY, trains=False)
    assert len(data.test.dataset) == 50
    assert "test: all 50 images, since there are too few to split" in data.notes


def test_calibrating_decodes_only_what_it_takes(tmp_path, monkeypatch):
    import ghostsearch.data.folder

    opened = []
    real = ghostsearch.data.folder.open_file
    monkeypatch.setattr(ghostsearch.data.folder, "open_file", lambda *a: opened.append(a[0]) or real(*a))
    load_calibration(f"folder:{write(tmp_path, 30)}", input=GREY, images=5)
    assert len(set(opened)) == 5


def test_rare_classes_and_small_test_splits_are_told_in_numbers(tmp_path):
    write(tmp_path / "many", 60)
    write(tmp_path / "two", 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_data(f"folder:{tmp_path}", input=GREY)
    text = " ".join(str(w.message) for w in caught)
    assert "1 of 2 classes have fewer than 10 training images ('two' 1)" in text
    assert "accuracy on it is good to" in text
    assert "the report has the change of each" in text
    assert len(data.warnings) == len(caught)
    labels = [int(y) for loader in (data.train, data.test) for _, ys in loader for y in ys]
    assert labels.count(1) == 2, "a class of two is trained on and tested"


def test_a_rectangle_is_stretched_and_batches_have_its_shape(tmp_path):
    wide = Image.new("L", (200, 10))
    wide.paste(255, (170, 0, 200, 10))
    spec = InputSpec(parse_size("4x20"), 1, (0.0,), (1.0,))
    assert fit(wide, spec)[0, :, -1].tolist() == [255] * 4, "what stands at the end of a line is not cropped"
    data = load_data(f"folder:{classes(tmp_path)}", input=spec)
    assert next(iter(data.train))[0].shape[1:] == (1, 4, 20)


@pytest.mark.parametrize(
    ("text", "size"), [("224", 224), ("32x100", (32, 100)), ("32X32", 32), ((8, 9), (8, 9)), (7, 7)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "0", "32x", "1x2x3", "5000", "-3", "axb", "1e3", (0, 4)])
def test_bad_sizes_get_one_line(text):
    with pytest.raises(GhostsearchError, match="such as 224 or 32x100"):
        parse_size(text)


def table(folder: Path, header: str, rows: list[str]) -> str:
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    return f"csv:{folder / 't.csv'}"


def test_a_table_of_labels_with_its_own_splits(tmp_path):
    write(tmp_path / "i", 12)
    splits = ["train"] * 8 + ["val"] * 2 + ["Test"] * 2
    rows = [f"i/{i}.png,{'cat' if i % 2 else 'dog'},{splits[i]}" for i in range(12)]
    data = load_data(table(tmp_path, "path,label,split", rows), input=GREY)
    assert (data.classes, data.kind) == (("cat", "dog"), "class")
    assert [len(x.dataset) for x in (data.train, data.validation, data.test)] == [8, 2, 2]
    assert next(iter(data.test))[1].tolist() == [1, 0]


def test_labels_are_known_whatever_spaces_and_points_are_around_them(tmp_path):
    write(tmp_path / "i", 24)
    rows = [f"i/{i}.png,{i % 12}.0{' ' * (i < 6)}" for i in range(24)]
    assert load_data(table(tmp_path, "path,label", rows), input=GREY).classes == tuple(f"{i}.0" for i in range(12))


def test_a_table_without_a_column_to_learn_says_which_it_has(tmp_path):
    write(tmp_path / "i", 12)
    data = load_data(table(tmp_path, "path,class", [f"i/{i}.png,cat" for i in range(12)]), input=GREY)
    assert not data.labelled
    assert any("of the columns class none is label, labels" in note for note in data.notes)


def test_a_class_without_training_images_is_told(tmp_path):
    write(tmp_path / "i", 12)
    rows = [f"i/{i}.png,{'bird,test' if i > 9 else 'cat,train' if i % 2 else 'dog,train'}" for i in range(12)]
    told = load_data(table(tmp_path, "path,label,split", rows), input=GREY).warnings
    assert any("1 of 3 classes have no training image (such as 'bird')" in text for text in told)


def test_a_home_that_nobody_has_is_a_path_as_any(tmp_path):
    write(tmp_path / "i", 12)
    refused(table(tmp_path, "path,label", ["~nobody_here/a.png,1"]), r"1 of 1 files .* do not exist, such as .*~nobody")
    refused("folder:~nobody_here/x", "~nobody_here/x")


def test_a_file_in_two_splits_is_refused(tmp_path):
    write(tmp_path / "i", 8)
    rows = [f"i/{i}.png,{i % 2},{'train' if i < 6 else 'test'}" for i in range(8)]
    spec = table(tmp_path, "path,label,split", [*rows, "./i/3.png,1,test"])
    refused(spec, r"^i/3\.png stands in the train split and in the test split; keep it in one of them$")


@pytest.mark.parametrize("split", ["", ",train"])
def test_a_file_in_two_rows_is_refused(tmp_path, split):
    """Else a cut may put it on both sides: 54 of 300 images were trained on and judged by."""
    write(tmp_path / "i", 8)
    rows = [f"{place}i/{i}.png,{i % 2}{split}" for place in ("", f"{tmp_path}/") for i in range(2, 8)]
    spec = table(tmp_path, f"path,label{',split' * bool(split)}", rows)
    refused(spec, r"^i/2\.png stands 2 times in the train split; list each image once$")


@pytest.mark.parametrize("column", ["label", "labels"])
def test_classes_that_are_numbers_stand_in_the_order_of_the_outputs(tmp_path, column):
    write(tmp_path / "i", 24)
    spec = table(tmp_path, f"path,{column}", [f"i/{i}.png,{i % 12}" for i in range(24)])
    assert load_data(spec, input=GREY).classes == tuple(map(str, range(12)))
    spec = table(tmp_path, f"path,{column}", [f"i/{i}.png,{i % 12 or 'x'}" for i in range(24)])
    assert load_data(spec, input=GREY).classes[:3] == ("1", "10", "11")


def test_a_table_of_several_labels_and_one_of_values(tmp_path):
    write(tmp_path / "i", 10)
    rows = [f"i/{i}.png,{'red;big' if i % 2 else 'big'}" for i in range(10)]
    data = load_data(table(tmp_path, "path,labels", rows), input=GREY)
    assert (data.kind, data.classes) == ("labels", ("big", "red"))
    assert set(map(tuple, torch.cat([y for _, y in data.train]).tolist())) == {(1, 1), (1, 0)}
    data = load_data(table(tmp_path, "path,value_x,value_y", [f"i/{i}.png,{i},{-i}" for i in range(10)]), input=GREY)
    assert data.kind == "value"
    assert next(iter(data.test))[1].shape == (2, 2)


@pytest.mark.parametrize("limit", [2**30, 0])
@pytest.mark.parametrize("spec", [GREY, InputSpec((8, 16), 1, (0.0,), (1.0,))])
def test_images_with_values_are_shifted_in_memory_and_from_disk(tmp_path, monkeypatch, limit, spec):
    """A crop would change what is counted."""
    import ghostsearch.data.load

    monkeypatch.setattr(ghostsearch.data.load, "MEMORY_LIMIT_BYTES", limit)
    pixels = np.random.default_rng(0).integers(1, 256, spec.dims, dtype=np.uint8)
    for i in range(10):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    data = load_data(table(tmp_path, "path,value", [f"{i}.png,{i}" for i in range(10)]), input=spec, workers=0)
    padded = np.pad(pixels, 1)
    height, width = spec.dims
    windows = {padded[down : down + height, right : right + width].tobytes() for down in range(3) for right in range(3)}
    seen = {(x[0] * 255).round().byte().numpy().tobytes() for _ in range(5) for images, _ in data.train for x in images}
    assert seen <= windows
    assert len(seen) > 3


def test_masks_are_cropped_and_mirrored_with_their_images(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10):
        mask = np.zeros((12, 12), np.uint8)
        mask[: rng.integers(3, 9), : rng.integers(3, 9)] = 1
        Image.fromarray(np.stack([mask * 255] * 3, -1)).save(tmp_path / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / f"m{i}.png")
    data = load_data(table(tmp_path, "path,mask", [f"{i}.png,m{i}.png" for i in range(10)]), input=COLOUR)
    for loader in (data.train, data.test):
        images, masks = next(iter(loader))
        assert masks.dtype == torch.int64
        # Bilinear pixels differ from nearest ones at edges only.
        assert ((images[:, 0] > 0.5).long() == masks).float().mean() > 0.85


def test_image_pairs_are_cropped_at_one_place_and_not_resized(tmp_path):
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 200, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        Image.fromarray(pixels + 50).save(tmp_path / f"t{i}.png")
    data = load_data(table(tmp_path, "path,target", [f"{i}.png,t{i}.png" for i in range(10)]), input=GREY)
    for loader in (data.train, data.test):
        images, targets = next(iter(loader))
        torch.testing.assert_close(targets - images, torch.full_like(images, 50 / 255))


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("path,label", ["nowhere.png,a"], "1 of 1 files in column 'path' do not exist, such as .*nowhere.png"),
        ("path,mask", ["t.csv,gone.png"], "1 of 1 files in column 'mask' do not exist, such as .*gone.png"),
        ("file,label", ["a,b"], "needs columns separated by commas, `path` among them"),
        ("path,label,value", ["t.csv,a,1"], "columns label, value; keep the one"),
        ("path,value", ["t.csv,high"], "must hold numbers"),
        ("path,value_x,value_y", ["t.csv,1,2", "t.csv,3,nan"], r"t\.csv: row 3 has the value 3\.0, nan"),
        ("path,value", ["t.csv,1e39"], "row 2 has the value 1e.39, which cannot be learned; give a finite number"),
        ("path,label", ["t.csv,a", "t.csv,"], "row 3 has no label"),
        ("path,label,split", ["t.csv,a,later"], "row 2 has split 'later'"),
        ("", [], "no CSV table|needs columns"),
    ],
)
def test_bad_tables_get_one_line(tmp_path, header, rows, said):
    refused(table(tmp_path, header, rows), said)


def test_recordings_in_an_array_file(tmp_path):
    spec = InputSpec((16,), 2, (0.0, 0.0), (1.0, 1.0))
    x = np.random.default_rng(0).random((30, 2, 16))
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(30) % 3)
    data = load_data(f"arrays:{tmp_path / 'a.npz'}", input=spec)
    assert (data.kind, len(data.classes)) == ("class", 3)
    images, labels = next(iter(data.train))
    assert images.shape[1:] == (2, 16)
    assert labels.dtype == torch.int64
    np.savez(tmp_path / "b.npz", x=x, y=np.random.default_rng(0).random(30))
    assert load_data(f"arrays:{tmp_path / 'b.npz'}", input=spec).kind == "value"
    np.savez(tmp_path / "c.npz", x=x)
    assert not load_data(f"arrays:{tmp_path / 'c.npz'}", input=spec).labelled


def test_images_in_an_array_file_are_bytes_or_scaled(tmp_path):
    pixels, labels = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8), np.arange(30) % 3
    spec, given = f"arrays:{tmp_path / 'x.npz'}", []
    for x in (pixels, pixels / 255, (pixels > 99).astype(np.uint8), pixels > 99):
        np.savez(tmp_path / "x.npz", x=x, y=labels)
        given.append(next(iter(load_data(spec, input=GREY).test))[0])
    torch.testing.assert_close(given[0], given[1])
    assert torch.equal(given[2], given[3])
    assert given[3].max() == 1
    for x in (pixels.astype(float), pixels.astype(np.int32)):
        np.savez(tmp_path / "x.npz", x=x, y=labels)
        refused(spec, "x holds images of values from 0 up to 255; scale them to 0…1, or give uint8")
    np.savez(tmp_path / "x.npz", x=pixels / 127.5 - 1, y=labels)
    refused(spec, "x holds images of values from -1 up to 1; scale them to 0…1, or give uint8")


def test_recordings_beyond_the_memory_limit_are_not_broken(tmp_path, monkeypatch):
    import ghostsearch.data.load

    monkeypatch.setattr(ghostsearch.data.load, "MEMORY_LIMIT_BYTES", 0)
    x = np.random.default_rng(0).random((30, 2, 16))
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(30) % 3)
    spec = InputSpec((16,), 2, (0.0, 0.0), (1.0, 1.0))
    data = load_data(f"arrays:{tmp_path / 'a.npz'}", input=spec)
    assert sum(len(images) for loader in (data.train, data.validation, data.test) for images, _ in loader) == 30
    assert load_calibration(f"arrays:{tmp_path / 'a.npz'}", input=spec, images=4).images == 4


def test_bad_array_files_get_one_line(tmp_path):
    spec = InputSpec((16,), 2, (0.0, 0.0), (1.0, 1.0))
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2, 9)))
    refused(f"arrays:{tmp_path / 'a.npz'}", r"x has shape \(3, 2, 9\), the model wants \(N, 2, 16\)", spec)
    np.savez(tmp_path / "b.npz", x=np.array([{}], dtype=object))
    refused(f"arrays:{tmp_path / 'b.npz'}", "cannot be read as .npz", spec)
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 2, 16)), y=np.array(["a", "b"]))
    refused(f"arrays:{tmp_path / 'd.npz'}", r"y is <U1 \(2,\), expected numbers \(2,\) or \(2, K\)", spec)
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04")
    refused(f"arrays:{tmp_path / 'c.npz'}", "cannot be read as .npz", spec)
    refused(f"arrays:{tmp_path / 'none.npz'}", "cannot be read as .npz", spec)


def test_an_image_removed_half_way_is_left_out_of_its_batch(tmp_path, monkeypatch):
    import ghostsearch.data.load

    monkeypatch.setattr(ghostsearch.data.load, "MEMORY_LIMIT_BYTES", 0)
    data = load_data(f"folder:{classes(tmp_path)}", input=GREY, workers=0, batch=4)
    dataset = data.train.dataset
    (tmp_path / dataset.source.names[dataset.positions[0]]).unlink()
    with pytest.warns(GhostsearchWarning, match="FileNotFoundError"):
        images = sum(len(x) for x, _ in data.train)
    assert images >= len(dataset) // 4 * 4 - 1


def test_a_whole_broken_batch_is_one_line_even_from_a_worker(tmp_path, monkeypatch):
    import ghostsearch.data.load

    monkeypatch.setattr(ghostsearch.data.load, "MEMORY_LIMIT_BYTES", 0)
    data = load_data(f"folder:{classes(tmp_path)}", input=GREY, workers=1)
    for file in tmp_path.glob("*/*.png"):
        file.unlink()
    with pytest.raises(GhostsearchError, match=r"^a whole batch of images is broken") as caught:
        list(data.test)
    assert "\n" not in str(caught.value)


def test_a_set_that_hugging_face_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [Image.fromarray(np.full((8, 8), 5 * i, np.uint8)) for i in range(30)]
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b", "c"])})
    whole = datasets.Dataset.from_dict({"picture": images, "kind": [i % 3 for i in range(30)]}, features=features)
    datasets.DatasetDict({"train": whole, "test": whole.select(range(6))}).save_to_disk(tmp_path / "two")
    whole.remove_columns("kind").save_to_disk(tmp_path / "unlabelled")
    data = load_data(f"huggingface:{tmp_path / 'two'}", input=GREY)
    assert (data.classes, len(data.test.dataset)) == (("a", "b", "c"), 6)
    assert next(iter(data.test))[1].tolist() == [0, 1, 2, 0, 1, 2]
    assert not load_data(f"huggingface:{tmp_path / 'unlabelled'}", input=GREY).labelled
    refused(f"huggingface:{tmp_path}", "no data set that datasets.save_to_disk wrote")


def test_deep_images_of_a_saved_set_are_scaled_alike(tmp_path):
    datasets = pytest.importorskip("datasets")
    pixels = [np.full((8, 8), 60_000 if i == 1 else 1000, np.uint16) for i in range(600)]
    features = datasets.Features({"picture": datasets.Image()})
    rows = {"picture": [Image.fromarray(values) for values in pixels]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    data = load_data(f"huggingface:{tmp_path / 'set'}", input=GREY)
    assert not data.broken
    assert {round(float(x.max()) * 255) for images, _ in data.test for x in images} <= {1000 // 256, 60_000 // 256}


@pytest.mark.parametrize("label", [None, -1, "no column"])
def test_a_saved_set_of_which_images_have_no_label_gets_one_line(tmp_path, label):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b", "c"])})
    rows = {"picture": [Image.fromarray(np.full((8, 8), 5 * i, np.uint8)) for i in range(6)], "kind": [0, 1, 2] * 2}
    train = datasets.Dataset.from_dict(rows, features=features)
    if label == "no column":
        test = train.remove_columns("kind")
    else:
        test = datasets.Dataset.from_dict({**rows, "kind": [0, label] * 3}, features=features)
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "set")
    refused(f"huggingface:{tmp_path / 'set'}", "images of the test split have no 'kind'; leave them out")


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ([0.5, np.nan, 1.0], r"y\[1\] has the value nan, which cannot be learned; .* leave its image out"),
        ([[0.5, 1.0], [1.0, 2.0], [3.0, -np.inf]], r"y\[2\] has the value 3\.0, -inf"),
        ([7, 20_000_000, 3], "y holds whole numbers up to 20000000, which are classes; number them from 0, or give"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(tmp_path, y, said):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 1, 8, 8), np.uint8), y=np.array(y))
    refused(f"arrays:{tmp_path / 'a.npz'}", said)


@pytest.mark.parametrize("sides", [(2000, 2000, 2000), (0, 8, 8), (8, 8, 8, 8)])
def test_volumes_are_bounded(sides):
    with pytest.raises(GhostsearchError, match="size"):
        parse_size(sides)
    assert parse_size((16, 64, 64)) == (16, 64, 64)
