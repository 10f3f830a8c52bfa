"""How long each stage of a search will take on this machine, from one measured step of each; nothing is written."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import memory_order
from ghostsearch.machine import peak_memory
from ghostsearch.study.budget import check_budget
from ghostsearch.study.candidates import single_changes
from ghostsearch.study.config import RunConfig
from ghostsearch.study.explore import final_pass_s
from ghostsearch.study.plan import uniform_seeds
from ghostsearch.study.setup import Setup, open_setup
from ghostsearch.training.evaluate import length, mode, placed, to_device, torch_device

PROMOTED = 0.5
"""Share of the trials that a rung promotes."""


@dataclass(frozen=True)
class Expected:
    """What a stage will take on this machine."""

    minutes: float
    memory_bytes: int
    """The most that the process has taken by the end of the stage."""


def plan_stages(config: RunConfig) -> dict[str, Expected]:
    """Expected time and memory of each stage of a search that begins anew; GhostsearchError where it would refuse to.

    One batch is trained and scored, one candidate and one architecture are fitted, and multiplied by how many there
    will be; the architecture twice, since the first fit of a process also samples the baseline's values. Timings are
    counted with their whole time budgets, which most do not use up.
    """
    setup = open_setup(config)
    check_budget(setup, setup.space)
    train_batches, score_batches = _batches(setup, "train"), _batches(setup, "validation")
    opened = peak_memory()
    step_s, forward_s = _seconds_of_a_step(setup), _seconds_of_a_forward(setup)
    epoch_s, score_s = train_batches * (step_s + forward_s), score_batches * forward_s
    trained = peak_memory()
    changes = list(single_changes(setup.space))
    table = config.sampler == "table" or config.seeds in ("solver", "only solver")
    candidate_s = _seconds(lambda: setup.convert_quickly(changes[0].architecture)) if table and changes else 0.0
    tabled = peak_memory()
    first_s, fit_s = (_seconds(lambda: setup.convert(uniform_seeds(setup.space)[-1][0])) for _ in range(2))
    fitted = peak_memory()
    devices = len(config.device)
    cells = sum(len(c) for d in config.device for c in _missing(setup, d)) if config.counts_latency() else 0
    corrected_s = devices * setup.corrected_by * config.time_limit if config.counts_latency() else 0.0
    finalists = min(config.finalists, config.trials - 1)
    trial_s = fit_s + score_s * len(config.rungs()) + PROMOTED * config.epochs * epoch_s + devices * config.time_limit
    stages = {
        "latency table": (2 * cells * config.cell_time_limit + corrected_s, opened),
        "baseline": (config.baseline_training() * epoch_s, trained),
        "candidate table": (len(changes) * candidate_s, tabled),
        "trials": (first_s + config.trials * trial_s, fitted),
        "final": (final_pass_s(config, finalists, epoch_s, score_s), fitted),
    }
    return {stage: Expected(spent / 60, memory) for stage, (spent, memory) in stages.items()}


def _batches(setup: Setup, split: str) -> int:
    """The number of a split's batches; raises GhostsearchError where it is unknown."""
    if (found := length(getattr(setup.data, split))) is None:
        raise GhostsearchError(
            f"--plan multiplies by the number of batches, and the {split} loader of {setup.config.data} does not tell "
            "it; give the loader a length, or search without --plan"
        )
    return found


def _missing(setup: Setup, device: str) -> list[list[Any]]:
    return [list(cells) for cells in setup.latency_table(device, cell_s=None).missing().values()]


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _seconds_of_a_step(setup: Setup) -> float:
    """A training step: the quicker of two, since the first allocates."""
    model, device = copy.deepcopy(setup.baseline.module), torch_device(setup.config.compute_device)

    def step(images: Any, target: Any) -> None:
        images = to_device(images, device, order)
        target = setup.task.target(images, to_device(target, device))
        setup.task.loss(setup.task.forward(model, images, target), target).backward()

    with placed(model, device), mode(model, training=True):
        order = _order(setup, model, device)
        return min(_seconds(lambda b=batch: step(*b)) for batch in islice(iter(setup.data.train), 2))  # type: ignore[misc]


def _order(setup: Setup, model: nn.Module, device: torch.device) -> torch.memory_format:
    return memory_order(to_device(setup.example, device), model)


def _seconds_of_a_forward(setup: Setup) -> float:
    """Scoring a batch: the quicker of two."""
    model, device = setup.baseline.module, torch_device(setup.config.compute_device)
    with torch.inference_mode(), placed(model, device), mode(model, training=False):
        order = _order(setup, model, device)
        batches = [to_device(images, device, order) for images, _ in islice(iter(setup.data.validation), 2)]
        return min(_seconds(lambda x=images: model(x)) for images in batches)  # type: ignore[misc]
