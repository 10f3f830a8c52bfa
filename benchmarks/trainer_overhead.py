"""What Lightning costs on short proxy epochs, beside a bare loop that does the same arithmetic.

python benchmarks/trainer_overhead.py [--cifar FOLDER] [--repeats 5] [--out results]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.data.load import Data, load_data
from ghostsearch.machine import processor
from ghostsearch.models.load import load_model
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe
from ghostsearch.training.tasks.classification import Classification

IMPORT = (
    "import torch, torchvision, time; t = time.perf_counter(); import lightning.pytorch; print(time.perf_counter() - t)"
)


def bare_loop(model: nn.Module, data: Data, recipe: Recipe) -> None:
    """One epoch of the same recipe without Lightning: the least that training costs."""
    task, total = Classification(), len(data.train)
    model.train().to(memory_format=torch.channels_last)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.lr_share(step, total))
    torch.manual_seed(0)
    data.train.generator.manual_seed(0)
    for images, target in data.train:
        loss = task.loss(model(images.to(memory_format=torch.channels_last)), target)
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        schedule.step()
    model.to(memory_format=torch.contiguous_format)


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(name: str, model: nn.Module, data: Data, repeats: int) -> dict[str, object]:
    """Both ways in turn, after one unmeasured round each; and how far apart the trained weights are."""
    recipe, times = Recipe(epochs=1, compute_device="cpu"), {"bare": [], "lightning": []}
    for repeat in range(repeats + 1):
        loop, lightning = deepcopy(model), deepcopy(model)
        spent = {
            "bare": seconds(lambda m=loop: bare_loop(m, data, recipe)),
            "lightning": seconds(lambda m=lightning: train(m, data, recipe)),
        }
        for way, value in spent.items():
            times[way] += [value] if repeat else []
    apart = max(
        float((a - b).detach().abs().max()) for a, b in zip(loop.parameters(), lightning.parameters(), strict=True)
    )
    bare, with_lightning = (statistics.median(times[way]) for way in ("bare", "lightning"))
    steps = len(data.train)
    return {
        "job": name,
        "steps": steps,
        "epoch_s_bare": bare,
        "epoch_s_lightning": with_lightning,
        "overhead_s": with_lightning - bare,
        "overhead_percent": 100 * (with_lightning / bare - 1),
        "overhead_ms_per_step": 1000 * (with_lightning - bare) / steps,
        "largest_weight_difference": apart,
        "repeats": repeats,
    }


def main() -> None:
    """Measure and write the results page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as an image folder with train/ and test/")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()

    digits = load_model("ghostsearch:digits_cnn")
    rows = [compare("digits CNN, 1 epoch", digits.module, load_data("digits", input=digits.input), options.repeats)]
    if options.cifar:
        resnet = load_model("ghostsearch:resnet20")
        data = load_data(f"folder:{options.cifar}", input=resnet.input, batch=128, train_images=5000)
        rows.append(compare("ResNet-20, 5,000 CIFAR images, 1 epoch", resnet.module, data, options.repeats))
    importing = float(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True, text=True).stdout)

    worst = max(rows, key=lambda r: float(r["overhead_percent"]))
    page = ResultPage(
        name="trainer_overhead",
        title="Lightning on short proxy epochs, beside a bare loop",
        claim="Training by Lightning costs little over a loop that does nothing but the same arithmetic, at worst",
        figure=f"{worst['overhead_percent']:+.1f} % of an epoch of {worst['epoch_s_bare']:.1f} s ({worst['job']})",
        command=script_command(),
        device=f"{processor()}, {torch.get_num_threads()} threads",
        tables=[ResultTable("one epoch both ways", rows)],
        notes=(
            f"Medians of {options.repeats} interleaved runs after a warm-up; same seed, batches and arithmetic both "
            "ways (weights differ by the order of sums).",
            f"Importing Lightning takes {importing:.1f} s more, once a process.",
        ),
    )
    for path in publish(page, options.out):
        print(path)


if __name__ == "__main__":
    main()
