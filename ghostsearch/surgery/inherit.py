"""Inherits trained weights when a model is converted: copied, or fitted in closed form to calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import call, copied
from ghostsearch.graph.flow import overwrites_what_is_read
from ghostsearch.graph.plan import WidthPlan
from ghostsearch.graph.widths import set_widths, width_plan
from ghostsearch.space.architecture import Architecture, Branch
from ghostsearch.surgery.baseline_pass import BaselinePass
from ghostsearch.surgery.drop import drop_branches
from ghostsearch.surgery.fit_layer import FitSettings
from ghostsearch.surgery.fit_model import ModelFit
from ghostsearch.surgery.fit_width import fitted_channels
from ghostsearch.surgery.shelf import kept, shelf
from ghostsearch.surgery.swap import swap_sites, swap_twins

Progress = Callable[[int, int, str], None]


def fit_weights(
    baseline: nn.Module,
    converted: nn.Module,
    architecture: Architecture,
    *,
    example: Any,
    calibration: Iterable[Any],
    width_multiple: int = 8,
    distill_steps: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
    settings: FitSettings | None = None,
    baseline_pass: BaselinePass | None = None,
    branches: Sequence[Branch] = (),
) -> nn.Module:
    """A module of `converted`'s structure whose weights are fitted to the baseline's values on calibration images.

    Which channels a width keeps is chosen by least squares too, so they may differ from `converted`'s. Layer
    after layer is
    fitted on the converted net's own inputs towards the baseline's values (asymmetric reconstruction, He et al. 2017,
    section 3.2); no labels, no training. With `distill_steps`, that many steps of label-free distillation follow.
    baseline_pass: the baseline's values on these images, stopped before the first change. branches: those dropped.
    Raises GhostsearchError when there are no images, or when in-place activations change what other layers read.
    """
    settings = settings or FitSettings()
    with shelf(settings.memory_bytes):
        batches = [
            kept(b.detach().cpu().float()) if isinstance(b, Tensor) else b for b in image_batches(calibration, example)
        ]
        if not batches:
            raise GhostsearchError("there are no calibration images; give at least one batch")
        teacher = baseline_pass.teacher if baseline_pass else copied(baseline).cpu().float().eval()
        swap_twins(teacher, batches[0])
        if overwrites_what_is_read(teacher, batches[0]):
            raise GhostsearchError(
                "an in-place activation of the network changes values that other layers read, so its layers cannot be "
                "fitted one by one; build it with inplace=False there, or convert without calibration images"
            )
        student = _fitted(
                baseline, teacher, architecture, example, batches, width_multiple, settings, progress, baseline_pass,
                branches,
            )  # fmt: skip
        if distill_steps:
            from ghostsearch.surgery.distillation import distill_blocks

            distill_blocks(teacher, student, [(b,) for b in batches], distill_steps, seed=seed, progress=progress)
    return _like(student, converted)


def _fitted(
    baseline: nn.Module, teacher: nn.Module, architecture: Architecture, example: Any, batches: list[Any],
    width_multiple: int, settings: FitSettings, progress: Progress | None, baseline_pass: BaselinePass | None,
    branches: Sequence[Branch],
) -> nn.Module:  # fmt: skip
    """The converted net with weights in closed form. teacher: the baseline in float32 on the CPU."""
    narrow = copied(teacher)
    channels: dict[str, Tensor] = {}
    if architecture.groups:
        plan = width_plan(baseline, example)
        keep = fitted_channels(teacher, architecture.groups, plan, batches, width_multiple, baseline_pass)
        set_widths(narrow, keep, example, plan=plan)
        channels = _channels(plan, keep)
    drop_branches(narrow, branches)
    student = copied(narrow)
    for old, new in swap_sites(student, architecture.sites).values():
        new.copy_weights(old)
    ModelFit(teacher, narrow, student, batches, channels, settings, baseline_pass).run(architecture, progress)
    return student


def _like(student: nn.Module, converted: nn.Module) -> nn.Module:
    """The converted module with the fitted weights: its classes, dtypes, device, modes, hooks and frozen flags stay."""
    converted.load_state_dict(student.state_dict())
    return converted


def _channels(plan: WidthPlan, keep: dict[str, list[int]]) -> dict[str, Tensor]:
    """Per layer that makes channels of a cut group, the baseline layer's positions that stay."""
    return {
        edit.path: torch.tensor(edit.positions(left))
        for name, left in keep.items()
        for edit in plan.edits[name]
        if edit.side == "out"
    }


def image_batches(loader: Iterable[Any], example: Any = None) -> Iterator[Any]:
    """The images of each batch of a loader: the batch itself, or the first of (images, …).

    Where the example is a tuple of several inputs, a tuple of as many tensors is itself the inputs.
    """
    for batch in loader:
        if isinstance(example, tuple) and isinstance(batch, tuple) and len(batch) == len(example) > 1:
            yield batch[0] if isinstance(batch[0], tuple | dict) else batch
            continue
        listed = isinstance(batch, list | tuple) and len(batch) > 0
        of_images = listed and isinstance(batch, list) and all(isinstance(x, Tensor) and x.dim() == 3 for x in batch)
        yield batch[0] if listed and not of_images else batch


def recalibrate_batchnorm(model: nn.Module, loader: Iterable[Any]) -> None:
    """Set every BatchNorm's statistics, in place, to the mean over a loader's batches; momentum and modes stay.

    loader: batches (N, C, H, W), or (images, …).
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    place = next(model.parameters()).device
    try:
        with torch.no_grad():
            for images in image_batches(loader):
                call(model, images.to(place) if isinstance(images, Tensor) else images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in before:
            module.training = training
