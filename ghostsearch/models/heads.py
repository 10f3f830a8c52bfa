"""Another number of classes: the layers that a network's outputs come from are replaced."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError


def set_classes(module: nn.Module, classes: int, example: Tensor) -> None:
    """Give the classifier, and auxiliary ones, `classes` outputs, freshly initialised; in place.

    The classifier is the linear layer or 1×1 convolution that runs last, whatever was registered last; auxiliary are
    those whose output is one of the network's in training mode. A layer that has `classes` outputs keeps its
    parameters. example: (N, C, *dims), N at least 2. Raises GhostsearchError when there is no such layer, or the
    network does not run on the example.
    """
    order, _ = _executed(module, example, training=False)
    if not order:
        raise GhostsearchError("--classes: the model has no linear layer or 1×1 convolution at its end to adapt")
    _, direct = _executed(module, example, training=True)
    for path in {order[-1], *direct}:
        old = module.get_submodule(path)
        if getattr(old, "out_features", getattr(old, "out_channels", None)) != classes:
            module.set_submodule(path, _resized(old, classes))


def _executed(module: nn.Module, example: Tensor, *, training: bool) -> tuple[list[str], list[str]]:
    """Layers that may be classifiers in the order in which they run, and those whose output is the network's own."""
    replica = copy.deepcopy(module).train(training)
    order: list[str] = []
    memory: dict[int, str] = {}

    def note(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            order.append(path)
            memory[output.data_ptr()] = path

        return hook

    for path, layer in replica.named_modules():
        if _may_classify(layer):
            layer.register_forward_hook(note(path))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = list(_tensors(replica(example)))
    # A foreign forward may raise anything.
    except Exception as error:
        shown = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise GhostsearchError(f"--classes: the model does not run on {tuple(example.shape)} ({shown})") from error
    return order, [memory[x.data_ptr()] for x in outputs if x.data_ptr() in memory]


def _may_classify(layer: nn.Module) -> bool:
    pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear) or (pointwise and layer.bias is not None)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _resized(old: nn.Module, classes: int) -> nn.Module:
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, classes, old.bias is not None)
    assert isinstance(old, nn.Conv2d)
    return nn.Conv2d(old.in_channels, classes, 1, bias=old.bias is not None)
