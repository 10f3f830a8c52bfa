"""Fits one site alone, for the candidate table: how well could each choice replace this convolution?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.blocks.table import build_block
from ghostsearch.graph.capture import call
from ghostsearch.space.choice import Keep, LayerChoice
from ghostsearch.surgery.fit_block import Problem, fit_block
from ghostsearch.surgery.fit_layer import FitSettings, FreeFit, Target
from ghostsearch.surgery.least_squares import NormalEquations

CACHE_BYTES = 2**30
"""Values kept for all sites together; further images are left out."""
SITE_SETTINGS = FitSettings(joint_rounds=1, joint_steps=2)


@dataclass
class SiteValues:
    """What a convolution of the baseline reads and gives on some images: batches (N, C, …) and (N, n, …)."""

    conv: Any
    inputs: list[Tensor]
    outputs: list[Tensor]

    @cached_property
    def free(self) -> FreeFit:
        """The convolution itself, which nothing beats on its own inputs, with the sums that every choice needs."""
        equations = NormalEquations(self.conv)
        for x, y in zip(self.inputs, self.outputs, strict=True):
            equations.add(x, y)
        weight = self.conv.weight.detach().cpu().float()
        return FreeFit(weight, torch.zeros(len(weight)), equations, self.outputs)


def site_values(model: nn.Module, paths: Sequence[str], batches: Iterable[Any]) -> dict[str, SiteValues]:
    """Inputs and outputs of some convolutions in one pass over image batches, up to CACHE_BYTES; the model stays
    as it is.
    """
    found = {path: SiteValues(model.get_submodule(path), [], []) for path in paths}
    held = 0

    def keep(values: SiteValues) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            values.inputs.append(args[0].detach().cpu().float().clone())
            values.outputs.append(output.detach().cpu().float().clone())

        return hook

    handles = [values.conv.register_forward_hook(keep(values)) for values in found.values()]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                call(model, batch)
                held = sum(4 * t.numel() for v in found.values() for t in (*v.inputs, *v.outputs))
                if held >= CACHE_BYTES:
                    break
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return found


def fit_site(values: SiteValues, choice: LayerChoice) -> tuple[nn.Module, float]:
    """A block fitted to a convolution's own inputs and outputs, and its squared error relative to the outputs'
    variance.

    Its channels stand in the convolution's order (by an index buffer where a ghost needs one).
    """
    conv = values.conv
    if isinstance(choice, Keep):
        return conv, 0.0
    block: Any = build_block(conv, choice).cpu().float()
    target = Target(values.outputs, None, False, _equal_importance(values.outputs))
    with torch.no_grad():
        fitted = fit_block(
            block,
            Problem(values.free, values.inputs, target, SITE_SETTINGS, intercept=True, reorder=True, biased=True),
        )
        if fitted is not None and fitted.order is not None:
            block.order = torch.argsort(fitted.order)
        return block, _relative_error(block, values, target.weight)


def _equal_importance(outputs: Sequence[Tensor]) -> Tensor:
    """One over each channel's variance: the norm that follows a convolution does the same."""
    flat = torch.cat([y.transpose(0, 1).flatten(1) for y in outputs], 1)
    variance = flat.var(1)
    return 1 / variance.clamp_min(1e-6 * float(variance.mean()) + 1e-30)


def _relative_error(block: nn.Module, values: SiteValues, weight: Tensor) -> float:
    """Share of the outputs' variance that the block misses, constants aside: the norm or bias takes those."""
    missed = [block(x) - y for x, y in zip(values.inputs, values.outputs, strict=True)]
    error = torch.cat([m.transpose(0, 1).flatten(1) for m in missed], 1).var(1) * weight
    total = torch.cat([y.transpose(0, 1).flatten(1) for y in values.outputs], 1).var(1) * weight
    return float(error.sum() / total.sum().clamp_min(1e-30))
