"""Label-free distillation of a converted net from its baseline parent, block by block or as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.busy import breathe
from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import call, channels_last, tensors
from ghostsearch.graph.flow import find_places, trace_graph

Progress = Callable[[int, int, str], None]
LEARNING_RATE = 2e-3
LOGITS_SHARE = 0.1
"""Weight of the outputs' loss beside the mean of the feature losses; each is relative to the baseline's variance."""


def distill_blocks(
    baseline: nn.Module,
    converted: nn.Module,
    loader: Iterable[Any],
    steps: int,
    *,
    batch: int = 64,
    lr: float = LEARNING_RATE,
    shift: int = 4,
    flips: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Train a converted net in place, without labels, to give the baseline's values at every block's end and
    at the output.

    All blocks learn at once, each on the converted net's own inputs. Images are shifted by up to an eighth of
    their side
    (at most `shift` pixels) and mirrored: the baseline, asked again, says what its answer is. Adam, cosine; BatchNorm
    uses each batch's statistics meanwhile, and gets those of the images as they came at the end. Frozen
    parameters stay.
    Raises GhostsearchError when there are no images or nothing can be trained.
    """
    from ghostsearch.surgery.inherit import image_batches, recalibrate_batchnorm

    images = list(image_batches(loader))
    if not images:
        raise GhostsearchError("there are no images to distil on; give at least one batch")
    trained = [p for p in converted.parameters() if p.requires_grad]
    if not trained:
        raise GhostsearchError("every parameter of the converted model is frozen: there is nothing to distil")
    modes = [(module, module.training) for model in (baseline, converted) for module in model.modules()]
    baseline.eval()
    converted.eval()
    draw = _Draw(images, batch, shift, flips, torch.Generator().manual_seed(seed))
    ends = block_ends(baseline, converted)
    taps = [_Taps(model, ends) for model in (baseline, converted)]
    optimizer = torch.optim.Adam(trained, lr)
    norms = [m for m in converted.modules() if isinstance(m, _BatchNorm) and m.affine and m.track_running_stats]
    try:
        for norm in norms:
            norm.train()
        for step in range(steps):
            breathe()
            for group in optimizer.param_groups:
                group["lr"] = lr * _schedule(step, steps)
            x = channels_last(draw())
            with torch.no_grad():
                wanted = list(tensors(call(baseline, x)))
                features = taps[0].take()
            output = list(tensors(call(converted, x)))
            loss = _loss(output, wanted, taps[1].take(), features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if progress:
                progress(step + 1, steps, "distilling")
    finally:
        for tap in taps:
            tap.close()
        for module, training in modes:
            module.training = training
    recalibrate_batchnorm(converted, images)


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: a tenth of the steps upward, since Adam's first steps are as long as any; then
    a cosine.
    """
    climb = max(1, steps // 10)
    if step < climb:
        return (step + 1) / (climb + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1, steps - climb)))


def _loss(output: list[Tensor], wanted: list[Tensor], features: list[Tensor], of_baseline: list[Tensor]) -> Any:
    outputs: Any = sum(_relative(o, w) for o, w in zip(output, wanted, strict=True)) / len(output)
    # A block whose end was cut in width has no counterpart to be compared with.
    pairs = [(f, p) for f, p in zip(features, of_baseline, strict=True) if f.shape == p.shape]
    if not pairs:
        return outputs
    inner = sum(_relative(f, p) for f, p in pairs) / len(pairs)
    return LOGITS_SHARE * outputs + (1 - LOGITS_SHARE) * inner


def _relative(value: Tensor, wanted: Tensor) -> Tensor:
    return F.mse_loss(value, wanted) / wanted.var().clamp_min(1e-12)


class _Draw:
    """Random batches of calibration images, shifted and mirrored; batches that are no image tensors come as they
    are.
    """

    def __init__(self, images: Sequence[Any], batch: int, shift: int, flips: bool, generator: torch.Generator) -> None:
        together = all(isinstance(b, Tensor) and b.dim() == 4 and b.shape[1:] == images[0].shape[1:] for b in images)
        self.pool = torch.cat(list(images)) if together else None
        self.images, self.flips, self.generator = images, flips, generator
        self.batch = batch if self.pool is None else min(batch, len(self.pool))
        self.shift = 0 if self.pool is None else min(shift, self.pool.shape[-1] // 8)
        self.order: list[int] = []

    def __call__(self) -> Any:
        count = len(self.images) if self.pool is None else len(self.pool)
        take = 1 if self.pool is None else self.batch
        if len(self.order) < take:
            self.order = torch.randperm(count, generator=self.generator).tolist()
        chosen, self.order = self.order[:take], self.order[take:]
        return self.images[chosen[0]] if self.pool is None else self._augmented(self.pool[chosen])

    def _augmented(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        wide = F.pad(x, [self.shift] * 4, mode="reflect") if self.shift else x
        moves = torch.randint(2 * self.shift + 1, (len(x), 2), generator=self.generator).tolist()
        mirrored = (torch.rand(len(x), generator=self.generator) < 0.5 * self.flips).tolist()
        made = []
        for image, (down, right), mirror in zip(wide, moves, mirrored, strict=True):
            crop = image[:, down : down + height, right : right + width]
            made.append(crop.flip(-1) if mirror else crop)
        return torch.stack(made)


def block_ends(baseline: nn.Module, converted: nn.Module) -> list[str]:
    """Modules whose outputs are compared: those right behind which a sum closes a residual block, else BatchNorms."""
    graph = trace_graph(baseline)
    ends: list[str] = []
    if graph is not None:
        for place in find_places(baseline, graph).values():
            parent = place.path.rpartition(".")[0]
            if place.shortcut is not None and parent and parent not in ends:
                ends.append(parent)
    if not ends:
        ends = [path for path, m in baseline.named_modules() if isinstance(m, _BatchNorm)][-8:]
    with_width = dict(converted.named_modules())
    return [path for path in ends if path in with_width]


class _Taps:
    """Keeps the outputs of some modules of the last forward, in order."""

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self.values: dict[str, Tensor] = {}
        self.paths = paths
        self.handles = [model.get_submodule(path).register_forward_hook(self._keeper(path)) for path in paths]

    def _keeper(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self.values[path] = output

        return hook

    def take(self) -> list[Tensor]:
        """The outputs, forgotten thereafter."""
        found, self.values = [self.values[p] for p in self.paths if p in self.values], {}
        return found

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
