"""What one change alone costs: fitted with three layers behind it, its error there weighed by sampled gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ghostsearch.data.calibration import images_within, spread_batches
from ghostsearch.graph.capture import copied, in_order, memory_order, moved
from ghostsearch.graph.flow import fit_order, without_inplace
from ghostsearch.graph.reorder import readers_of
from ghostsearch.graph.replay import Replay
from ghostsearch.graph.widths import width_plan
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import GONE
from ghostsearch.study.setup import TABLE_REACH, Setup
from ghostsearch.surgery.baseline_statistics import BATCH_VALUES, BaselineStatistics
from ghostsearch.surgery.sampled_gradients import Cut, EdgeGradients, gauss_newton
from ghostsearch.training.tasks.base import Task, main_output
from ghostsearch.training.tasks.classification import Classification

JUDGE_IMAGES, JUDGE_VALUES = 256, 32 * 3 * 224 * 224
"""Images of the selection split, spread over it, that a candidate is judged on, or as many as hold so many values."""


@dataclass(frozen=True)
class Change:
    """One choice of one site or group, alone."""

    kind: str
    """site or group"""
    name: str
    choice: str

    @property
    def key(self) -> tuple[str, str, bool]:
        """What its window is shared by: the choices of a site or group; those that take a branch away begin sooner."""
        return self.kind, self.name, self.choice in GONE

    @property
    def architecture(self) -> Architecture:
        """The baseline but for this."""
        named = {self.name: self.choice}
        return Architecture.of(named) if self.kind == "site" else Architecture.of({}, named)


class SampledLoss:
    """The loss of a batch's output for a target drawn from the model's own prediction, summed over the images.

    A classifier's labels are drawn from its softmax: the mean of ggᵀ is then the Fisher matrix, ½ · (gᵀδ)² the KL
    divergence. Of any other task the target is the output plus Gaussian noise of the output's own spread, the loss its
    distillation distance. Batch i of a seed always draws the same.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.task, self.seed = task, seed

    def __call__(self, output: Any, batch: int) -> Tensor:
        main = main_output(output)
        generator = torch.Generator().manual_seed(self.seed * 100_003 + batch)
        if isinstance(self.task, Classification):
            # Drawn on the CPU, so that every device draws the same.
            drawn = torch.multinomial(main.detach().float().cpu().softmax(1), 1, generator=generator)[:, 0]
            return F.cross_entropy(main, drawn.to(main.device), reduction="sum")
        noise = torch.randn(main.shape, generator=generator).to(main) * main.detach().std(correction=0)
        return self.task.distillation_loss(main, main.detach() + noise) * len(main)


class CandidateScores:
    """Scores single changes of a setup's baseline, asked for in the order of `prepare`.

    score = ½ · mean over images of (gᵀδ)²: δ what the change alters at the end of its window (the change and
    TABLE_REACH layers behind it, all fitted in closed form), g the gradient there of a sampled label's loss. Where
    torch.fx cannot trace the model, or a layer runs more than once, the window ends at the model's output.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.members = {g.name: tuple(g.members) for g in setup.anatomy.groups}
        self.branches = {b.end: (*b.inside, b.end) for b in setup.anatomy.branches}
        size = images_within(BATCH_VALUES, setup.example, JUDGE_IMAGES)
        images = images_within(JUDGE_VALUES, setup.example, JUDGE_IMAGES)
        self.device = setup.quick_settings.device
        spread = spread_batches(setup.data.validation, images, size=size)
        self.batches: list[tuple[Any, Any]] = [
            (images, target) for images, target in (moved(batch, str(self.device)) for batch in spread)
        ]
        self.fitting = self._traced_pass()
        if self.fitting:
            order = self.fitting.layout
        else:
            order = memory_order(
                self.batches[0][0], self._baseline, forward=lambda m, x: setup.task.forward(m, x, None)
            )
        self.batches = [(in_order(images, order), target) for images, target in self.batches]
        self.loss = SampledLoss(setup.task, setup.config.seed)
        self.cuts: dict[tuple[str, str, bool], Cut] = {}
        self.at_output: list[tuple[Tensor, Tensor]] | None = None
        self.window: _Window | None = None
        if self.fitting:
            self.judged = Replay(self.fitting.teacher, self.fitting.graph, [x for x, _ in self.batches])

    def _traced_pass(self) -> BaselineStatistics | None:
        """The baseline's values on the calibration images, where its graph gives what the task's forward gives."""
        few, inputs = self.setup.few_images, self.batches[0][0]
        if not few or not isinstance(inputs, Tensor):
            return None
        found = BaselineStatistics(self.setup.baseline.module, few, self.setup.quick_settings)
        if not found.traced:
            return None
        inputs = in_order(inputs[:2], found.layout)
        with torch.no_grad():
            given = self.setup.task.forward(found.teacher, inputs, None)
            same = isinstance(given, Tensor) and torch.allclose(given, found.teacher(inputs), rtol=1e-3, atol=1e-4)
        return found if same else None

    def prepare(self, changes: Iterable[Change]) -> list[Change]:
        """The changes in the order of computation; one backward gives the gradients at the ends of all windows."""
        listed = list(changes)
        if self.fitting is None:
            return listed
        for change in listed:
            key = change.key
            if key not in self.cuts and self._in_graph(change):
                self.cuts[key] = self._cut(change)
        edges = {edge for cut in self.cuts.values() for edge in cut.edges}
        teacher, graph = self.fitting.teacher, self.fitting.graph
        self.gradients = EdgeGradients(teacher, graph, [x for x, _ in self.batches], edges, self.loss)
        position = self.fitting.position
        return sorted(listed, key=lambda c: position(self._layers(c)) if self._in_graph(c) else -1)

    def _layers(self, change: Change) -> tuple[str, ...]:
        """What computes otherwise; of a branch that goes, all of it, its norms and activations too."""
        if change.choice in GONE:
            return self.branches[change.name]
        return (change.name,) if change.kind == "site" else self.members[change.name]

    def _in_graph(self, change: Change) -> bool:
        named = (change.name,) if change.kind == "site" else self.members[change.name]
        return self.fitting is not None and all(path in self.fitting.places for path in named)

    def work(self, change: Change) -> float:
        """The work of a change's fits, in a unit of their own: its share of the time that the table takes."""
        if self.fitting is None:
            return 1.0
        statistics = self.fitting
        if change.key not in self.cuts:
            return sum(statistics.work(path, as_block=True) for path in statistics.places)
        changed, fitted = self._fitted(change)
        return sum(statistics.work(path, as_block=change.kind == "site" and path in changed) for path in fitted)

    def _fitted(self, change: Change) -> tuple[list[str], list[str]]:
        """The layers that a change alters, and those that are fitted for it."""
        assert self.fitting
        changed = [path for path in self._layers(change) if path in self.fitting.places]
        order = fit_order(self.fitting.places, changed)
        last = max(i for i, path in enumerate(order) if path in changed)
        return changed, order[: last + 1 + TABLE_REACH]

    def _cut(self, change: Change) -> Cut:
        """The end of a change's window; every layer that reads changed or reordered channels is inside."""
        assert self.fitting
        places = self.fitting.places
        changed, inside = self._fitted(change)
        for path in changed:
            found = readers_of(places[path], self.fitting.teacher)
            inside += found[1] if found else []
        if change.kind == "group":
            plan = width_plan(self.setup.baseline.module, self.setup.example)
            inside += [e.path for e in plan.edits[change.name] if e.side == "in"]
        modules = dict(self.fitting.teacher.named_modules(remove_duplicate=False))
        return Cut(self.fitting.graph, places, [p for p in inside if p in places], changed, modules)

    def __call__(self, change: Change) -> float:
        """The score of a change; those of one site or group in one go, none before an earlier one."""
        key = change.key
        if self.fitting is None or key not in self.cuts:
            return self._score_at_output(self.setup.convert_quickly(change.architecture))
        layers = self._layers(change)
        self.fitting.advance(layers)
        model = without_inplace(self.setup.convert_quickly(change.architecture, self.fitting).to(self.device).eval())
        if self.window is None or self.window.key != key:
            for node in self._first(layers).all_input_nodes:
                self.judged.get(node)
            values = self.cuts[key].values
            self.window = _Window(key, values, _values(self.judged.fork(self.fitting.teacher), values))
        errors = self.window.errors(_values(self.judged.fork(model), self.window.nodes))
        cut = self.cuts[key]
        return gauss_newton(errors, [self.gradients.along(cut, i) for i in range(len(self.batches))])

    def _first(self, layers: Sequence[str]) -> fx.Node:
        assert self.fitting
        first = self.fitting.first(layers)
        return next(n for n in self.fitting.graph.nodes if n.op == "call_module" and n.target == first)

    def _score_at_output(self, model: nn.Module) -> float:
        if self.at_output is None:
            self.at_output = [self._output_and_gradient(i) for i in range(len(self.batches))]
        task, squares, images = self.setup.task, 0.0, 0
        model = model.eval().to(self.device)
        with torch.inference_mode():
            for (inputs, target), (wanted, gradient) in zip(self.batches, self.at_output, strict=True):
                error = main_output(task.forward(model, inputs, target)) - wanted
                squares += float((error * gradient).flatten(1).sum(1).double().square().sum())
                images += len(error)
        return 0.5 * squares / images

    @cached_property
    def _baseline(self) -> nn.Module:
        return copied(self.setup.baseline.module).to(self.device).eval()

    def _output_and_gradient(self, batch: int) -> tuple[Tensor, Tensor]:
        inputs, target = self.batches[batch]
        with torch.no_grad():
            output = main_output(self.setup.task.forward(self._baseline, inputs, target))
        with torch.enable_grad():
            free = output.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(free, batch), free)
        return output, gradient


@dataclass(frozen=True)
class _Window:
    """The baseline's values at the end of a site's or group's window, shared by its choices."""

    key: tuple[str, str, bool]
    nodes: list[fx.Node]
    baseline: list[dict[fx.Node, Tensor]]

    def errors(self, values: list[dict[fx.Node, Tensor]]) -> list[dict[fx.Node, Tensor]]:
        """Per batch what a changed model has instead, less what the baseline has."""
        return [{n: own[n] - wanted[n] for n in own} for own, wanted in zip(values, self.baseline, strict=True)]


def _values(replay: Replay, nodes: Sequence[fx.Node]) -> list[dict[fx.Node, Tensor]]:
    found = {node: replay.get(node) for node in nodes}
    return [{node: found[node][i] for node in nodes} for i in range(len(replay.values))]
