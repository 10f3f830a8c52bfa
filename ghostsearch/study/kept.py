"""Models that a study keeps on disk: the weights of trials that may become finalists, and the finished ones."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ghostsearch.records import Record
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.directory import TRIAL_WEIGHTS, baseline_directory
from ghostsearch.study.plan import Plan
from ghostsearch.study.recommendation import BASELINE
from ghostsearch.study.setup import Setup
from ghostsearch.surgery.saved import load_directory, save

MODELS, RECORD = "models", "record.json"


def save_model(setup: Setup, model: nn.Module, architecture: Architecture, target: Path) -> Path:
    """Save a descendant as a model directory; returns it."""
    return save(
        model.eval(), target, source=setup.baseline, architecture=architecture,
        width_multiple=setup.space.width_multiple,
    )  # fmt: skip


def finished_module(setup: Setup, digest: str, folder: Path) -> nn.Module:
    """The baseline or a finalist as the study keeps it."""
    place = baseline_directory(folder) if digest == BASELINE else folder / MODELS / digest
    return load_directory(place, model=setup.baseline.module).module


def forget_dominated(plan: Plan, records: Sequence[Record], folder: Path) -> None:
    """Delete the weights of trials that fell behind the front."""
    # Only of trials whose records are known: another process may just have written others.
    behind = {r.digest for r in records} - {r.digest for r in plan.front(records)}
    for kept in sorted((folder / TRIAL_WEIGHTS).glob("*")):
        if kept.is_dir() and kept.name in behind:
            shutil.rmtree(kept, ignore_errors=True)
