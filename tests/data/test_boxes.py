"""Images with boxes: VOC folders and COCO files, their splits, their faults, and boxes that move with the image."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ghostsearch.data.boxes import read_coco, read_voc
from ghostsearch.data.load import load_data
from ghostsearch.data.source import fingerprint
from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.models.input import InputSpec
from tests.pictures import SIDE, voc_xml, write_voc

pytestmark = pytest.mark.filterwarnings("ignore::ghostsearch.errors.GhostsearchWarning")
PLAIN = InputSpec(32, 3, (0.0,) * 3, (1.0,) * 3)


def coco(folder, categories=((1, "cat"), (3, "dog")), annotations=None, count=10, size=(40, 20)):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(folder / f"{i}.png")
    first = categories[0][0]
    content = {
        "images": [{"id": 100 + i, "file_name": f"{i}.png", "width": size[0], "height": size[1]} for i in range(count)],
        "annotations": annotations
        if annotations is not None
        else [{"image_id": 100 + i, "category_id": first, "bbox": [4, 2, 8, 10]} for i in range(count - 1)],
        "categories": [{"id": i, "name": name} for i, name in categories],
    }
    file = folder / "boxes.json"
    file.write_text(json.dumps(content))
    return file


def test_boxes_of_a_voc_folder_scale_with_their_image(tmp_path):
    root = write_voc(tmp_path / "voc", 12)
    data = load_data(f"voc:{root}", input=PLAIN, batch=4, workers=0)
    assert (data.kind, data.classes, data.labelled) == ("boxes", ("background", "blue", "red"), True)
    colours = {1: (0.2, 0.2, 0.8), 2: (0.8, 0.2, 0.2)}
    seen = 0
    for _ in range(3):  # mirrored at random: the colour stays below its box
        for images, targets in (*data.train, *data.validation, *data.test):
            assert images.shape[1:] == (3, 32, 32)
            for image, target in zip(images, targets, strict=True):
                last = target["boxes"][-1]  # drawn last, nothing lies over it
                inside = image[:, int(last[1]) + 2 : int(last[3]) - 2, int(last[0]) + 2 : int(last[2]) - 2]
                wanted = torch.tensor(colours[int(target["labels"][-1])])
                assert (inside.mean((1, 2)) - wanted).abs().max() < 0.1
                assert type(target["boxes"]) is torch.Tensor
                seen += 1
    assert seen >= 20


def test_split_lists_of_a_voc_folder_are_respected(tmp_path):
    root = write_voc(tmp_path / "voc", 10)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("\n".join(f"{i:03d} 1" for i in range(6)))
    (lists / "val.txt").write_text("\n".join(f"{i:03d}" for i in range(6, 10)))
    source = read_voc(root, 0)
    assert [source.names[i] for i in source.splits["test"]] == [f"JPEGImages/{i:03d}.png" for i in range(6, 10)]
    assert len(source.splits["train"]) + len(source.splits["validation"]) == 6
    (lists / "val.txt").write_text("elsewhere\n")
    with pytest.raises(GhostsearchError, match="1 images are not in JPEGImages/, such as 'elsewhere'"):
        read_voc(root, 0)


@pytest.mark.parametrize("more", [(), ("test",)])
def test_images_of_the_validation_list_are_not_trained_on_with_trainval(tmp_path, more):
    """As in VOC's own lists, of which `trainval` is train and val together."""
    root = write_voc(tmp_path / "voc", 12)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, numbers in {"trainval": range(10), "val": range(6, 10), "test": range(10, 12)}.items():
        if name != "test" or more:
            (lists / f"{name}.txt").write_text("\n".join(f"{i:03d}" for i in numbers))
    splits = read_voc(root, 0).splits
    assert splits["validation" if more else "test"] == [6, 7, 8, 9]
    assert sorted([*splits["train"], *([] if more else splits["validation"])]) == list(range(6))
    (lists / "train.txt").write_text("005\n006\n007")
    with pytest.raises(GhostsearchError, match=r"006\.png stands in the train split and in the "):
        read_voc(root, 0)


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "boom"><!ENTITY c "&b;&b;&b;">]><annotation><object><name>&c;</name></object></annotation>'
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "document type definition"), (BOMB.encode("utf-16"), "document type definition"),
        ("<annotation><object>", "no element found"), (None, "No such file"),
        ("<annotation><object><name>red</name></object></annotation>", "'red' has no name or no bndbox"),
        (voc_xml([("red", 1, 2, 9, 9)], size=(SIDE, 2 * SIDE)), "boxes are for 64x128 pixels"),
    ],
)  # fmt: skip
def test_a_bad_annotation_leaves_its_image_out_by_name(text, told, tmp_path):
    root = write_voc(tmp_path / "voc", 10)
    file = root / "Annotations" / "003.xml"
    file.unlink()
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    if "128" in told:  # found when the image is opened
        source = read_voc(root, 0)
        data = load_data(f"voc:{root}", input=PLAIN, batch=16, workers=0)
        with pytest.warns(GhostsearchWarning, match=told):
            images = sum(len(x) for split in (data.train, data.validation, data.test) for x, _ in split)
        assert images == len(source.names) - 1
        return
    data = load_data(f"voc:{root}", input=PLAIN, workers=0)
    assert len(data.broken) == 1
    assert "003" in data.broken[0]
    assert told in data.broken[0]


def test_boxes_are_clipped_and_specks_left_out(tmp_path):
    root = write_voc(tmp_path / "voc", 5)
    (root / "Annotations" / "000.xml").write_text(
        voc_xml([("red", -5, 0, 10, 99), ("red", 3, 3, 3, 9)], difficult=1).replace("size", "dimensions")
    )
    data = load_data(f"voc:{root}", input=InputSpec(SIDE, 3, (0.0,) * 3, (1.0,) * 3), workers=0, trains=False)
    every = [t for split in (data.train, data.validation, data.test) for _, targets in split for t in targets]
    (crowd,) = (t for t in every if t["iscrowd"].any())
    assert crowd["boxes"].tolist() in ([[0, 0, 10, SIDE]], [[SIDE - 10, 0, SIDE, SIDE]])


def test_images_in_the_lists_of_a_voc_folder_are_not_trained_on_without_a_list_to_train_on(tmp_path):
    root = write_voc(tmp_path / "voc", 10)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("000\n001")
    (lists / "test.txt").write_text("002\n003")
    splits = read_voc(root, 0).splits
    assert (splits["train"], splits["validation"], splits["test"]) == ([*range(4, 10)], [0, 1], [2, 3])
    (lists / "test.txt").write_text("\n".join(f"{i:03d}" for i in range(2, 10)))
    with pytest.raises(GhostsearchError, match=r"its lists leave no image to train on; give it a train\.txt"):
        read_voc(root, 0)


def test_coco_numbers_stay_and_those_from_zero_are_moved(tmp_path):
    source = read_coco(coco(tmp_path / "a"), 0)
    assert source.classes == ("background", "cat", "N/A", "dog")
    assert source.open_target(0).corners.tolist() == [[4, 2, 12, 12]]
    assert source.open_target(9).labels.tolist() == []  # nothing there is an answer too
    zero = read_coco(coco(tmp_path / "b", ((0, "cat"), (1, "dog"))), 0)
    assert zero.classes == ("background", "cat", "dog")
    assert zero.open_target(0).labels.tolist() == [1]


def test_a_coco_folder_with_a_file_for_each_split(tmp_path):
    for split, count in (("train", 8), ("valid", 3)):
        coco(tmp_path / split, count=count)
    source = read_coco(tmp_path, 0)
    assert (len(source.splits["test"]), len(source.names)) == (3, 11)
    assert source.open(source.splits["test"][0]).size == (40, 20)
    (tmp_path / "train" / "more.json").write_text("{}")
    with pytest.raises(GhostsearchError, match="train holds 2 JSON files"):
        read_coco(tmp_path, 0)


@pytest.mark.parametrize("others", [((1, "dog"), (3, "cat")), ((2, "cat"), (3, "dog"))])
def test_a_coco_folder_whose_splits_number_their_categories_differently_is_refused(others, tmp_path):
    """Else cats would be trained and dogs tested by one number."""
    coco(tmp_path / "train", count=8)
    coco(tmp_path / "val", others, count=3)
    with pytest.raises(GhostsearchError, match=r"boxes\.json: category \d is '(cat|dog)', and not so in another split"):
        read_coco(tmp_path, 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: [x.update(image_id=str(x["image_id"])) for x in c["annotations"]], "'100' is none of their ids"),
        (lambda c: c.pop("categories"), "'categories' must be a list with id, name"),
        (lambda c: c["annotations"].append({"image_id": 1}), "'annotations' must be a list with bbox"),
        (lambda c: c["annotations"][0].update(category_id=9), "no known category"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 3]), "no bbox"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 10**400, 3]), "no bbox"),
        (lambda c: c["annotations"][0].update(category_id=[1]), "no known category"),
        (lambda c: c["annotations"][0].update(image_id=[100]), r"image \[100\] has .* no image's id"),
        (lambda c: c["images"][0].update(id=[100]), "the image '0.png' has no id"),
        (lambda c: c["images"][0].update(width=None), "'0.png' has .* a size that is no number"),
        (lambda c: c["images"][0].update(file_name=5), "the image 5 has .* no name that is text"),
        (lambda c: c["categories"][0].update(id={}), "categories have no id"),
        (lambda c: c["categories"][0].update(id=10**9), "2 categories have ids of up to 1000000000; number them from"),
        (lambda c: c["images"].clear(), "lists no image"),
        (
            lambda c: c["images"].append({"id": 7, "file_name": "./x/../3.png"}),
            "^3.png stands 2 times in the train spl",
        ),
    ],
)
def test_a_foreign_coco_file_is_refused_in_one_line(change, told, tmp_path):
    file = coco(tmp_path)
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(GhostsearchError, match=told) as refused:
        read_coco(file, 0)
    assert "\n" not in str(refused.value)


def test_what_is_no_voc_folder_and_what_is_one_unawares(tmp_path):
    with pytest.raises(GhostsearchError, match="holds JPEGImages/ and Annotations/"):
        read_voc(tmp_path, 0)
    write_voc(tmp_path / "voc", 1)
    with pytest.raises(GhostsearchError, match=r"write voc:.*voc --task detection"):
        load_data(f"folder:{tmp_path / 'voc'}", input=PLAIN)


def test_splits_of_boxes_are_known_by_their_boxes(tmp_path):
    file = coco(tmp_path)
    first = fingerprint(read_coco(file, 0))
    assert fingerprint(read_coco(file, 0)) == first
    file.write_text(file.read_text().replace("[4, 2, 8, 10]", "[4, 2, 8, 9]"))
    assert all(told != first[split] for split, told in fingerprint(read_coco(file, 0)).items())
