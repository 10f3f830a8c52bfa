"""Checks a conversion: one forward compared with the baseline's before anything is returned, written or timed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ghostsearch.blocks.table import BLOCKS
from ghostsearch.errors import GhostsearchError, failure_kind, in_a_line
from ghostsearch.graph.capture import HOOKS, batch_size, copied, is_image_list, light_copy, moved
from ghostsearch.graph.detector import compared_outputs, is_detector
from ghostsearch.graph.widths import width_plan
from ghostsearch.space.architecture import Anatomy, Architecture
from ghostsearch.space.costs import site_macs

TOLERANCE = 1e-5
"""Largest difference, relative to the largest output, of values that no change reaches: sums in another order."""
WORSE = 1.02
"""How many times the copied weights' error at the output a fit may have."""
IMAGES = 8
NOTHING = nullcontext()
Hook = Callable[[nn.Module, Any, Any], Any]
Spoiled = tuple[list[Tensor], list[Tensor]]


class ConversionWarning(UserWarning):
    """A conversion is correct but differs from the request; the message says how."""


@dataclass(frozen=True)
class Run:
    """What one forward of a model did."""

    outputs: list[Tensor]
    calls: Mapping[str, int]
    macs: int
    found: bool = False
    """Whether it lists what it found in each image, as a detector does."""


class BaselineRuns:
    """The baseline's forwards on the example that conversions of it are compared with.

    Those of the last changed layers are kept: many conversions differ only in what these layers become. The baseline
    must stay as it is meanwhile.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        self.model, self.example = model, example
        last = lru_cache(maxsize=1)
        self.run: Callable[[tuple[str, ...]], Run] = last(partial(_run, model, example))
        """One forward, the calls of the layers at these paths counted."""
        self.spoiled: Callable[[tuple[str, ...]], Spoiled | None] = last(partial(_spoiled, model, example))
        """The outputs with NaN from the layers at these paths, and with noise; None where that tells nothing."""


def checked(
    runs: BaselineRuns, converted: nn.Module, architecture: Architecture, anatomy: Anatomy | None = None
) -> nn.Module:
    """The converted module, after it was run beside the baseline on the example.

    Every block ran as often as the layer that it replaced; outputs have the baseline's shapes and dtypes, and its very
    values where no change reaches them; MACs are those of the formulas; modes, hooks and frozen flags are the
    baseline's. Raises GhostsearchError for what is not so.
    """
    if architecture.is_baseline:
        return converted
    _same_state(runs.model, converted, architecture)
    sites = tuple(architecture.sites)
    before = runs.run(sites)
    with told_of(architecture):
        after = _run(converted, runs.example, sites)
    for path in sites:
        if before.calls[path] != after.calls[path]:
            raise GhostsearchError(
                f"{path!r} cannot be replaced: the forward calls it {before.calls[path]} times, what replaces it "
                f"{after.calls[path]} times (is it kept in a closure or a container?); leave it at 'keep'"
            )
    if _same_shapes(before.outputs, after.outputs, found=before.found):
        _same_where_untouched(runs, architecture, before, after)
        # What a detector computes for each region depends on how many regions its weights propose.
        if not before.found:
            _predicted_macs(architecture, anatomy, batch_size(runs.example), before, after)
    return converted


@contextmanager
def blamed(converted: nn.Module, images: Any, architecture: Architecture) -> Iterator[None]:
    """Failures within that the converted module's own forward on the images has too are told as `checked` tells them.

    Raises GhostsearchError for those, and what was raised for all others.
    """
    try:
        yield
    except Exception as error:
        if failure_kind(error) == "model":
            with told_of(architecture):
                outputs_of(converted, images)
        raise


@contextmanager
def told_of(architecture: Architecture) -> Iterator[None]:
    """Within, what a foreign forward raises is told in one line, but for what the machine is short of or lost."""
    try:
        yield
    except Exception as error:
        if failure_kind(error) != "model":
            raise
        names = ", ".join(repr(name) for name in [*architecture.sites, *architecture.groups][:3])
        raise GhostsearchError(
            f"{names} cannot be replaced: the forward fails with what replaces it ({in_a_line(error)}); "
            "leave it at 'keep'"
        ) from error


def outputs_of(model: nn.Module, images: Any) -> list[Tensor]:
    """A model's outputs in eval mode for images (N, C, *spatial) or any forward input; the model stays untouched."""
    return _outputs(_beside(images, model), images, {})


def power_of(wanted: Tensor) -> Tensor:
    """What a squared error is relative to: the variance, or the square of one number alone, which has none."""
    return wanted.var() if wanted.numel() > 1 else wanted.square().mean()


def output_error(converted: nn.Module, images: Any, outputs: list[Tensor]) -> float:
    """Squared error of the converted net's outputs relative to the variance of the baseline's, summed over outputs.

    images: (N, C, *spatial) or any forward input. outputs: the baseline's for them.
    """
    total = 0.0
    for ours, theirs in zip(outputs_of(converted, images), outputs, strict=True):
        if theirs.is_floating_point() and theirs.numel() and ours.shape == theirs.shape:
            wanted = theirs.double()
            total += float((ours.double() - wanted).square().mean() / power_of(wanted).clamp_min(1e-30))
    return total


def _beside(images: Any, model: nn.Module) -> nn.Module:
    """The model, or a copy where the images are, if that is another device."""
    first = next(model.parameters(), None)
    if not isinstance(images, Tensor) or first is None or first.device == images.device or first.is_meta:
        return model
    return copied(model).to(images.device)


def _run(model: nn.Module, example: Any, paths: tuple[str, ...]) -> Run:
    """One forward of a copy in evaluation mode, its operators and the calls of the layers at `paths` counted."""
    calls = dict.fromkeys(paths, 0)

    def counting(path: str) -> Hook:
        def hook(*_: Any) -> None:
            calls[path] += 1

        return hook

    flops = FlopCounterMode(display=False)
    outputs = _outputs(model, example, {path: counting(path) for path in paths}, flops)
    found = is_detector(model) or is_image_list(example)
    return Run(outputs, calls, flops.get_total_flops() // 2, found)


def _spoiled(model: nn.Module, example: Any, paths: tuple[str, ...]) -> Spoiled | None:
    kinds: tuple[Hook, Hook] = (
        lambda _, __, y: torch.full_like(y, torch.nan), lambda _, __, y: y + torch.randn_like(y),
    )  # fmt: skip
    try:
        nan = _outputs(model, example, dict.fromkeys(paths, kinds[0]))
        if all(bool(t.isnan().all()) for t in nan):
            return None
        return nan, _outputs(model, example, dict.fromkeys(paths, kinds[1]))
    # A forward that chooses its way by its values may not survive this; then nothing is known.
    except Exception:  # noqa: BLE001
        return None


def _outputs(
    model: nn.Module, example: Any, hooks: Mapping[str, Hook], within: AbstractContextManager[Any] = NOTHING
) -> list[Tensor]:
    """The outputs of one forward of a copy in evaluation mode, whose layers have these forward hooks."""
    replica = light_copy(model).eval()
    for path, hook in hooks.items():
        replica.get_submodule(path).register_forward_hook(hook)
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    with torch.no_grad(), torch.random.fork_rng(devices=[]), within:
        torch.manual_seed(0)
        return compared_outputs(replica, moved(example, str(first.device), first.dtype))


def _same_state(model: nn.Module, converted: nn.Module, architecture: Architecture) -> None:
    """Modes, hooks and frozen flags of what stayed are the baseline's."""
    others = dict(converted.named_modules(remove_duplicate=False))
    forgotten = model.training and not converted.training
    for path, old in model.named_modules(remove_duplicate=False):
        new = others.get(path)
        if new is None or type(new) is not type(old) or path in architecture.sites:
            continue
        if new.training != old.training and not forgotten:
            raise GhostsearchError(f"{path or 'the model'!r} came out of the conversion in another mode")
        for name in HOOKS:
            if len(getattr(new, name, ())) != len(getattr(old, name, ())):
                raise GhostsearchError(f"{path or 'the model'!r} has hooks that the conversion would lose")
        for name, value in old._parameters.items():
            other = new._parameters.get(name)
            if value is not None and other is not None and value.requires_grad != other.requires_grad:
                raise GhostsearchError(f"{path}.{name} came out of the conversion with another requires_grad")


def _same_shapes(before: list[Tensor], after: list[Tensor], *, found: bool) -> bool:
    """Whether outputs have the baseline's shapes and dtypes; raises GhostsearchError where they must and have not.

    found: the outputs list what was found in each image (a detector's), and another network may find more or less.
    """
    shapes = [[(tuple(t.shape), t.dtype) for t in outputs] for outputs in (before, after)]
    held = [[(shape[found:], dtype) for shape, dtype in outputs] for outputs in shapes]
    if held[0] != held[1]:
        raise GhostsearchError(f"the converted model's outputs are {shapes[1]}, the baseline's {shapes[0]}")
    return shapes[0] == shapes[1]


def _same_where_untouched(runs: BaselineRuns, architecture: Architecture, before: Run, after: Run) -> None:
    """Outputs that do not depend on what was changed have not changed.

    What depends on it is found by setting it to NaN, which passes through every sum, norm and activation. A forward
    that compares values may hide a NaN, so outputs must not change under noise either.
    """
    if any(t.is_meta for t in before.outputs):
        return
    changed = set(architecture.sites)
    if architecture.groups:
        plan = width_plan(runs.model, runs.example)
        changed |= {path for name in architecture.groups for path in plan.group(name).members}
    paths = tuple(sorted(changed))
    if (found := runs.spoiled(paths)) is None:
        return
    spoiled, noisy = found
    for old, new, nan, noise in zip(before.outputs, after.outputs, spoiled, noisy, strict=False):
        if not old.is_floating_point() or not old.shape == nan.shape == noise.shape:
            continue
        untouched = ~nan.isnan() & (noise == old)
        largest = old.abs().max().clamp_min(1e-30) if old.numel() else 1.0
        if untouched.any() and bool((old - new)[untouched].abs().max() > TOLERANCE * largest):
            raise GhostsearchError(
                f"outputs that do not depend on {', '.join(paths[:3])} changed by the conversion: a layer that reads "
                "them is shared; leave them at 'keep'"
            )


def _predicted_macs(architecture: Architecture, anatomy: Anatomy | None, images: int, before: Run, after: Run) -> None:
    """The formulas' MACs are those counted. Widths reach layers that only a cost table knows: they are left out."""
    if anatomy is None or architecture.groups or any(type(c) not in BLOCKS for c in architecture.sites.values()):
        return
    sites = {name: site for site in anatomy.sites for name in (site.path, *site.aliases)}
    predicted = sum(site_macs(sites[path], choice) - sites[path].macs for path, choice in architecture.sites.items())
    counted = after.macs - before.macs
    if counted != predicted * images:
        raise GhostsearchError(
            f"the conversion costs {counted // images} multiply-adds more than the baseline, its formulas say "
            f"{predicted}: a replaced layer computes something that they do not know"
        )


def no_worse(model: nn.Module, converted: nn.Module, images: Any, fit: Callable[[], None]) -> None:
    """Run a fit of the converted module, in place; it gets back the weights that it had where those are better.

    Judged at the outputs, on images (N, C, *spatial) or any forward input; of a tensor the first few are taken.
    Warns (ConversionWarning) where the fit is not kept.
    """
    images = images[:IMAGES] if isinstance(images, Tensor) else images
    wanted = outputs_of(model, images)
    before, error = {k: v.clone() for k, v in converted.state_dict().items()}, output_error(converted, images, wanted)
    fit()
    found = output_error(converted, images, wanted)
    if not found <= WORSE * error + 1e-6:
        converted.load_state_dict(before)
        warnings.warn(
            "the copied weights are kept: the fitted ones miss the baseline's outputs by "
            f"{found:.3g} of their variance, the copied ones by {error:.3g}; more calibration images may help",
            ConversionWarning,
            stacklevel=2,
        )
