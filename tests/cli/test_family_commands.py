import json


def test_train_writes_a_model_and_its_curves(ghostsearch, tmp_path):
    outcome = ghostsearch(
        "train", "ghostsearch:digits_cnn", "--data", "digits", "--train-images", "256", "--epochs", "2",
        "--train-device", "cpu", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert len(outcome.data["history"]) == 2
    assert outcome.data["history"][1]["loss"] < outcome.data["history"][0]["loss"]
    assert (tmp_path / "out" / "train.svg").is_file()
    assert (tmp_path / "out" / "weights.safetensors").is_file()
    assert json.loads((tmp_path / "out" / "train.json").read_text())["model"] == "ghostsearch:digits_cnn"


def test_paper_writes_a_page_with_its_command(ghostsearch, tmp_path):
    outcome = ghostsearch("paper", "cheap", "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert f"ghostsearch paper cheap --out {tmp_path}" in (tmp_path / "paper_cheap.md").read_text()
    assert "[paper_cheap](paper_cheap.md)" in (tmp_path / "README.md").read_text()


def test_bad_tables_and_options(refused, tmp_path):
    refused("no table 'vgg61'; nearest: vgg16", "paper", "vgg61", "--out", tmp_path / "out")
    refused(
        "--threads: Input should be greater than or equal to 1", "paper", "--threads", "0", "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()
