"""Recalibrates BatchNorm statistics from images, and warns where images do not fit a trained net's statistics."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.graph.batches import image_batches
from ghostsearch.graph.capture import call, hooked, in_order, modes_kept, tensors

SPREAD, SEEN = 2.5, 256
"""Times that the inputs' variance may differ from the one in training (0.7 to 1 as they should be; 0.05 to 0.2 and 3.6
with another mean and deviation), and the fewest values of a channel that it is judged on."""


def trained_norms(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms with statistics of their own; a frozen one keeps its statistics, and is left out."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and not is_frozen(m)]


def is_frozen(norm: _BatchNorm) -> bool:
    """Whether a BatchNorm has a weight that is not trained: its statistics stay too."""
    return not all(p.requires_grad for p in norm.parameters())


def recalibrate_batchnorm(model: nn.Module, loader: Iterable[Any]) -> None:
    """Set every BatchNorm's statistics, in place, to the mean over a loader's images; momentum and modes stay.

    loader: batches (N, C, H, W), or (images, …). A frozen norm keeps its statistics, as does one that never reads more
    than one value of a channel. Raises GhostsearchError for an empty loader.
    """
    norms = {norm: norm.momentum for norm in trained_norms(model)}
    seen = dict.fromkeys(norms, 0)

    def enter(norm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next(tensors((args, kwargs)))
        images, channels = x.shape[:2]
        # Of one value, that of a pooled map of a last batch's only image, there is no variance.
        norm.train(x.numel() > channels)
        if norm.training:
            if not seen[norm]:
                norm.reset_running_stats()
            seen[norm] += images
            norm.momentum = images / seen[norm]

    place, batches = next(model.parameters()).device, 0
    with torch.no_grad(), modes_kept(model), ExitStack() as stack:
        model.eval()
        for norm, momentum in norms.items():
            stack.callback(setattr, norm, "momentum", momentum)
            stack.enter_context(norm.register_forward_pre_hook(enter, with_kwargs=True))
        for images in image_batches(loader):
            call(model, images.to(place) if isinstance(images, Tensor) else images)
            batches += 1
    if not batches:
        raise GhostsearchError("there are no images to take the norms' statistics of; give at least one batch")


def settle_norms(model: nn.Module, images: Sequence[Any], order: torch.memory_format = torch.contiguous_format) -> None:
    """Give every trained BatchNorm the statistics of what it now reads, its affine part changed so that no output is.

    Training that uses the batches' statistics then begins from the same function. order: the images' in memory
    """
    sums = {norm: [0.0, 0.0, 0.0] for norm in trained_norms(model) if norm.affine}

    def add(norm: nn.Module, args: Any, kwargs: Any, _: Any) -> None:
        flat = next(tensors((args, kwargs))).detach().double().transpose(0, 1).flatten(1)
        for i, value in enumerate((flat.shape[1], flat.sum(1), flat.square().sum(1))):
            sums[norm][i] = sums[norm][i] + value  # type: ignore[index, operator]

    with torch.no_grad():
        with hooked(((norm, add) for norm in sums), with_kwargs=True):
            for x in images:
                call(model, in_order(x, order))
        for norm, (count, total, squares) in sums.items():
            if not count:
                continue
            mean: Any = total / count
            variance: Any = (squares / count - mean.square()).clamp_min(0) * count / max(1, count - 1)
            _renormalise(norm, mean, variance)


def _renormalise(norm: Any, mean: Tensor, variance: Tensor) -> None:
    old = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() + old * (mean - norm.running_mean.double())
    norm.weight.copy_(old * (variance + norm.eps).sqrt())
    norm.bias.copy_(bias)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def warn_of_inputs(model: nn.Module, images: Any) -> None:
    """Warn (GhostsearchWarning) where images are not normalised as those were that the model was trained on."""
    spread = input_spread(model, images)
    if spread is not None and not 1 / SPREAD <= spread <= SPREAD:
        warnings.warn(
            f"the first BatchNorm reads {spread:.2g} times the variance that it knows from training: the images are "
            "probably normalised by another mean and standard deviation than the network's",
            GhostsearchWarning,
            stacklevel=2,
        )


def input_spread(model: nn.Module, images: Any) -> float | None:
    """Variance of what the first BatchNorm reads over that in training, the median of its channels.

    images: (N, C, H, W) or any forward input. None where there is no such norm, where it was never trained, or where
    the images are too few to tell.
    """
    found: list[float | None] = []

    def look(norm: Any, args: Any, kwargs: Any, _: Any) -> None:
        flat = next(tensors((args, kwargs))).detach().transpose(0, 1).flatten(1)
        fresh = bool((norm.running_mean == 0).all() and (norm.running_var == 1).all())
        alive = norm.running_var > 1e-3 * norm.running_var.max()
        known = not fresh and flat.shape[1] >= SEEN and bool(alive.any())
        found.append(float((flat.var(1) / norm.running_var)[alive].median()) if known else None)

    with torch.no_grad(), modes_kept(model), hooked(((norm, look) for norm in trained_norms(model)), with_kwargs=True):
        call(model.eval(), images)
    return found[0] if found else None
