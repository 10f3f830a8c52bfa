"""A run's options: what is refused before anything is read."""

import pytest
import yaml

from ghostsearch.errors import GhostsearchError
from ghostsearch.options import OptionError
from ghostsearch.study.config import RunConfig, configure


@pytest.mark.parametrize("none", ["", (), [""], " , "])
def test_without_a_device_a_run_is_refused(none):
    """Else its latency limit would hold for no device, and so never."""
    with pytest.raises(OptionError, match=r"^device: name at least one .*onnxruntime:cpu.*got"):
        RunConfig(device=none, max_latency="60%")


def test_a_run_file_without_a_device_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"device": [], "max_latency": "60%"}))
    with pytest.raises(GhostsearchError, match=r"run.yaml: device: name at least one"):
        configure({}, tmp_path / "run.yaml")


def test_what_is_for_ray_is_no_matter_in_a_file(tmp_path):
    for engine in ("optuna", "ray"):
        run = {"engine": engine, "resources": ["cpu=2"], "ray_address": "auto"}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
        assert configure({"trials": 3}, tmp_path / "run.yaml").resources == ("cpu=2",)
    assert configure({"ray_address": "here"}, tmp_path / "run.yaml").ray_address == "here"


def test_resources_parse():
    for texts in (("cpu=2", "gpu=0.5", "device:x=1"), " CPU = 2,gpu=.5, device:x =1"):
        found = RunConfig(engine="ray", resources=texts).trial_resources()
        assert found == {"cpu": 2.0, "gpu": 0.5, "device:x": 1.0}


@pytest.mark.parametrize("text", ["cpu", "cpu=two", "cpu=nan", "cpu=inf", "cpu=-1", "=1"])
def test_resources_that_are_no_amount_are_refused_before_ray_starts(text):
    with pytest.raises(OptionError, match=r"at least 0; write cpu=2,gpu=0\.5"):
        RunConfig(engine="ray", resources=text)


def test_a_device_named_twice_counts_once():
    named = ("torch:cpu", "onnxruntime:cpu,torch:cpu")
    assert RunConfig(device=named).device == ("torch:cpu", "onnxruntime:cpu")
