"""inspect, convert, measure and export as a user runs them."""

import json
import re
import shlex
import signal

import pytest

from ghostsearch.space.choice_text import parse_layer_choice
from ghostsearch.space.costs import site_position_macs
from ghostsearch.surgery.fit_model import ModelFit


def test_help_teaches_by_an_example_and_loads_no_torch(ghostsearch):
    import subprocess
    import sys

    outcome = ghostsearch("--help")
    assert outcome.code == 0
    for command in ("inspect", "convert", "measure", "search", "finetune", "report", "export"):
        assert command in outcome.out
        shown = ghostsearch(command, "--help")
        assert shown.code == 0
        assert f"ghostsearch {command}" in shown.out
        assert "Example" in shown.out
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, ghostsearch.cli.main; print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert loaded.stdout.strip() == "False"


def test_inspect_tells_sites_groups_skipped_and_shares(ghostsearch):
    found = ghostsearch("inspect", "torchvision:resnet18", "--json").data
    # conv1 reads the image; 16 3×3 and 3 1×1 convolutions remain
    assert len(found["sites"]) == 16 + 3
    assert [s["module"] for s in found["skipped"]] == ["conv1"]
    assert found["params"] == 11_689_512
    site = next(s for s in found["sites"] if s["site"] == "layer1.0.conv1")
    assert site["kind"] == "Conv2d 3x3"
    speedups = {c["choice"]: c["speedup"] for c in site["choices"]}
    # r_s = c·k² / (c·k²/s + (s-1)·d²/s), the paper's equation 4
    assert next(s for s in found["sites"] if s["site"] == "layer1.0.conv2")["choices"][-1] == {
        "choice": "skip",
        "speedup": None,
    }
    assert speedups["ghost(ratio=2, kernel=3)"] == pytest.approx(64 * 9 / (64 * 9 / 2 + 9 / 2))
    assert abs(sum(k["macs_share"] for k in found["shares"]) - 1) < 1e-9
    assert abs(sum(k["params_share"] for k in found["shares"]) - 1) < 1e-9
    assert any(g["fixed"] == "" for g in found["groups"])


def test_inspect_of_a_net_without_sites_says_so_in_one_line(refused):
    refused("no convolution", "inspect", "torchvision:vit_b_16")


def test_convert_without_out_names_the_directory_after_model_and_date(ghostsearch, tmp_path):
    command = ["convert", "ghostsearch:digits_cnn", "--choice", "width(0.5)", "--json"]
    names = [ghostsearch(*command, cwd=tmp_path).data["out"] for _ in range(2)]
    assert re.fullmatch(r"digits_cnn-converted-\d{4}-\d\d-\d\d", names[0])
    assert names[1] == names[0] + ".2"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)


def test_what_to_type_next_can_be_typed(ghostsearch, tmp_path):
    out = "für [mich] & dich"
    words = ("ghostsearch:digits_cnn", "--choice", "ghost(2, 3)", "--out", out)
    done = ghostsearch("convert", *words, cwd=tmp_path)
    assert done.code == 0, done.err
    assert shlex.split(done.out.splitlines()[-1])[:4] == ["next:", "ghostsearch", "measure", out]


def test_what_was_made_of_the_users_code_says_how_to_open_it(ghostsearch, refused, tmp_path):
    words = ("tests.small_net:SmallNet", "--choice", "ghost(2, 3)", "--out", tmp_path / "own")
    done = ghostsearch("convert", *words)
    assert done.code == 0, done.err
    following = shlex.split(done.out.splitlines()[-1].partition("   or   ")[0])[2:]
    refused("if you trust it add --allow-code", *following[:2])
    assert ghostsearch(*following, "--time-limit", "0.02").code == 0


def test_a_stopped_convert_says_how_to_go_on_and_does(ghostsearch, tmp_path, monkeypatch):
    ask = ["convert", "ghostsearch:digits_cnn", "--choice", "ghost(ratio=2, kernel=3)", "--calibrate", "digits"]
    ask += ["--calibration-images", "64", "--out", "net", "--quiet"]
    fit, fitted = ModelFit._fit, []

    def interrupted(self, place, gather):
        fit(self, place, gather)
        fitted.append(place.path)
        if len(fitted) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ModelFit, "_fit", interrupted)
    stopped = ghostsearch(*ask, cwd=tmp_path)
    assert (stopped.code, stopped.err) == (130, "error: stopped; run the same command again to go on\n")
    assert [path.name for path in tmp_path.iterdir()] == [".net.fit"]
    assert ghostsearch(*ask, cwd=tmp_path).code == 0
    assert len(fitted) == len(set(fitted)) > 2
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_fit_is_where_and_as_large_as_it_is_told(ghostsearch, refused, tmp_path, monkeypatch):
    ask = ["convert", "ghostsearch:digits_cnn", "--choice", "ghost(ratio=2, kernel=3)", "--calibrate", "digits"]
    ask += ["--calibration-images", "64", "--out", tmp_path / "net", "--quiet"]
    refused("cannot compute on 'cuda:99'", *ask, "--compute-device", "cuda:99")
    refused("--fit-memory: ", *ask, "--fit-memory", "0")
    assert not list(tmp_path.iterdir())
    settings, fit = [], ModelFit._fit
    monkeypatch.setattr(ModelFit, "_fit", lambda self, *given: (settings.append(self.settings), fit(self, *given)))
    assert ghostsearch(*ask, "--compute-device", "cpu", "--fit-memory", "0.5", "--seed", "3").code == 0
    assert {(s.compute_device, s.memory_bytes, s.seed) for s in settings} == {("cpu", 2**29, 3)}


def test_convert_overwrites_an_earlier_conversion_alone(ghostsearch, refused, tmp_path):
    ask = ["convert", "ghostsearch:digits_cnn", "--choice", "ghost(ratio=2, kernel=3)", "--quiet", "--out"]
    model = tmp_path / "study" / "models" / "1a2b3c4d5e"
    assert ghostsearch(*ask, model).code == 0
    assert ghostsearch(*ask, model).code == 0
    before = (model / "weights.safetensors").stat().st_mtime_ns
    (tmp_path / "study" / "run.yaml").touch()
    for out in (model, tmp_path / "study"):
        refused("holds a study or a trained model; choose another --out", *ask, out)
    (tmp_path / "study" / "run.yaml").unlink()
    (model / "checkpoints").mkdir()
    refused("holds a study or a trained model; choose another --out", *ask, model)
    assert (model / "weights.safetensors").stat().st_mtime_ns == before


def test_convert_measure_load_round_trip(ghostsearch, tmp_path):
    import torch

    from ghostsearch.surgery.saved import load

    out = tmp_path / "converted"
    done = ghostsearch(
        "convert", "ghostsearch:digits_cnn", "--choice", "ghost(ratio=2, kernel=3)", "--out", out, "--json"
    )
    assert done.code == 0, done.err
    table = {row["what"]: row for row in done.data["rows"]}
    assert table["MACs"]["after"] < table["MACs"]["before"]
    assert json.loads((out / "architecture.json").read_text())
    model = load(out)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(model(x), load(out)(x))

    measured = ghostsearch("measure", out, "--device", "onnxruntime:cpu", "--time-limit", "2", "--json")
    assert measured.code == 0, measured.err
    found = measured.data
    assert set(found["macs"]) >= {"exact", "fvcore", "thop"}
    assert found["macs"]["exact"] == table["MACs"]["after"]
    assert found["params"] == table["params"]["after"]
    (latency,) = found["latency"]
    assert latency["device"] == "onnxruntime:cpu"
    assert latency["threads"] == 1
    assert latency["batch"] == 1
    assert len(latency["times_s"]) >= 5
    assert latency["baseline_times_s"], "a converted directory is timed beside its baseline"
    assert min(latency["times_s"]) > 0
    assert found["versions"]["torch"]

    exported = ghostsearch("export", out, "--format", "onnx", "--json")
    assert exported.code == 0, exported.err
    assert exported.data["max_difference"] < 1e-4


def test_an_architecture_file_gives_the_same_model_as_its_choices(ghostsearch, tmp_path):
    first = ghostsearch(
        "convert", "ghostsearch:digits_cnn", "--choice", "ghost(4, 3)", "--out", tmp_path / "a", "--json"
    ).data
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(first["architecture"]))
    second = ghostsearch(
        "convert", "ghostsearch:digits_cnn", "--architecture", file, "--out", tmp_path / "b", "--json"
    ).data
    assert first["rows"] == second["rows"]
    assert first["digest"] == second["digest"]


@pytest.mark.parametrize(
    ("told", "arguments"),
    [
        ("nosuchnet", ["inspect", "torchvision:nosuchnet"]),
        ("resnet1", ["inspect", "resnet1"]),
        ("is a weights file; name the network", ["inspect", "yolov8n.pt"]),
        ("is an ONNX graph, which can be timed", ["inspect", "resnet18.onnx"]),
        (
            "matches no",
            ["convert", "ghostsearch:digits_cnn", "--choice", "ghost(2,3)", "--include", "nope.*", "--out", "OUT"],
        ),
        ("does not parse", ["convert", "ghostsearch:digits_cnn", "--choice", "ghost(", "--out", "OUT"]),
        ("ratio must be", ["convert", "ghostsearch:digits_cnn", "--choice", "ghost(ratio=1)", "--out", "OUT"]),
        ("kernel must be", ["convert", "ghostsearch:digits_cnn", "--choice", "ghost(kernel=4)", "--out", "OUT"]),
        ("exactly one", ["convert", "ghostsearch:digits_cnn", "--out", "OUT"]),
        ("weights", ["convert", "ghostsearch:digits_cnn", "--choice", "ghost", "--weights", "none.pt", "--out", "OUT"]),
        ("no convolution", ["convert", "torchvision:vit_b_16", "--choice", "ghost", "--out", "OUT"]),
        ("nosuch holds no study", ["compare", "ghostsearch:digits_cnn", "--mark-in", "nosuch"]),
        ("no device is called 'nosuch'", ["devices", "onnxruntime:cpu", "nosuch"]),
        ("no device is called", ["measure", "ghostsearch:digits_cnn", "--device", "abacus:cpu"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(refused, tmp_path, told, arguments):
    out = tmp_path / "out"
    refused(told, *[str(out) if a == "OUT" else a for a in arguments], cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_theoretical_speedup_is_the_ratio_of_the_site_formulas(ghostsearch):
    found = ghostsearch("inspect", "ghostsearch:digits_cnn", "--space", "quickstart", "--json").data
    from ghostsearch.space.architecture import Site

    names = {f.name for f in __import__("dataclasses").fields(Site)}
    for row in found["sites"]:
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k in names}
        site = Site(path=row["site"], **values)
        for choice in row["choices"]:
            after = site_position_macs(site, parse_layer_choice(choice["choice"]))
            assert choice["speedup"] == pytest.approx(site_position_macs(site, parse_layer_choice("keep")) / after)
