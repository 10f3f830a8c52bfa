"""Checks before training: bad splits, shapes, labels and values, found on a few images."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, IterableDataset

from ghostsearch.data.calibration import first_batch
from ghostsearch.data.load import Data
from ghostsearch.data.source import SPLITS
from ghostsearch.data.user_loaders import generators_of, places
from ghostsearch.errors import GhostsearchError, GhostsearchWarning, found_in, told_as
from ghostsearch.graph.capture import batch_size, copied, in_order, mapped, moved, tensors
from ghostsearch.training.evaluate import mode
from ghostsearch.training.loop import own_randomness, seed_everything
from ghostsearch.training.tasks.base import Task, main_output
from ghostsearch.training.tasks.classification import Classification
from ghostsearch.training.tasks.segmentation import IGNORED, Segmentation

EXAMINED = 4
"""Images of each split that are run through the model."""
DRAWN = 1000
"""Images, or batches, of which the order is looked at."""


def check_run(model: nn.Module, data: Data, task: Task) -> None:
    """Run a small batch of each split through a copy of the model and the task's score, one through its loss.

    All on the CPU; the model, its mode, the loaders' order and the random state stay as they are. Raises
    GhostsearchError, naming the split, for a split that is empty or without labels, images or labels that are not what
    model and task want, classes that do not fit, values that are not finite. Warns of an order that no seed reaches.
    """
    if data.kind and data.labelled and task.kinds and data.kind not in task.kinds:
        raise GhostsearchError(
            f"{data.name} has targets of kind {data.kind!r}, {task.metric} needs {' or '.join(task.kinds)}; "
            "choose another --task or other data"
        )
    if data.kind == "class" and len(data.classes) == 1:
        raise GhostsearchError(
            f"{data.name} has one class, {data.classes[0]!r}: its accuracy would always be 100 %; give images without "
            "class folders to search by agreement with the baseline"
        )
    replica, train = copied(model).cpu().float().eval(), None
    for split in SPLITS:
        batch = first_batch(getattr(data, split), EXAMINED)
        where = f"{data.name}, {split} split"
        if batch is None:
            raise GhostsearchError(f"{where}: empty; give it images")
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise GhostsearchError(f"{where}: a batch is (images, target), got {type(batch).__name__}")
        images, target = (mapped(part, lambda x: in_order(x.cpu(), torch.contiguous_format)) for part in batch)
        train = train or (images, target)
        with found_in(where):
            _check_score(replica, data, task, images, target)
    assert train
    with found_in(f"{data.name}, train split"):
        _check_loss(replica, task, *train)
    _check_order(data)
    _check_repeatable(data)


def _check_order(data: Data) -> None:
    """Warn where the training loader, started from one seed twice, draws two orders."""
    loader = getattr(data.train, "batches", data.train)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return
    sampler, orders = loader.sampler if loader.batch_sampler is None else loader.batch_sampler, []
    before = [(generator, generator.get_state()) for generator in generators_of(loader)]
    with own_randomness():
        for _ in range(2):
            seed_everything(0, loader, epoch=0)
            orders.append(places(sampler, DRAWN))
    for generator, state in before:
        generator.set_state(state)
    if orders[0] != orders[1]:
        text = "no seed reaches the order in which the training loader draws images: the same seed gives other weights"
        warnings.warn(f"{data.name}: {text}", GhostsearchWarning, stacklevel=3)


def _check_repeatable(data: Data) -> None:
    """Raise GhostsearchError where a split that models are judged on gives other images when it is read again."""
    for split in SPLITS[1:]:
        read = []
        for seed in range(2):
            with own_randomness():
                seed_everything(seed, (), epoch=0)
                read.append(first_batch(getattr(data, split), EXAMINED))
        if not all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(*map(tensors, read), strict=True)):
            raise GhostsearchError(
                f"{data.name}, {split} split: gives other images each time it is read; models are compared image by "
                "image: leave random transforms to the training split"
            )


def check_teacher(teacher: nn.Module, model: nn.Module, data: Data) -> None:
    """Run both on the first images; raises GhostsearchError unless the teacher takes them and answers alike."""
    batch = first_batch(data.train, EXAMINED)
    images: Any = moved(batch[0] if isinstance(batch, tuple | list) else batch, "cpu")
    with torch.inference_mode(), told_as(lambda why: f"the teacher does not run on the model's images ({why})"):
        outputs = [main_output(copied(m).cpu().float().eval()(images)) for m in (teacher, model)]
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in outputs]
    if shapes[0] != shapes[1]:
        raise GhostsearchError(
            f"the teacher's outputs {shapes[0]} are not like the model's {shapes[1]}; distil from a network of the "
            "same classes"
        )


def _check_score(model: nn.Module, data: Data, task: Task, images: Any, target: Any) -> None:
    for x in tensors(images):
        if not x.is_floating_point():
            raise GhostsearchError(f"images are {x.dtype}, the model expects floats, normalised as it was trained with")
        if not torch.isfinite(x).all():
            raise GhostsearchError("images hold values that are not finite")
    wanted = task.target(images, target)
    output = _output(model, task, images, wanted)
    if isinstance(task, Classification):
        _check_classes(main_output(output), wanted, data)
    if isinstance(task, Segmentation) and set(wanted.unique().tolist()) == {0, IGNORED}:
        text = (
            f"the first masks hold 0 and {IGNORED} alone, and {IGNORED} counts nowhere; write 1 for what is to be found"
        )
        warnings.warn(f"{data.name}: {text}", GhostsearchWarning, stacklevel=4)
    with torch.inference_mode(), _fitting(output, wanted):
        task.meter().update(output, wanted)


def _check_loss(model: nn.Module, task: Task, images: Any, target: Any) -> None:
    """The loss of a batch in training mode; BatchNorm is left out of it, which may refuse a batch of one image."""
    with torch.inference_mode(), torch.random.fork_rng(devices=[]), mode(model, training=True):
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        wanted = task.target(images, target)
        output = _output(model, task, images, wanted)
        with _fitting(output, wanted):
            loss = task.loss(output, wanted)
    if not torch.isfinite(loss).all():
        raise GhostsearchError("the loss is not finite on the first images; are the weights damaged?")


def _fitting(output: Any, target: Any) -> AbstractContextManager[None]:
    """A task of the user's own may raise anything."""
    shapes = [", ".join(str(tuple(x.shape)) for x in tensors(part)) for part in (output, target)]
    about = f"outputs {shapes[0]} and targets {shapes[1]}"
    return told_as(lambda why: f"the task's loss or score does not take {about}; choose another --task ({why})")


def _output(model: nn.Module, task: Task, images: Any, target: Any) -> Any:
    shapes = ", ".join(str(tuple(x.shape)) for x in tensors(images))
    refused = f"the model does not run on images of shape {shapes}"
    with torch.inference_mode(), told_as(lambda why: f"{refused} ({why})"):
        return task.forward(model, images, target)


def _check_classes(output: Tensor, target: Tensor, data: Data) -> None:
    if output.ndim != 2:
        raise GhostsearchError(f"classification expects logits (N, classes), the model gave {tuple(output.shape)}")
    outputs, classes = output.shape[1], len(data.classes)
    if classes and classes != outputs:
        raise GhostsearchError(
            f"the model has {outputs} outputs, the data {classes} classes; add --classes {classes} where it is made "
            "(search, convert)"
        )
    if len(target) != batch_size(output):
        raise GhostsearchError(f"{batch_size(output)} images have {len(target)} labels")
    largest = target.shape[1] - 1 if target.ndim == 2 else int(target.max())
    if largest >= outputs:
        raise GhostsearchError(f"label {largest} with a model of {outputs} outputs; add --classes, or count from 0")
