"""How long training and scoring take on this machine, from one measured step of each."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ghostsearch.graph.capture import memory_order
from ghostsearch.training.evaluate import length, mode, placed, to_device, torch_device

if TYPE_CHECKING:
    from ghostsearch.study.setup import Setup


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def seconds_of_an_epoch(setup: Setup) -> float:
    """A training epoch, of which each step runs the baseline too; 0 where the images do not tell their number."""
    batches = length(setup.data.train)
    return batches * (seconds_of_a_step(setup) + seconds_of_a_forward(setup)) if batches else 0.0


def seconds_of_a_step(setup: Setup) -> float:
    """A training step: the quicker of two, since the first allocates."""
    model, device = copy.deepcopy(setup.baseline.module), torch_device(setup.config.compute_device)

    def step(images: Any, target: Any) -> None:
        images = to_device(images, device, order)
        target = setup.task.target(images, to_device(target, device))
        setup.task.loss(setup.task.forward(model, images, target), target).backward()

    with placed(model, device), mode(model, training=True):
        order = _order(setup, model, device)
        return min(seconds_of(lambda b=batch: step(*b)) for batch in islice(iter(setup.data.train), 2))  # type: ignore[misc]


def _order(setup: Setup, model: nn.Module, device: torch.device) -> torch.memory_format:
    return memory_order(to_device(setup.example, device), model)


def seconds_of_a_forward(setup: Setup) -> float:
    """Scoring a batch: the quicker of two."""
    model, device = setup.baseline.module, torch_device(setup.config.compute_device)
    with torch.inference_mode(), placed(model, device), mode(model, training=False):
        order = _order(setup, model, device)
        batches = [to_device(images, device, order) for images, _ in islice(iter(setup.data.validation), 2)]
        return min(seconds_of(lambda x=images: model(x)) for images in batches)  # type: ignore[misc]
