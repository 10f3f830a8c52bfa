"""How long a whole search without training takes at 224 pixels, stage by stage: results/search_time.md.

    python benchmarks/search_time.py --data imagenet-sample

The command is a user's own: resnet18, 24 trials within 60 % of the latency, no training. The network has ten outputs
and random weights with BatchNorm statistics of the photographs, the photographs ten made-up classes: that changes no
time, and the page says nothing of accuracy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
from safetensors.torch import save_file
from torch import nn

from benchmarks.fit_speed import network
from benchmarks.imagenet_sample import read_images
from benchmarks.networks import compute_device
from benchmarks.result_page import ResultPage, ResultTable, judged, publish, script_command

AIM_MINUTES, CLASSES = 20, 10


def main() -> None:
    args = arguments()
    images, weights, study = (args.work / name for name in ("images", "resnet18.safetensors", "study"))
    for split, source in (("train", "calibration"), ("test", "test")):
        linked(args.data / source, images / split)
    model = network("resnet18", read_images(args.data / "calibration")[0][:64])
    model.fc = nn.Linear(512, CLASSES)
    save_file(model.state_dict(), weights)
    options = [
        "--model", "torchvision:resnet18", "--weights", str(weights), "--classes", str(CLASSES), "--size", "224",
        "--data", f"folder:{images}", "--space", "ghost_width", "--trials", str(args.trials),
        "--epochs", "0", "--final-epochs", "0", "--max-latency", "60%",
        "--calibration-images", str(args.images), "--out", str(study),
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "ghostsearch", "search", *options], check=True)
    publish(page(study, options), args.out)


def linked(source: Path, target: Path) -> None:
    """Each photograph linked into one of the folders of made-up classes, by turns."""
    for number, path in enumerate(sorted(source.glob("*/*.jpg"))):
        folder = target / f"class_{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())


def page(study: Path, options: list[str]) -> ResultPage:
    """The page of one search."""
    stages = json.loads((study / "seconds.json").read_text())
    trials = pd.read_csv(study / "trials.csv")
    return ResultPage(
        name="search_time", title="A search of resnet18 at 224 × 224 without training: how long it takes",
        claim=f"resnet18 at 224 × 224, {len(trials)} trials within 60 % of the latency, no training, wall time",
        figure=f"{stages['total'] / 60:.1f} minutes (aim {AIM_MINUTES}, {judged(stages['total'] / 60, AIM_MINUTES)})",
        command=script_command(), device=compute_device(), seed=0,
        tables=[
            ResultTable("Seconds of each stage", [{"stage": k, "seconds": round(v)} for k, v in stages.items()]),
            ResultTable("Trials", [{"state": k, "trials": v} for k, v in trials.state.value_counts().items()]),
        ],
        notes=[
            f"The search: `ghostsearch search {' '.join(options)}`.",
            "Weights are random and classes made up; neither changes the time. The baseline is one of the trials.",
        ],
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--images", type=int, default=128, help="calibration images of a trial's fit")
    parser.add_argument("--work", type=Path, default=Path("runs/search_time"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
