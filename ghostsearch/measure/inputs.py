"""Gives any model a flat calling convention, and an example of any batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import call_itself, is_image_list, like, mapped, tensors


class Flat(nn.Module):
    """A model that takes its example's tensors one by one and returns its outputs' tensors as a tuple.

    Exporters and counters want positional tensors, whatever structure the model's own forward takes and
    gives.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        super().__init__()
        self.ghostsearched = model
        self.structure = [example]

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        values = iter(flat)
        return tuple(tensors(call_itself(self.ghostsearched, mapped(self.structure[0], lambda _: next(values)))))


def flat_inputs(example: Any) -> tuple[Tensor, ...]:
    """The tensors of an example in the order in which `Flat` takes them."""
    return tuple(tensors(example))


def one_by_one(run: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs (N, …) of what takes one image at a time for every image of a batch: inputs (N, …)."""
    found = [run(*(x[i : i + 1] for x in inputs)) for i in range(len(inputs[0]))]
    return tuple(torch.cat(values) for values in zip(*found, strict=True))


def batched(example: Any, batch: int) -> Any:
    """The example's first image, repeated `batch` times: (N, C, H, W) -> (batch, C, H, W), inside any
    structure.

    A list of images becomes a list of `batch` images. Raises GhostsearchError when batch is below 1.
    """
    if batch < 1:
        raise GhostsearchError(f"batch must be at least 1, got {batch}; try batch=1")
    if is_image_list(example):
        return [example[0]] * batch
    if isinstance(example, Tensor):
        if example.dim() < 2:
            return example
        return example[:1].expand(batch, *example.shape[1:]).clone(memory_format=torch.contiguous_format)
    if isinstance(example, dict):
        return {key: batched(item, batch) for key, item in example.items()}
    if isinstance(example, list | tuple):
        return like(example, [batched(item, batch) for item in example])
    return example
