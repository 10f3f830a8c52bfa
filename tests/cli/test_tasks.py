"""Each task through the real command line on files of its own: searched, fine-tuned, exported in int8."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from ghostsearch.study.directory import load_study
from tests.pictures import SIDE, write_voc

NETS = '''
"""Small networks, one for each kind of output."""
from torch import nn

from ghostsearch.models.input import InputSpec
from ghostsearch.study.directory import load_study
from tests.pictures import faster_rcnn, ssd


def body(conv, norm, channels, *last):
    layers = [conv(channels, 16, 3, padding=1), norm(16), nn.ReLU(), conv(16, 16, 3, padding=1), norm(16), nn.ReLU()]
    return nn.Sequential(*layers, *last)


def flat(num_classes=2):
    net = body(nn.Conv2d, nn.BatchNorm2d, 1, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(144, num_classes))
    net.input_spec = InputSpec(12, 1, (0.5,), (0.25,))
    return net


def dense(num_classes=2):
    net = body(nn.Conv2d, nn.BatchNorm2d, 1, nn.Conv2d(16, num_classes, 1))
    net.input_spec = InputSpec(12, 1, (0.5,), (0.25,))
    return net


def tones(num_classes=2):
    net = body(nn.Conv1d, nn.BatchNorm1d, 1, nn.AdaptiveAvgPool1d(8), nn.Flatten(), nn.Linear(128, num_classes))
    net.input_spec = InputSpec((64,), 1, (0.5,), (0.25,))
    return net
'''
QUICK = [
    "--trials", "2", "--epochs", "0", "--final-epochs", "0", "--batch-size", "8", "--calibration-images", "16",
    "--seeds", "uniform", "--sampler", "random", "--no-veto", "--objectives", "score", "--objectives", "macs",
    "--time-limit", "0.02", "--final-time-limit", "0.02", "--compute-device", "cpu", "--quiet",
]  # fmt: skip


def table(column, write):
    """A CSV file of 40 pictures of a bright square, and what `write` says of each."""

    def made(folder):
        rng, rows = np.random.default_rng(0), [f"path,{column}"]
        for i in range(40):
            low, size, left = int(rng.integers(2)), int(rng.integers(3, 6)), int(rng.integers(0, 6))
            mask = np.zeros((12, 12), np.uint8)
            mask[low * 6 : low * 6 + size, left : left + size] = 1
            noisy = (60 + 140 * mask + rng.normal(0, 12, mask.shape)).clip(0, 255)
            for name, pixels in ((f"{i}.png", noisy), (f"mask{i}.png", mask), (f"clean{i}.png", 60 + 140 * mask)):
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
            rows.append(f"{i}.png,{write(i, low, size)}")
        (folder / "table.csv").write_text("\n".join(rows) + "\n")
        return f"csv:{folder / 'table.csv'}"

    return made


def recordings(folder):
    rng = np.random.default_rng(0)
    high = rng.random(60) < 0.3
    x = np.sin(np.arange(64) * np.where(high, 1.3, 0.5)[:, None]) * 0.3 + 0.5
    np.savez(folder / "x.npz", x=x[:, None] + rng.normal(0, 0.05, (60, 1, 64)), y=high.astype(int))
    return f"arrays:{folder / 'x.npz'}"


CASES = {
    "classification": ("nets:flat", "accuracy", table("label", lambda i, low, size: f"row{low}")),
    "multilabel": ("nets:flat", "mAP", table("labels", lambda i, low, size: ";".join(["low"] * low + ["big"]))),
    "segmentation": ("nets:dense", "mIoU", table("mask", lambda i, low, size: f"mask{i}.png")),
    "regression": ("nets:flat", "mean absolute error", table("value", lambda i, low, size: str(size))),
    "restoration": ("nets:dense", "PSNR", table("target", lambda i, low, size: f"clean{i}.png")),
    "signals": ("nets:tones", "balanced accuracy", recordings),
    "detection": ("nets:ssd", "COCO mAP", lambda folder: f"voc:{write_voc(folder / 'voc', 24)}"),
}
ONE_OUTPUT = {"regression", "restoration"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the networks, which is on the import path."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


def run(ghostsearch, here, *words):
    done = ghostsearch(*words, cwd=here)
    assert done.code == 0, done.err[-3000:]
    return done


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_search_finetune_and_int8(name, ghostsearch, here):
    model, metric, write = CASES[name]
    data = write(here)
    classes = ("--classes", 1) if name in ONE_OUTPUT else ()
    options = ("--data", data, "--task", name)
    run(ghostsearch, here, "search", "--model", model, *classes, *options, "--baseline-epochs", 1, *QUICK, "--out", "s")
    trials = load_study(here / "s").records
    assert len(trials) >= 2
    assert {score.metric for trial in trials for score in trial.scores} == {metric}
    if name not in ("segmentation", "detection"):  # the others give one tensor, as classifiers do
        return
    chosen = next(p for p in (here / "s" / "models").iterdir() if p.name != "baseline")
    code = "--allow-code"
    recipe = ("--epochs", 1, "--batch-size", 8, "--distill-from", "s/models/baseline", "--compute-device", "cpu")
    run(ghostsearch, here, "finetune", chosen, code, *options, *recipe, "--out", "tuned")
    tuned = json.loads((here / "tuned" / "finetune.json").read_text())
    assert tuned["metric"] == metric
    small = run(ghostsearch, here, "export", "tuned", code, "--int8", "--calibrate", data, "--json").data
    assert small["metric"] == metric
    assert small["float_score"] == pytest.approx(tuned["test"], abs=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_a_detector_of_two_stages_without_labels(ghostsearch, here):
    """Converted with a fit to pictures that nobody marked, exported, and run on a picture it has not seen."""
    pictures = write_voc(here / "voc", 24) / "JPEGImages"
    words = ("nets:faster_rcnn", "--choice", "lowrank(rank=0.5)", "--calibrate", f"folder:{pictures}", "--out", "made")
    run(ghostsearch, here, "convert", *words)
    result = run(ghostsearch, here, "export", "made", "--allow-code", "--json").data
    session = onnxruntime.InferenceSession(here / result["path"])
    boxes, labels, scores = session.run(
        None, {"image": np.random.default_rng(1).random((1, 3, SIDE, SIDE), np.float32)}
    )
    assert len(boxes) == len(labels) == len(scores)
    assert result["largest_output"] == SIDE


@pytest.mark.filterwarnings("ignore")
def test_photographs_without_labels(ghostsearch, here):
    """Searched and quantized by agreement with the baseline; table, headline and report call it so."""
    table("label", lambda i, low, size: "any")(here)
    (here / "flat").mkdir()
    for i in range(40):
        (here / f"{i}.png").rename(here / "flat" / f"{i}.png")
    words = ("--model", "nets:flat", "--data", "folder:flat", "--baseline-epochs", 0, *QUICK, "--out", "s")
    said = run(ghostsearch, here, "search", *words).out
    assert "against the baseline's 100.0" in said
    assert "The images have no labels: agreement says" in said
    study = load_study(here / "s")
    assert {s.metric for r in (*study.records, *study.finalists) for s in r.scores} == {"agreement"}
    options = ("--allow-code", "--int8", "--calibrate", "folder:flat", "--json")
    assert run(ghostsearch, here, "export", f"s/models/{study.front[0]}", *options).data["metric"] == "agreement"
