"""What a newcomer meets: the wheel in an empty environment, then the commands of the guides on data of their own.

    python benchmarks/newcomer.py --photos my_images --work newcomer-work --out results

Published weights come from caches that this script fills with random ones, so nothing but the packages is downloaded.
Steps that are done are kept in --work; the same command goes on with the others. A step that ends otherwise than
expected is marked on the page.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rows import append_row, read_rows
from ghostsearch.machine import processor
from tests.pictures import write_voc

ROOT = Path(__file__).parents[1]
TIMM, RESNET = "mobilenetv3_small_050", "resnet18"
SEARCH = "ghostsearch search --model"
QUICK = (
    "--trials 3 --epochs 0 --final-epochs 0 --calibration-images 16 --seeds uniform --time-limit 0.5 "
    "--final-time-limit 2 --cell-time-limit 0.02 --quiet"
)
MACS = "--objectives score --objectives macs --sampler random"
NETS = """
from torch import nn
from ghostsearch.models.input import InputSpec

def beats(num_classes=2):
    layers = []
    for before, width in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv1d(before, width, 5, padding=2), nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(2)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, num_classes))
    net.input_spec = InputSpec((256,), 1, (0.5,), (0.25,))
    return net
"""
IN_PYTHON = """
import torch, ghostsearch
from torchvision.models import mobilenet_v3_small
net, images = mobilenet_v3_small().eval(), torch.randn(32, 3, 64, 64)
small, record = ghostsearch.compress(net, images, max_macs="80%", objectives=("score", "macs"), trials=3,
                                     sampler="random", seeds="uniform", calibration_images=16, time_limit=0.2,
                                     final_time_limit=0.5)
print("record", record.digest, type(small).__module__)
"""


@dataclass(frozen=True)
class Step:
    """A command, the exit code it must end in, and what it must say."""

    what: str
    command: str
    told: str
    code: int = 0


STEPS = (
    Step("this machine", "ghostsearch doctor", "onnxruntime"),
    Step("the quick start", "ghostsearch search --quiet --out quick", "as fast as the baseline"),
    Step("a timm network, weights by name", f"ghostsearch inspect timm:{TIMM} --weights default", "1000 classes"),
    Step("its search on photographs without labels",
         f"{SEARCH} timm:{TIMM} --weights default --size 96 --data folder:photos --max-macs 90% "
         f"{QUICK} --out flat", "The images have no labels"),
    Step("its report again", "ghostsearch report flat", "report.html"),
    Step("its chosen model, quantized", "ghostsearch export flat --int8 --calibrate folder:photos", "still in float"),
    Step("its chosen model as a file", "ghostsearch export flat --with-softmax --out flat.onnx", "wrote flat.onnx.md"),
    Step("the file, measured", "ghostsearch measure flat.onnx --time-limit 1", "onnxruntime:cpu"),
    Step("the file, checked", "ghostsearch check flat.onnx --max-latency 10s --junit check.xml", "met"),
    Step("the file, over its limit", "ghostsearch check flat.onnx --max-latency 1us", "missed", 3),
    Step("the README's first search, its minutes",
         f"{SEARCH} torchvision:{RESNET} --weights default --data folder:photos --max-drop 1% "
         "--plan --quiet", "total"),
    Step("a VOC folder of 20 images",
         f"{SEARCH} torchvision:ssdlite320_mobilenet_v3_large --classes 3 --baseline-epochs 1 "
         f"--data voc:boxes --task detection --size 160 {MACS} {QUICK} --out detector", "val. COCO"),
    Step("its detector as a file", "ghostsearch export detector --out detector.onnx", "wrote detector.onnx.md"),
    Step("photographs and masks",
         f"{SEARCH} torchvision:lraspp_mobilenet_v3_large --classes 2 --baseline-epochs 1 --size 96 "
         f"--data csv:masks.csv --task segmentation {MACS} {QUICK} --out masks", "mIoU"),
    Step("recordings", f"{SEARCH} nets:beats --data arrays:beats.npz --task signals "
         f"--baseline-epochs 3 {MACS} {QUICK} --out recordings", "balanced accuracy"),
    Step("a module in memory", "python in_python.py", "record"),
    Step("no such folder", f"{SEARCH} timm:{TIMM} --weights default --data folder:foto", "no folder", 2),
    Step("a folder without its word", f"{SEARCH} timm:{TIMM} --weights default --data photos",
         "write folder:photos", 2),
    Step("a folder of recordings", f"{SEARCH} nets:beats --data folder:sounds", "arrays:FILE.npz", 2),
    Step("a network's misspelt name", "ghostsearch inspect torchvision:resnet81", "resnet18", 2),
    Step("weights in the place of a model", "ghostsearch inspect yolov8n.pt", "weights", 2),
    Step("a text in the place of weights", f"ghostsearch inspect torchvision:{RESNET} --weights notes.pt",
         "notes.pt", 2),
    Step("weights of another network", f"ghostsearch inspect torchvision:{RESNET} --weights other.safetensors",
         "other.safetensors", 2),
    Step("photographs for a task with masks",
         f"{SEARCH} torchvision:{RESNET} --weights default --data folder:classes --task segmentation "
         "--classes 2 --baseline-epochs 1", "choose another --task", 2),
    Step("annotations that are none", f"{SEARCH} torchvision:ssdlite320_mobilenet_v3_large --classes 3 "
         "--baseline-epochs 1 --data voc:broken --task detection", "broken", 2),
    Step("masks that are not there", f"{SEARCH} torchvision:lraspp_mobilenet_v3_large --classes 2 "
         "--baseline-epochs 1 --data csv:no_masks.csv --task segmentation", "no_masks", 2),
    Step("recordings of another length", f"{SEARCH} nets:beats --data arrays:short.npz --task signals "
         "--baseline-epochs 1 --size 512", "512", 2),
    Step("a device that is none", "ghostsearch measure flat.onnx --device cpu", "torch:cpu", 2),
    Step("a limit without its unit", "ghostsearch check flat.onnx --max-latency 12", "12ms", 2),
    Step("a percent without its sign", "ghostsearch choose flat --max-drop 5", "5%", 2),
    Step("a directory that is no study", "ghostsearch export photos", "photos", 2),
)  # fmt: skip


def make_data(work: Path, photos: Path | None) -> None:
    """The folders and files that the steps name."""
    rng, (sky, flower) = np.random.default_rng(0), _photographs()
    for name in ("photos", "classes/cats", "classes/dogs", "pairs", "sounds/dogs", "sounds/cats", "broken/JPEGImages"):
        (work / name).mkdir(parents=True, exist_ok=True)
    given = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")) if photos else []
    for i, path in enumerate(given[:60]):
        shutil.copy(path, work / "photos" / f"{i}{path.suffix}")
    rows = ["path,mask"]
    for i in range(40):
        x, y = rng.integers(0, 300, 2)
        part = np.where(rng.random() < 0.5, sky, flower)[y : y + 120, x : x + 120].copy()
        if not given:
            Image.fromarray(part).save(work / "photos" / f"{i}.jpg")
        Image.fromarray(part).save(work / "classes" / ("cats", "dogs")[i % 2] / f"{i}.jpg")
        mask, (left, top) = np.zeros((120, 120), np.uint8), rng.integers(0, 70, 2)
        mask[top : top + 50, left : left + 50] = 1
        part[mask == 1] = (220, 40, 40)
        Image.fromarray(part).save(work / "pairs" / f"{i}.jpg")
        Image.fromarray(mask).save(work / "pairs" / f"{i}_mask.png")
        rows.append(f"pairs/{i}.jpg,pairs/{i}_mask.png")
    (work / "masks.csv").write_text("\n".join(rows) + "\n")
    (work / "no_masks.csv").write_text("\n".join(rows).replace("_mask", "_gone") + "\n")
    if not (work / "boxes").exists():
        write_voc(work / "boxes", 20)
    shutil.copytree(work / "boxes", work / "broken", dirs_exist_ok=True)
    for path in (work / "broken" / "Annotations").iterdir():
        path.write_text("<annotation>")
    high = rng.random(80) < 0.5
    waves = 0.5 + 0.3 * np.sin(np.arange(256) * np.where(high, 0.9, 0.3)[:, None]) + rng.normal(0, 0.05, (80, 256))
    np.savez(work / "beats.npz", x=waves[:, None], y=high.astype(int))
    np.savez(work / "short.npz", x=waves[:, None, :100], y=high.astype(int))
    for name in ("notes.pt", "yolov8n.pt", "sounds/dogs/a.wav", "sounds/cats/b.wav"):
        (work / name).write_text("neither weights nor a picture\n")
    (work / "nets.py").write_text(NETS)
    (work / "in_python.py").write_text(IN_PYTHON)


def _photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return [np.asarray(image) for image in load_sample_images().images]


def fill_caches(work: Path) -> None:
    """Where torchvision and timm look for published weights: random ones under the published names."""
    import timm
    import torch
    from safetensors.torch import save_file
    from torchvision import models

    torch.manual_seed(0)
    checkpoints = work / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    torch.save(models.resnet18().state_dict(), checkpoints / Path(models.get_model_weights(RESNET).DEFAULT.url).name)
    snapshot = work / "hf" / "hub" / f"models--{timm.get_pretrained_cfg(TIMM).hf_hub_id.replace('/', '--')}"
    for folder in ("snapshots/abc", "refs"):
        (snapshot / folder).mkdir(parents=True, exist_ok=True)
    (snapshot / "refs" / "main").write_text("abc")
    state = timm.create_model(TIMM).state_dict()
    for path in (snapshot / "snapshots" / "abc" / "model.safetensors", work / "other.safetensors"):
        save_file(state, path)


def install(work: Path) -> dict[str, object]:
    """The wheel of the repository in a new environment; CPU seconds, and what the environment weighs."""
    before = _cpu_s()
    venv.create(work / "venv", with_pip=True)
    pip = [str(work / "venv" / "bin" / "python"), "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(work), str(ROOT)], check=True)
    (wheel,) = work.glob("ghostsearch-*.whl")
    subprocess.run([*pip, "install", f"{wheel}[timm,detection]"], check=True)
    files = [p for p in (work / "venv").rglob("*") if p.is_file() and not p.is_symlink()]
    cuda = sum(p.stat().st_size for p in files if {"nvidia", "triton"} & set(p.parts))
    size = sum(p.stat().st_size for p in files)
    said = f"{size / 1e9:.1f} GB, {(size - cuda) / 1e9:.1f} GB of them without CUDA's libraries"
    return {"what": "the wheel in a new environment", "command": f"pip install {wheel.name}[timm,detection]", "exit": 0,
            "CPU s": f"{_cpu_s() - before:.0f}", "as expected": "yes", "last line": said}  # fmt: skip


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def take(step: Step, work: Path) -> dict[str, object]:
    """Run a step in the new environment alone; what came of it."""
    places = {"HOME": ".", "XDG_CACHE_HOME": "cache", "TORCH_HOME": "torch", "HF_HOME": "hf"}
    environment = {"PATH": f"{(work / 'venv' / 'bin').resolve()}:{os.environ['PATH']}", "COLUMNS": "120",
                   "HF_HUB_OFFLINE": "1", **{k: str((work / v).resolve()) for k, v in places.items()}}  # fmt: skip
    before = _cpu_s()
    done = subprocess.run(
        ["/bin/sh", "-c", step.command], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    lines = [line.strip() for line in (done.stderr if step.code == 2 else done.stdout).splitlines() if line.strip()]
    good = done.returncode == step.code and step.told in " ".join((done.stdout + done.stderr).split())
    if step.code == 2:  # in one line, and without a traceback
        good &= sum(line.startswith("error:") for line in lines) == 1 and "Traceback" not in done.stderr
    row = {"what": step.what, "command": step.command, "exit": done.returncode, "CPU s": f"{_cpu_s() - before:.0f}",
           "as expected": "yes" if good else "NO", "last line": lines[-1] if lines else ""}  # fmt: skip
    print(row, "" if good else done.stdout + done.stderr, flush=True)
    return row


def main() -> None:
    """What is not done yet, then the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="A folder of photographs; default: parts of scikit-learn's two.")
    parser.add_argument("--work", type=Path, default=Path("newcomer-work"))
    parser.add_argument("--only", default="", help="Take the steps whose name holds this.")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    rows_file, work = given.work / "rows.csv", given.work
    rows = read_rows(rows_file)
    if not rows:
        work.mkdir(parents=True, exist_ok=True)
        make_data(work, given.photos)
        fill_caches(work)
        append_row(rows_file, install(work))
    done = {row["what"] for row in rows}
    for step in [s for s in STEPS if s.what not in done and given.only in s.what]:
        append_row(rows_file, take(step, work))
    order = [s.what for s in STEPS]
    rows = sorted(read_rows(rows_file), key=lambda row: order.index(row["what"]) if row["what"] in order else -1)
    if len(rows) == len(STEPS) + 1:
        publish(page_of(rows), given.out)


def page_of(rows: list[dict[str, str]]) -> ResultPage:
    """The steps as a page."""
    good = sum(row["as expected"] == "yes" for row in rows)
    return ResultPage(
        name="newcomer", title="The wheel in an empty environment, on a newcomer's own data",
        claim="Steps that end as they should: in a file, a verdict, or, where the input is wrong, one line",
        figure=f"{good} of {len(rows)}", command=script_command(), device=processor(),
        tables=[ResultTable("Steps", rows)],
        notes=[
            "Published weights are random ones in the publishers' caches, boxes and masks are drawn, so scores say "
            "nothing. CPU seconds include the start of each command; other jobs ran on the machine.",
            f"Python {sys.version.split()[0]}, no network but for the packages.",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
