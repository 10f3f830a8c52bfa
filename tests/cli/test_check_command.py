"""The gate: exit codes by verdict, intervals that decide, JUnit, and what cannot be judged."""

import shutil
import xml.etree.ElementTree as ET

import pytest

from ghostsearch import load, load_data, load_model
from ghostsearch.errors import GhostsearchWarning
from ghostsearch.study.config import Gate, RunConfig
from ghostsearch.study.directory import write_run
from ghostsearch.study.gate import _state, check
from ghostsearch.training.evaluate import evaluate

DIGITS = "ghostsearch:digits_cnn"
QUICK = ("--time-limit", "0.1", "--quiet")


@pytest.fixture(scope="module")
def files(ghostsearch, tmp_path_factory):
    """A converted network and its exported file."""
    folder = tmp_path_factory.mktemp("check")
    options = ("--choice", "ghost(2, 3)", "--out", folder / "net")
    assert ghostsearch("convert", DIGITS, *options, "--quiet").code == 0
    assert ghostsearch("export", folder / "net", "--out", folder / "net.onnx").code == 0
    return folder / "net", folder / "net.onnx"


@pytest.mark.parametrize(
    ("low", "high", "state"), [(1, 2, "met"), (1, 1, "met"), (2.5, 3, "missed"), (1.5, 2.5, "not decided")]
)
def test_intervals_decide(low, high, state):
    assert _state(low, high, 2) == state


def test_met_limits_end_in_0_missed_ones_in_3(ghostsearch, files, tmp_path):
    folder, _ = files
    done = ghostsearch("check", folder, "--max-latency", "10s", "--max-params", "1M", *QUICK)
    assert done.code == 0, done.err
    assert done.out.count(" met") == 2
    report = tmp_path / "check.xml"
    limits = ("--max-latency", "1us", "--max-params", "50%", "--baseline", DIGITS)
    missed = ghostsearch("check", folder, *limits, "--junit", report, "--json", *QUICK)
    assert missed.code == 3
    assert [v["state"] for v in missed.data] == ["missed", "missed"]
    assert "of the baseline" not in missed.data[0]["found"]
    suite = ET.parse(report).getroot()
    assert suite.attrib["failures"] == "2"
    assert len(suite.findall("testcase/failure")) == 2


def test_scores_of_a_file_are_judged_on_images(ghostsearch, files):
    folder, file = files
    options = ("--data", "digits", "--baseline", folder, *QUICK)
    done = ghostsearch("check", file, "--max-drop", "0.1%", "--min-accuracy", "0%", "--json", *options)
    assert done.code == 0, done.out
    assert {v["limit"] for v in done.data} == {"accuracy", "drop of accuracy"}
    assert [v["state"] for v in done.data] == ["met", "met"], "a file loses nothing against its own module"
    # Random weights are right by chance, and a tenth lies within the interval of a tenth.
    value = float(done.data[0]["found"].split()[0]) / 100
    undecided = ghostsearch("check", file, "--min-accuracy", str(value), *options)
    assert undecided.code == 4
    assert ghostsearch("check", file, "--min-accuracy", "99%", *options).code == 3


def test_a_studys_model_is_judged_on_the_test_images_of_its_study(files, tmp_path):
    """Split by another seed, most test images would be images that the model was trained on."""
    model = tmp_path / "models" / "1a2b3c4d5e"
    shutil.copytree(files[0], model)
    write_run(tmp_path, RunConfig(model=DIGITS, data="digits", seed=5))
    asked = {"data": "digits", "min_accuracy": "0%", "time_limit": 0.1}
    with pytest.warns(GhostsearchWarning, match="seed 5, by which"):
        (mine,) = check(str(model), Gate(**asked))
    spec = load_model(DIGITS).input
    right = evaluate(load(model), load_data("digits", input=spec, seed=5).test)
    assert float(mine.found.split()[0]) / 100 == pytest.approx(right, abs=1e-3)


def test_the_baseline_is_that_of_the_models_own_study_wherever_one_stands(ghostsearch, refused, files, tmp_path):
    models = tmp_path / "study" / "models"
    shutil.copytree(files[0], models / "baseline")
    shutil.copytree(files[0], models / "1a2b3c4d5e")
    limit = ("--max-macs", "100%", *QUICK)
    refused("refers to a baseline", "check", DIGITS, *limit, cwd=tmp_path / "study")
    refused("refers to a baseline", "check", "1a2b3c4d5e", *limit, cwd=models)
    (tmp_path / "study" / "run.yaml").touch()
    refused("refers to a baseline", "check", DIGITS, *limit, cwd=tmp_path / "study")
    shutil.copy(files[1], models)
    mine = models / "1a2b3c4d5e"
    for name, place in ((mine.name, models), (".", mine), (mine, "."), (models / files[1].name, ".")):
        assert ghostsearch("check", name, *limit, cwd=place).code == 0


@pytest.mark.parametrize(
    ("told", "arguments"),
    [
        ("needs a limit", [DIGITS]),
        ("refers to a baseline", [DIGITS, "--max-macs", "50%"]),
        ("add --data", [DIGITS, "--min-accuracy", "50%"]),
        ("does not parse", [DIGITS, "--max-latency", "fast"]),
        ("no such file", ["none.onnx", "--max-latency", "1ms"]),
    ],
)
def test_what_cannot_be_judged_is_an_error(refused, told, arguments):
    refused(told, "check", *arguments, *QUICK)
