"""The recipe's training as one CUDA graph a step, since launching a small network's kernels takes longer than they."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ghostsearch.data.sets import ImageSet
from ghostsearch.training.recipe import Recipe
from ghostsearch.training.tasks.base import Task

WARM_UP = 3
"""Steps outside the graph first, which choose the convolutions' algorithms."""


def train_graphed(model: nn.Module, images: ImageSet, recipe: Recipe, task: Task, teacher: nn.Module) -> None:
    """Train a model in place as `ghostsearch.training.train` does on a GPU, in bfloat16 and with its steps recorded.

    images: held on that GPU; a last batch that is not full is left out. The model is given back on the CPU.
    """
    device = images.images.device
    torch.manual_seed(recipe.seed)
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    teacher.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    step = Step(model, teacher, recipe, task, images)
    per_epoch = len(images) // recipe.batch_size
    total = round(recipe.epochs * per_epoch)
    for number in range(total):
        if number % per_epoch == 0:
            order = torch.randperm(len(images)).tolist()
        at = number % per_epoch * recipe.batch_size
        step.run(*images.__getitems__(order[at : at + recipe.batch_size]), recipe.lr * recipe.lr_share(number, total))
    if not bool(step.loss.isfinite()):
        raise FloatingPointError("the loss is not finite")
    model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


class Step:
    """One step of Nesterov SGD on fixed memory: forward, distilled loss, backward, clipping, update."""

    def __init__(self, model: nn.Module, teacher: nn.Module, recipe: Recipe, task: Task, images: ImageSet) -> None:
        self.model, self.teacher, self.recipe, self.task = model, teacher, recipe, task
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.decayed = [i for i, p in enumerate(self.params) if p.ndim > 1]
        self.speeds = [torch.zeros_like(p) for p in self.params]
        x, y = images.__getitems__(list(range(recipe.batch_size)))
        self.x, self.y = x.contiguous(memory_format=torch.channels_last), y
        self.lr, self.loss = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
        self.graph = self._recorded(self._step)

    def run(self, x: Tensor, y: Tensor, lr: float) -> None:
        """One step on a batch."""
        self.x.copy_(x)
        self.y.copy_(y)
        self.lr.fill_(lr)
        self.graph.replay()

    def _recorded(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        self.model.load_state_dict(kept)
        for speed in self.speeds:
            speed.zero_()
        return graph

    def _step(self) -> None:
        share = self.recipe.distillation
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            output = self.model(self.x)
            with torch.no_grad():
                wanted = self.teacher(self.x)
        output, wanted = output.float(), wanted.float()
        loss = (1 - share) * self.task.loss(output, self.y) + share * self.task.distillation_loss(output, wanted)
        gradients = list(torch.autograd.grad(loss, self.params))
        with torch.no_grad():
            self.loss.copy_(loss)
            if self.recipe.clip_norm:
                norm = torch.nn.utils.get_total_norm(gradients)
                torch._foreach_mul_(gradients, (self.recipe.clip_norm / (norm + 1e-6)).clamp(max=1.0))
            decayed = [self.params[i] for i in self.decayed]
            torch._foreach_add_([gradients[i] for i in self.decayed], decayed, alpha=self.recipe.weight_decay)
            torch._foreach_mul_(self.speeds, self.recipe.momentum)
            torch._foreach_add_(self.speeds, gradients)
            torch._foreach_add_(gradients, self.speeds, alpha=self.recipe.momentum)
            torch._foreach_mul_(gradients, self.lr)
            torch._foreach_sub_(self.params, gradients)
