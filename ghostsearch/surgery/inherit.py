"""Inherits trained weights when a model is converted: copied, or fitted in closed form to calibration images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.graph.capture import copied, light_copy, moved
from ghostsearch.graph.plan import WidthPlan
from ghostsearch.graph.widths import set_widths, width_plan
from ghostsearch.shown import Progress
from ghostsearch.space.architecture import Architecture, Branch
from ghostsearch.surgery.baseline_statistics import BaselineStatistics
from ghostsearch.surgery.distillation import DistillSettings, distill_blocks
from ghostsearch.surgery.drop import drop_branches
from ghostsearch.surgery.fit_model import FitReport, ModelFit
from ghostsearch.surgery.fit_problem import FitSettings
from ghostsearch.surgery.fit_width import fitted_channels
from ghostsearch.surgery.swap import swap_sites


def fit_weights(
    baseline: nn.Module,
    converted: nn.Module,
    architecture: Architecture,
    *,
    example: Any,
    statistics: BaselineStatistics,
    width_multiple: int = 8,
    distill_steps: int = 0,
    seed: int = 0,
    settings: FitSettings | None = None,
    progress: Progress | None = None,
    branches: Sequence[Branch] = (),
) -> tuple[nn.Module, FitReport]:
    """Fit the weights of `converted`, in place, to the baseline's values on calibration images; returns it and what was
    fitted.

    Which channels a width keeps is chosen by least squares too, so they may differ from those it had. Layer after
    layer is fitted on the converted net's own inputs towards the baseline's values (asymmetric reconstruction, He et
    al. 2017, section 3.2); no labels, no training. statistics: the baseline's values on these images; branches: those
    dropped.
    With `distill_steps`, that many steps of label-free distillation follow.
    """
    narrow = light_copy(statistics.teacher)
    channels: dict[str, Tensor] = {}
    if architecture.groups:
        plan = width_plan(baseline, example)
        keep = fitted_channels(statistics, architecture.groups, plan, width_multiple)
        set_widths(narrow, keep, moved(example, str(statistics.device)), plan=plan)
        channels = {path: kept.to(statistics.device) for path, kept in _channels(plan, keep).items()}
    drop_branches(narrow, branches)
    student = copied(narrow)
    for old, new in swap_sites(student, architecture.sites).values():
        new.copy_weights(old)
    fit = ModelFit(statistics, narrow, student, channels, settings or statistics.settings)
    report = fit.run(architecture, progress)
    if distill_steps:
        # The fit has seen its images: only others can tell whether training helps.
        distill_blocks(
            statistics.teacher, student, [(b,) for b in statistics.batches], distill_steps,
            judging=statistics.judging, settings=DistillSettings(seed=seed), progress=progress,
        )  # fmt: skip
    # The converted module's classes, dtypes, device, modes, hooks and frozen flags stay.
    converted.load_state_dict(student.state_dict())
    return converted, report


def _channels(plan: WidthPlan, keep: dict[str, list[int]]) -> dict[str, Tensor]:
    """Per layer that makes channels of a cut group, the baseline layer's positions that stay."""
    return {
        edit.path: torch.tensor(edit.positions(left))
        for name, left in keep.items()
        for edit in plan.edits[name]
        if edit.side == "out"
    }
