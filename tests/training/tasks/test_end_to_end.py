"""Each task from files to a converted model: read, checked, trained, scored, converted with a fit, distilled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ghostsearch.data.calibration import calibration_batches
from ghostsearch.data.load import load_data
from ghostsearch.models.input import InputSpec
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert
from ghostsearch.training.checks import check_run
from ghostsearch.training.evaluate import evaluate
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe
from ghostsearch.training.tasks.table import load_task, task_for

SIDE, COUNT = 12, 80
GREY = InputSpec(SIDE, 1, (0.5,), (0.25,))


def body(channels=1, width=8, dims=2):
    conv = nn.Conv2d if dims == 2 else nn.Conv1d
    norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm1d
    return [
        conv(channels, width, 3, padding=1), norm(width), nn.ReLU(),
        conv(width, width, 3, padding=1), norm(width), nn.ReLU(),
    ]  # fmt: skip


def classifier(outputs, dims=2, channels=1):
    pool = nn.AdaptiveAvgPool2d(3) if dims == 2 else nn.AdaptiveAvgPool1d(8)
    return nn.Sequential(*body(channels, dims=dims), pool, nn.Flatten(), nn.Linear(72 if dims == 2 else 64, outputs))


def dense(outputs):
    return nn.Sequential(*body(), nn.Conv2d(8, outputs, 1))


def squares(seed=0):
    """Noisy images of a bright square: its row (0 or 1), size in pixels, and mask."""
    rng = np.random.default_rng(seed)
    for _ in range(COUNT):
        low, size, left = int(rng.integers(2)), int(rng.integers(3, 6)), int(rng.integers(0, 6))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[low * 6 : low * 6 + size, left : left + size] = 1
        pixels = 60 + 140 * mask + rng.normal(0, 12, mask.shape)
        yield pixels.clip(0, 255).astype(np.uint8), mask, low, size


def table(folder: Path, header: str, row) -> str:
    lines = [header]
    for i, (pixels, mask, low, size) in enumerate(squares()):
        Image.fromarray(pixels).save(folder / f"{i}.png")
        Image.fromarray(mask).save(folder / f"mask{i}.png")
        Image.fromarray(60 + 140 * mask).save(folder / f"clean{i}.png")
        lines.append(f"{i}.png,{row(i, low, size)}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return f"csv:{folder / 'table.csv'}"


def recordings(folder: Path) -> str:
    """Tones of two pitches in noise, rarely the higher one."""
    rng = np.random.default_rng(0)
    high = rng.random(160) < 0.25
    time = np.arange(64)
    x = np.sin(time * np.where(high, 1.3, 0.5)[:, None] + rng.random((160, 1)) * 6) * 0.3 + 0.5
    np.savez(folder / "x.npz", x=x[:, None] + rng.normal(0, 0.05, (160, 1, 64)), y=high.astype(int))
    return f"arrays:{folder / 'x.npz'}"


CASES = {
    "classification": (lambda f: table(f, "path,label", lambda i, low, size: f"row{low}"), lambda: classifier(2), 0.9),
    "multilabel": (
        lambda f: table(f, "path,labels", lambda i, low, size: ";".join(["low"] * low + ["big"] * (size > 4))),
        lambda: classifier(2),
        0.8,
    ),
    "segmentation": (lambda f: table(f, "path,mask", lambda i, low, size: f"mask{i}.png"), lambda: dense(2), 0.75),
    "regression": (lambda f: table(f, "path,value", lambda i, low, size: str(low)), lambda: classifier(1), 0.3),
    "restoration": (lambda f: table(f, "path,target", lambda i, low, size: f"clean{i}.png"), lambda: dense(1), 20),
    "signals": (recordings, lambda: classifier(2, dims=1), 0.9),
}


@pytest.mark.parametrize("name", CASES)
def test_from_files_to_a_converted_model(name, tmp_path):
    write, build, enough = CASES[name]
    spec = InputSpec((64,), 1, (0.5,), (0.25,)) if name == "signals" else GREY
    data, task = load_data(write(tmp_path), input=spec, batch=16, workers=0), load_task(name)
    torch.manual_seed(0)
    model = build()
    check_run(model, data, task)
    before = evaluate(model, data.test, task)
    train(model, data, Recipe(epochs=12, lr=0.1), task=task)
    model.eval()
    after = evaluate(model, data.test, task)
    assert (after > max(before, enough)) if task.maximize else (after < min(before, enough))

    choice = "ghost(ratio=2, kernel=3)"
    example, images = torch.randn(1, *spec.shape), calibration_batches(data, 48)
    converted = convert(model, Architecture.of({"3": choice}), example=example, calibration=images)
    batch = images[0]
    with torch.no_grad():
        fitted = float(task.distillation_loss(converted.eval()(batch), model(batch)))
        copied = convert(model, Architecture.of({"3": choice}), example=example).eval()
        assert fitted < float(task.distillation_loss(copied(batch), model(batch)))

    agreement = task_for(name, labelled=False, baseline=model)
    start = evaluate(converted, data.validation, agreement)
    train(converted, data, Recipe(epochs=12, lr=0.02), task=agreement)
    better = evaluate(converted, data.validation, agreement)
    tolerance = 0.05 * abs(start) + 0.05  # distilling does not undo the fit
    assert (better >= start - tolerance) if task.maximize else (better <= start + tolerance)


def test_several_inputs_are_calibrated_by_tuples_or_keywords():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
            self.both = nn.Conv2d(8, 8, 3, padding=1)
            self.out = nn.Linear(8, 3)

        def forward(self, left, right):
            return self.out(self.both((self.first(left) + self.second(right)).relu()).relu().mean((2, 3)))

    torch.manual_seed(0)
    model = Two().eval()
    left, right = torch.randn(2, 64, 1, 8, 8)
    wanted = Architecture.of({"both": "ghost(ratio=2, kernel=3)"})
    with torch.no_grad():
        copied = convert(model, wanted, example=(left[:1], right[:1]))(left, right)
        for images in ((left, right), {"left": left, "right": right}):
            one = {k: v[:1] for k, v in images.items()} if isinstance(images, dict) else (left[:1], right[:1])
            fitted = convert(model, wanted, example=one, calibration=[images])(left, right)
            assert (fitted - model(left, right)).square().mean() < (copied - model(left, right)).square().mean()
