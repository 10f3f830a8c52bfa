"""Makes the model of an architecture: a copy, its widths cut, its sites swapped, its weights inherited."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.fits.problem import FitSettings
from ghostsearch.graph.batches import kept_batches
from ghostsearch.graph.capture import copied, light_copy, unwrapped
from ghostsearch.graph.widths import kept_channels, set_widths, width_plan
from ghostsearch.machine import memory_kept
from ghostsearch.shown import Progress
from ghostsearch.space.architecture import Anatomy, Architecture
from ghostsearch.space.choice import WIDTH_MULTIPLE
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.distill_images import Split, kept_to_judge
from ghostsearch.surgery.distillation import DistillSettings, distill_blocks
from ghostsearch.surgery.drop import drop_branches, dropped_branches
from ghostsearch.surgery.fit_model import FitReport, ModelFit
from ghostsearch.surgery.fit_width import fitted_channels
from ghostsearch.surgery.options import FitOptions
from ghostsearch.surgery.sites import find_sites, require_sites
from ghostsearch.surgery.stopped_fit import StoppedFit
from ghostsearch.surgery.swap import swap_sites
from ghostsearch.surgery.verify import BaselineRuns, blamed, checked, no_worse, told_of


def fit_settings(told: FitOptions, **changes: Any) -> FitSettings:
    """How a fit is done under a user's options, with some of its settings changed."""
    memory = round(told.fit_memory * 2**30)
    return FitSettings(compute_device=told.compute_device, seed=told.seed, memory_bytes=memory, **changes)


@memory_kept()
def convert(
    model: nn.Module,
    architecture: Architecture,
    *,
    example: Any,
    calibration: Iterable[Any] | None = None,
    anatomy: Anatomy | None = None,
    width_multiple: int = WIDTH_MULTIPLE,
    distill_steps: int = 0,
    seed: int = 0,
    settings: FitSettings | None = None,
    progress: Progress | None = None,
    statistics: BaselineStatistics | None = None,
    on_fit: Callable[[FitReport], None] | None = None,
    stopped: StoppedFit | None = None,
) -> nn.Module:
    """The model of an architecture as a new module, with weights inherited from `model`, which stays untouched.

    example: (N, C, H, W) or any forward input. `calibration` yields batches in any form that `image_batches` knows, to
    fit the weights in closed form under `settings`; without images they are copied, and the channels of a width are
    those with the largest weights instead of those that the images choose. Layer after layer is fitted on the converted
    net's own inputs towards the baseline's values (asymmetric reconstruction, He et al. 2017, section 3.2); with
    `distill_steps`, that many steps of label-free distillation follow. The structure depends on the
    architecture alone, so that saved weights load into a conversion made without images. `statistics` holds the
    baseline's values on the calibration batches where many conversions are made from them. `on_fit` is called with what
    was fitted. With `stopped`, fit and distillation can be stopped and go on from there.
    Warns (ConversionWarning) where a fit is worse than the copied weights, which then stay.
    Raises GhostsearchError for a site or group that the model does not have or that cannot change, for distillation
    without images, and where the result fails a check (`checked`).
    """
    model = unwrapped(model)
    if architecture.sites:
        anatomy = anatomy or find_sites(model, example, include_first=True, widths=False)
        require_sites(anatomy, architecture.sites)
    branches = dropped_branches(architecture, anatomy) if anatomy else []
    if distill_steps and calibration is None and statistics is None:
        raise GhostsearchError("distilling blocks needs images: give calibration batches, or distill_steps=0")
    # Fresh blocks draw random numbers before they inherit: the caller's stream must not notice.
    with torch.random.fork_rng(devices=[]):
        if architecture.is_baseline:
            return copied(model)
        if statistics is None and calibration is not None:
            images, judging = kept_to_judge(kept_batches(calibration, example), distill_steps)
            statistics = BaselineStatistics(model, images, settings, judging=judging, once=True)
        torch.manual_seed(seed)
        converted, channels = copied(model), dict[str, Tensor]()
        if architecture.groups:
            plan = width_plan(model, example)
            if statistics:
                keep = fitted_channels(statistics, architecture.groups, plan, width_multiple)
            else:
                keep = kept_channels(model, architecture.groups, example, width_multiple)
            set_widths(converted, keep, example, plan=plan)
            channels = plan.positions(model, keep)
        drop_branches(converted, branches)
        narrow = light_copy(converted) if statistics else converted
        with told_of(architecture):
            for old, new in swap_sites(converted, architecture.sites).values():
                new.copy_weights(old)
        if statistics is None:
            return checked(BaselineRuns(model, example), converted, architecture, anatomy)
        fit = ModelFit(statistics, narrow, converted, channels, settings or statistics.settings, branches)
        reports: list[FitReport] = []

        def fitted() -> None:
            reports.append(fit.run(architecture, progress, stopped))
            if distill_steps:
                # The fit has seen its images: only others can tell whether training helps.
                images = Split(fit.statistics.batches, fit.statistics.judging)
                distill_blocks(
                    fit.statistics.teacher, fit.student, images, distill_steps,
                    settings=DistillSettings(seed=seed, channels=fit.channels), progress=progress, stopped=stopped,
                )  # fmt: skip
            # The converted module's classes, dtypes, device, modes, hooks and frozen flags stay.
            converted.load_state_dict(_unrounded(fit.student.state_dict(), converted.state_dict()))

        # A fit that stops early leaves the layers behind to theirs: it cannot be judged at the outputs.
        with blamed(converted, statistics.batches[0], architecture):
            if settings is not None and settings.reach is not None:
                fitted()
            else:
                no_worse(model, converted, statistics.batches[0], fitted)
    if on_fit:
        on_fit(reports[0])
    return checked(statistics.runs(model, example), converted, architecture, anatomy)


def _unrounded(fitted: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The state of a fit, which computes in float32; what it has made no other number keeps all its digits."""

    def same(name: str, value: Tensor) -> bool:
        return name in own and value.is_floating_point() and torch.equal(own[name].to(value), value)

    return {name: own[name] if same(name, value) else value for name, value in fitted.items()}
