"""Several models trained side by side by one recipe, on the same batches and one teacher's answers.

On a GPU a step is one CUDA graph, since launching a small network's kernels takes longer than they.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ghostsearch.data.sets import ImageSet
from ghostsearch.training.recipe import Recipe
from ghostsearch.training.tasks.base import Task

WARM_UP = 3
"""Steps outside the graph first, which choose the convolutions' algorithms."""
STREAMS = 4
"""Learners whose kernels may run at the same time; each holds its maps meanwhile."""


@dataclass
class Learner:
    """One of the models that are trained together, with its highest learning rate."""

    model: nn.Module
    lr: float

    def prepare(self) -> None:
        """Collect what a step changes; the model is where it will be trained."""
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self.decayed = [i for i, p in enumerate(self.params) if p.ndim > 1]
        self.speeds = [torch.zeros_like(p) for p in self.params]
        self.loss = torch.zeros((), device=self.params[0].device)


def train_together(
    learners: Sequence[Learner], images: ImageSet, recipe: Recipe, task: Task, teacher: nn.Module
) -> list[bool]:
    """Train models in place as `ghostsearch.training.train` does, in bfloat16 on a GPU, on a CPU if the recipe says so.

    All see the same batches, shifted and mirrored alike, and the teacher's one answer to them: what differs between
    them is not the order of images. images: held where the training is; a last batch that is not full is left out. The
    models are given back on the CPU. Returns whether each one's loss stayed finite.
    """
    torch.backends.cudnn.benchmark = True  # on a CPU without effect
    device = images.images.device
    torch.manual_seed(recipe.seed)
    for module in (teacher.eval(), *(learner.model.train() for learner in learners)):
        module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = Step(learners, teacher, recipe, task, images)
    per_epoch = len(images) // recipe.batch_size
    total = round(recipe.epochs * per_epoch)
    for number in range(total):
        if number % per_epoch == 0:
            order = torch.randperm(len(images)).tolist()
        at = number % per_epoch * recipe.batch_size
        step.run(*images.__getitems__(order[at : at + recipe.batch_size]), recipe.lr_share(number, total))
    for learner in learners:
        learner.model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return [bool(learner.loss.isfinite()) for learner in learners]


class Step:
    """One step of Nesterov SGD on fixed memory for every learner: forward, distilled loss, backward, update."""

    def __init__(
        self, learners: Sequence[Learner], teacher: nn.Module, recipe: Recipe, task: Task, images: ImageSet
    ) -> None:
        self.learners, self.teacher, self.recipe, self.task = learners, teacher, recipe, task
        for learner in learners:
            learner.prepare()
        x, y = images.__getitems__(list(range(recipe.batch_size)))
        self.x, self.y = x.contiguous(memory_format=torch.channels_last), y
        self.share = torch.zeros((), device=x.device)
        gpu = x.is_cuda
        self.precision = partial(
            torch.autocast, x.device.type, torch.bfloat16, gpu or recipe.train_precision == "bf16-mixed",
            cache_enabled=False,
        )  # fmt: skip
        self.streams = [torch.cuda.Stream() for _ in range(STREAMS)] if gpu else []
        self.step = self._recorded().replay if gpu else self._step

    def run(self, x: Tensor, y: Tensor, share: float) -> None:
        """One step on a batch, at a share of each learner's rate."""
        self.x.copy_(x)
        self.y.copy_(y)
        self.share.fill_(share)
        self.step()

    def _recorded(self) -> torch.cuda.CUDAGraph:
        kept = [{n: value.clone() for n, value in one.model.state_dict().items()} for one in self.learners]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._step_side_by_side()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step_side_by_side()
        for learner, state in zip(self.learners, kept, strict=True):
            learner.model.load_state_dict(state)
            for speed in learner.speeds:
                speed.zero_()
        return graph

    def _step(self) -> None:
        wanted = self._answer()
        for learner in self.learners:
            self._update(learner, wanted)

    def _step_side_by_side(self) -> None:
        """The teacher first, then the learners at the same time, since one small network leaves a GPU half idle."""
        here, wanted = torch.cuda.current_stream(), self._answer()
        for stream in self.streams:
            stream.wait_stream(here)
        for number, learner in enumerate(self.learners):
            with torch.cuda.stream(self.streams[number % STREAMS]):
                self._update(learner, wanted)
        for stream in self.streams:
            here.wait_stream(stream)

    def _answer(self) -> Tensor:
        """The teacher's outputs for the batch."""
        with torch.no_grad(), self.precision():
            return self.teacher(self.x).float()  # type: ignore[no-any-return]

    def _update(self, learner: Learner, wanted: Tensor) -> None:
        share, params, speeds = self.recipe.distillation, learner.params, learner.speeds
        with self.precision():
            output = learner.model(self.x)
        output = output.float()
        loss = (1 - share) * self.task.loss(output, self.y) + share * self.task.distillation_loss(output, wanted)
        gradients = list(torch.autograd.grad(loss, params))
        with torch.no_grad():
            learner.loss.copy_(loss)
            if self.recipe.clip_norm:
                norm = torch.nn.utils.get_total_norm(gradients)
                torch._foreach_mul_(gradients, (self.recipe.clip_norm / (norm + 1e-6)).clamp(max=1.0))
            decayed = [params[i] for i in learner.decayed]
            torch._foreach_add_([gradients[i] for i in learner.decayed], decayed, alpha=self.recipe.weight_decay)
            torch._foreach_mul_(speeds, self.recipe.momentum)
            torch._foreach_add_(speeds, gradients)
            torch._foreach_add_(gradients, speeds, alpha=self.recipe.momentum)
            torch._foreach_mul_(gradients, learner.lr * self.share)
            torch._foreach_sub_(params, gradients)
