import json
import re

import pytest
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_digits


def test_train_writes_a_model_and_its_curves(ghostsearch, tmp_path):
    outcome = ghostsearch(
        "train", "ghostsearch:digits_cnn", "--data", "digits", "--train-images", "256", "--epochs", "2",
        "--compute-device", "cpu", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert len(outcome.data["history"]) == 2
    assert outcome.data["history"][1]["loss"] < outcome.data["history"][0]["loss"]
    assert (tmp_path / "out" / "train.svg").is_file()
    assert (tmp_path / "out" / "weights.safetensors").is_file()
    assert json.loads((tmp_path / "out" / "train.json").read_text())["model"] == "ghostsearch:digits_cnn"


def test_without_out_the_directory_is_named_after_model_and_date_and_resumed(ghostsearch, tmp_path):
    command = [
        "train",
        "ghostsearch:digits_cnn",
        "--data",
        "digits",
        "--train-images",
        "64",
        "--epochs",
        "1",
        "--quiet",
    ]
    assert ghostsearch(*command, cwd=tmp_path).code == 0
    (made,) = tmp_path.iterdir()
    assert re.fullmatch(r"digits_cnn-trained-\d{4}-\d\d-\d\d", made.name)
    before = (made / "checkpoints" / "last.ckpt").read_bytes()
    assert ghostsearch(*command, cwd=tmp_path).code == 0
    assert [p.name for p in tmp_path.iterdir()] == [made.name]
    assert (made / "checkpoints" / "last.ckpt").read_bytes() == before, "trained no further"
    assert ghostsearch(*command, "--lr", "0.1", cwd=tmp_path).code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [made.name, f"{made.name}.2"]


@pytest.fixture
def three_classes(tmp_path):
    """A folder of three digits as PNG files, 32 of each, one folder a class."""
    digits, left = load_digits(), dict.fromkeys((0, 1, 2), 32)
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if left.get(int(label), 0):
            left[int(label)] -= 1
            folder = tmp_path / "three" / f"digit{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype("uint8")).save(folder / f"{number}.png")
    return tmp_path / "three"


def test_ghostnet_from_scratch_on_a_folder_of_three_classes(ghostsearch, three_classes, tmp_path):
    out = tmp_path / "trained"
    outcome = ghostsearch(
        "train", "ghostsearch:ghostnet", "--size", "32", "--data", f"folder:{three_classes}", "--batch-size", "16",
        "--epochs", "3", "--compute-device", "cpu", "--out", out,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    next_line = outcome.out[outcome.out.index("next: ") :]
    assert f"--weights {out / 'weights.safetensors'}" in next_line
    assert "--classes 3 --size 32" in next_line
    told = json.loads((out / "train.json").read_text())
    assert told["classes"] == ["digit0", "digit1", "digit2"]
    assert told["history"][2]["loss"] < told["history"][0]["loss"]
    assert "<svg" in (out / "train.svg").read_text()
    with safe_open(out / "weights.safetensors", "pt") as weights:
        assert weights.get_slice("classifier.weight").get_shape() == [3, 1280]
