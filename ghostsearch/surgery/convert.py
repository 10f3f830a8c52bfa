"""Makes the model of an architecture: a copy, its widths cut, its sites swapped, its weights inherited."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.batches import image_batches
from ghostsearch.graph.capture import copied, unwrapped
from ghostsearch.graph.widths import kept_channels, set_widths, width_plan
from ghostsearch.machine import memory_kept
from ghostsearch.shown import Progress
from ghostsearch.space.architecture import Anatomy, Architecture
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.distill_images import kept_to_judge
from ghostsearch.surgery.drop import drop_branches, dropped_branches
from ghostsearch.surgery.fit_model import FitReport
from ghostsearch.surgery.fit_problem import FitSettings
from ghostsearch.surgery.inherit import fit_weights
from ghostsearch.surgery.sites import find_sites, require_sites
from ghostsearch.surgery.swap import swap_sites
from ghostsearch.surgery.verify import BaselineRuns, checked, no_worse


@memory_kept()
def convert(
    model: nn.Module,
    architecture: Architecture,
    *,
    example: Any,
    calibration: Iterable[Any] | None = None,
    anatomy: Anatomy | None = None,
    width_multiple: int = 8,
    distill_steps: int = 0,
    seed: int = 0,
    settings: FitSettings | None = None,
    progress: Progress | None = None,
    statistics: BaselineStatistics | None = None,
    on_fit: Callable[[FitReport], None] | None = None,
) -> nn.Module:
    """The model of an architecture as a new module, with weights inherited from `model`, which stays untouched.

    example: (N, C, H, W) or any forward input. `calibration` yields batches in any form that `image_batches` knows, to
    fit the weights in closed form under `settings`; without images they are copied. The structure depends on the
    architecture alone, so that saved weights load into a conversion made without images. `statistics` holds the
    baseline's values on the calibration batches where many conversions are made from them. `on_fit` is called with what
    was fitted.
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
    converted = copied(model)
    if architecture.groups:
        keep = kept_channels(model, architecture.groups, example, width_multiple)
        set_widths(converted, keep, example, plan=width_plan(model, example))
    drop_branches(converted, branches)
    # Fresh blocks draw random numbers before they inherit: the caller's stream must not notice.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for old, new in swap_sites(converted, architecture.sites).values():
            new.copy_weights(old)
        if (calibration is None and statistics is None) or architecture.is_baseline:
            return checked(BaselineRuns(model, example), converted, architecture, anatomy)
        if statistics is None:
            images = list(image_batches(calibration if calibration is not None else (), example))
            fitted_to, judging = kept_to_judge(images, distill_steps)
            statistics = BaselineStatistics(model, fitted_to, settings, judging=judging, once=True)
        reports: list[FitReport] = []

        def fit(known: BaselineStatistics = statistics) -> nn.Module:
            fitted, report = fit_weights(
                model, converted, architecture, example=example, statistics=known, width_multiple=width_multiple,
                distill_steps=distill_steps, seed=seed, settings=settings, progress=progress, branches=branches,
            )  # fmt: skip
            reports.append(report)
            return fitted

        # A fit that stops early leaves the layers behind to theirs: it cannot be judged at the outputs.
        early = settings is not None and settings.reach is not None
        converted = fit() if early else no_worse(model, converted, statistics.batches[0], fit)
    if on_fit:
        on_fit(reports[0])
    return checked(statistics.runs(model, example), converted, architecture, anatomy)
