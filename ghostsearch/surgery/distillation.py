"""Label-free distillation of a converted net from its baseline, block by block, never worse on held-out images."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.batches import kept_batches
from ghostsearch.graph.capture import batch_size, hooked, in_order, memory_order, modes_kept
from ghostsearch.graph.detector import compared_outputs
from ghostsearch.graph.flow import find_places, trace_graph
from ghostsearch.shown import Progress
from ghostsearch.surgery.distill_images import Draw, ImageSettings, Split, split
from ghostsearch.surgery.norm_statistics import recalibrate_batchnorm, settle_norms, trained_norms
from ghostsearch.surgery.stopped_fit import StoppedFit, digest_of
from ghostsearch.surgery.verify import power_of
from ghostsearch.units import duration

NORM_IMAGES = 8
"""The smallest batch whose statistics BatchNorms use while they train."""


@dataclass(frozen=True)
class DistillSettings(ImageSettings):
    """Hyper-parameters of a distillation."""

    lengths: tuple[float, ...] = (1e-2, 3e-3)
    """Lengths of Adam's steps relative to each tensor's root mean square. The first is annealed over all steps, and the
    next, from the start again, only where it never came below the start's held-out error: what suits a CIFAR net can
    ruin an ImageNet net, and a length that is not annealed yet looks worse than it is."""
    output_share: float = 0.1
    """Weight of the outputs' error beside the mean error of the blocks' ends: a few hundred images are enough to
    learn features from, while the outputs soon overfit to them."""
    checks: int = 10
    """Times that the held-out error is measured, evenly spaced."""
    seed: int = 0
    """Of the order, shifts and mirrorings of the images."""
    channels: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    """Per module path the baseline's channels in the converted net's order, where a fit has moved them: (n,)"""


@dataclass(frozen=True)
class Distilled:
    """What a distillation did; errors are on the held-out images."""

    before: float
    after: float
    """Equal to `before` where nothing helped: the weights are then those it began with."""
    step_kept: int
    """The step whose weights stay; 0 is the start."""
    seconds: float

    def __str__(self) -> str:
        if self.after < self.before:
            return f"distilled {self.step_kept} steps: held-out error {self.before:.3g} -> {self.after:.3g}"
        return f"distillation did not lower the held-out error ({self.before:.3g}); the weights stay as they were"


def distill_blocks(
    baseline: nn.Module, converted: nn.Module, loader: Iterable[Any] | Split, steps: int, *,
    settings: DistillSettings | None = None, progress: Progress | None = None, stopped: StoppedFit | None = None,
) -> Distilled:  # fmt: skip
    """Train a converted net in place, without labels, to reproduce the baseline's values at blocks' ends and outputs.

    All blocks learn at once on the converted net's own inputs; images are shifted and mirrored, for the baseline
    too. Adam, cosine, steps relative to each tensor's size; BatchNorms use the statistics of batches that are large
    enough meanwhile, and have those of the images whenever the net is judged. Held-out images, a split's or some of the
    loader's, decide whether the next, shorter step length is tried and which step's weights stay, the start's included.
    The expected time is reported after the first step of a length. Frozen parameters stay. With `stopped`, it can be
    stopped after any step and goes on from there.
    Raises GhostsearchError when there are no images or nothing can be trained.
    """
    settings = settings or DistillSettings()
    given = loader if isinstance(loader, Split) else Split(kept_batches(loader), ())
    if not given.training:
        raise GhostsearchError("there are no images to distil on; give at least one batch")
    trained = [p for p in converted.parameters() if p.requires_grad]
    if not trained:
        raise GhostsearchError("every parameter of the converted model is frozen: there is nothing to distil")
    began = time.perf_counter()
    with (
        modes_kept(baseline, converted),
        _Pair.open(baseline.eval(), converted.eval(), given.training[0], settings) as pair,
    ):
        training, held = given if given.judging else split(given.training, settings)
        opened = time.perf_counter()
        best = _Best(pair, training, held)
        settle_norms(converted, training, pair.order)
        # As every later judging does: a pass over the images for the norms, and one over those held out.
        judging_s = time.perf_counter() - opened
        draw = Draw(training, settings, torch.Generator().manual_seed(settings.seed))
        start = best.state()
        key = digest_of([steps, settings], (baseline.state_dict(), start), training, held) if stopped else ""
        run = _Run(pair, draw, trained, steps, progress, judging_s, key, stopped)
        for tried in range(run.kept.get("tried", 0), len(settings.lengths)):
            best.put(start)
            run.anneal(best, tried)
            if best.step:
                break
        best.put(best.weights)
    return Distilled(best.start, best.error, best.step, time.perf_counter() - began)


@dataclass
class _Run:
    """Steps of Adam on a pair, judged, reported and kept."""

    pair: _Pair
    draw: Draw
    trained: list[nn.Parameter]
    steps: int
    progress: Progress | None
    judging_s: float
    key: str
    stopped: StoppedFit | None
    optimizer: torch.optim.Adam = field(init=False)
    kept: dict[str, Any] = field(init=False)
    """Where an earlier run was stopped."""

    def __post_init__(self) -> None:
        self.kept = self.stopped.take_steps(self.key) if self.stopped else {}

    @cached_property
    def norms(self) -> list[_BatchNorm]:
        """The BatchNorms that use their batch's statistics, where batches are large enough."""
        return trained_norms(self.pair.converted) if self.draw.batch >= NORM_IMAGES else []

    def anneal(self, best: _Best, tried: int) -> None:
        """All steps, of the length of a number, which ends at nothing, judged evenly on the way."""
        self.optimizer = torch.optim.Adam([{"params": [p]} for p in self.trained])
        self.sizes = [_size(p) for p in self.trained]
        lengths = self.pair.settings.lengths
        every = max(1, math.ceil(self.steps / self.pair.settings.checks))
        first = self._take(best)
        for step in range(first, self.steps):
            began = time.perf_counter()
            self.step(lengths[tried] * _schedule(step, self.steps))
            took = time.perf_counter() - began
            if (step + 1) % every == 0 or step + 1 == self.steps:
                best.check(step + 1)
            if self.stopped:
                self.stopped.after_step(self.key, partial(self._state, best, tried, step + 1))
            if self.progress:
                told = "" if step > first else self.expected(took, len(lengths) - tried)
                self.progress(step + 1, self.steps, f"distilling{told}")

    def _state(self, best: _Best, tried: int, step: int) -> dict[str, Any]:
        """All that a later run needs to go on after a step."""
        return {
            "tried": tried, "step": step, "now": best.state(), "optimizer": self.optimizer.state_dict(),
            "best": {"error": best.error, "step": best.step, "weights": best.weights},
            "draw": {"order": self.draw.order, "generator": self.draw.generator.get_state()},
        }  # fmt: skip

    def _take(self, best: _Best) -> int:
        """Go on where an earlier run was stopped; returns the steps that it had done."""
        kept, self.kept = self.kept, {}
        if not kept:
            return 0
        best.put(kept["now"])
        vars(best).update(kept["best"])
        self.draw.order = kept["draw"]["order"]
        self.draw.generator.set_state(kept["draw"]["generator"])
        self.optimizer.load_state_dict(kept["optimizer"])
        return int(kept["step"])

    def step(self, length: float) -> None:
        """One step of a length relative to each tensor's size."""
        for group, size in zip(self.optimizer.param_groups, self.sizes, strict=True):
            group["lr"] = length * size
        with torch.enable_grad(), modes_kept(*self.norms):
            for norm in self.norms:
                norm.train()
            loss = self.pair.error(self.draw())
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()

    def expected(self, step_s: float, lengths: int) -> str:
        """How long all of it takes, by the first step and the first judging; a length that helps is the last."""
        took = duration(lengths * (self.steps * step_s + min(self.steps, self.pair.settings.checks) * self.judging_s))
        about = f"up to {took} for {lengths} step lengths" if lengths > 1 else f"about {took}"
        return f", {about} on this machine"


def _size(parameter: Tensor) -> float:
    """Root mean square of a tensor; biases of nearly zero count as 0.01."""
    return max(0.01, float(parameter.detach().square().mean().sqrt()))


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: upward for a tenth of the steps, as Adam's first are as long as any; then cosine."""
    climb = max(1, steps // 10)
    if step < climb:
        return (step + 1) / (climb + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - climb) / max(1, steps - climb)))


@dataclass
class _Pair:
    """Baseline and converted net, the values at their blocks' ends compared."""

    baseline: nn.Module
    converted: nn.Module
    settings: DistillSettings
    features: dict[str, Tensor]
    """The baseline's values at the blocks' ends in its last forward."""
    own: dict[str, Tensor]
    """The converted net's."""
    order: torch.memory_format
    """That both run in."""

    @staticmethod
    @contextmanager
    def open(baseline: nn.Module, converted: nn.Module, x: Any, settings: DistillSettings) -> Iterator[_Pair]:
        """The pair, hooked while it is used. x: a batch"""
        ends, order = block_ends(baseline, converted), memory_order(x, baseline, converted)
        with _taps(baseline, ends) as features, _taps(converted, ends) as own:
            yield _Pair(baseline, converted, settings, features, own, order)

    def output_error(self, x: Any) -> Tensor:
        """The outputs' error of a batch alone, which is what users get; a scalar."""
        x = in_order(x, self.order)
        return _output_error(compared_outputs(self.converted, x), compared_outputs(self.baseline, x))

    def error(self, x: Any) -> Tensor:
        """The weighted error of a batch, each part relative to the baseline's variance; a scalar."""
        x = in_order(x, self.order)
        with torch.no_grad():
            wanted = compared_outputs(self.baseline, x)
        outputs = _output_error(compared_outputs(self.converted, x), wanted)
        own, features = self.own.copy(), self.features.copy()
        # Not held during the next forward.
        self.own.clear()
        self.features.clear()
        # A block whose end was cut in width has no counterpart to be compared with.
        alike = [p for p in own if p in features and own[p].shape == features[p].shape]
        orders = self.settings.channels
        pairs = [(own[p], features[p][:, orders[p]] if p in orders else features[p]) for p in alike]
        if not pairs:
            return outputs
        share = self.settings.output_share
        inner: Any = sum(_relative(f, p) for f, p in pairs) / len(pairs)
        return share * outputs + (1 - share) * inner


def _output_error(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Any:
    """The mean error of the outputs; a scalar."""
    return sum(_error_of_one(o, w) for o, w in zip(outputs, wanted, strict=True)) / len(outputs)


def _error_of_one(value: Tensor, wanted: Tensor) -> Tensor:
    """Relative squared error; of two-dimensional outputs, which may be logits, their KL divergence is added."""
    error = _relative(value, wanted)
    if value.dim() != 2 or value.shape[1] < 2:
        return error
    return error + F.kl_div(value.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean")


def _relative(value: Tensor, wanted: Tensor) -> Tensor:
    return F.mse_loss(value, wanted) / power_of(wanted).clamp_min(1e-12)


@dataclass
class _Best:
    """The weights with the lowest held-out error so far, the start's to begin with."""

    pair: _Pair
    images: Sequence[Any]
    """What the norms get their statistics of before the net is judged."""
    held: Sequence[Any]
    step: int = 0
    start: float = field(init=False)
    error: float = field(init=False)
    weights: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.error = self._measure()
        self.weights = self.state()

    def _measure(self) -> float:
        with torch.no_grad():
            found = [(float(self.pair.output_error(x)), batch_size(x)) for x in self.held]
        return sum(error * images for error, images in found) / sum(images for _, images in found)

    def state(self) -> dict[str, Tensor]:
        """The converted net's weights and statistics as they are."""
        return {name: x.detach().clone() for name, x in self.pair.converted.state_dict().items()}

    def check(self, step: int) -> None:
        """Judge the net after a step; its weights are kept when its error is the lowest so far."""
        recalibrate_batchnorm(self.pair.converted, self.images)
        found = self._measure()
        if found < self.error:
            self.error, self.step, self.weights = found, step, self.state()

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights and statistics into the converted net."""
        self.pair.converted.load_state_dict(weights)


def block_ends(baseline: nn.Module, converted: nn.Module) -> list[str]:
    """Paths of the modules whose outputs are compared: those that contain the last layer of a residual branch, else the
    last eight BatchNorms; only those that the converted net has too.
    """
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


@contextmanager
def _taps(model: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of some modules in the last forward within, by path."""
    kept: dict[str, Tensor] = {}
    modules = {model.get_submodule(path): path for path in paths}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            kept[modules[module]] = output

    with hooked((module, keep) for module in modules):
        yield kept
