"""Search over GhostNet itself: networks trained from random weights, beside the paper's uniform ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import optuna
import torch
from torch import nn

from benchmarks.paper.ghostnet_space import GhostNetPlan, plan_from, uniform_plans
from ghostsearch.data.load import Data
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import example_input
from ghostsearch.pareto import pareto_front
from ghostsearch.records import Cost
from ghostsearch.training.evaluate import evaluate
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe

Progress = Callable[[int, int, str], None]

POPULATION = 8


@dataclass(frozen=True)
class Candidate:
    """A plan that was built, counted and trained."""

    name: str
    plan: GhostNetPlan
    cost: Cost
    score: float
    """Accuracy on the validation split after the short schedule; the search sees nothing else of it."""
    test: float
    """Accuracy on the test split, which chooses nothing."""
    on_front: bool = False
    """Whether no other candidate has both a higher score and fewer MACs."""
    latency_s: float | None = None
    ratio: float | None = None
    """Its latency over GhostNet 1.0×'s, interleaved."""


@dataclass(frozen=True)
class GhostNetTrainer:
    """Trains a plan from random weights: every network with the same seed, data and schedule."""

    data: Data
    input: InputSpec
    recipe: Recipe

    def build(self, plan: GhostNetPlan) -> nn.Module:
        """The network of a plan for the data's classes; on small images its stem keeps the size."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            return plan.build(len(self.data.classes), stem_stride=1 if self.input.size <= 64 else 2)

    def scores(self, plan: GhostNetPlan) -> tuple[float, float]:
        """Accuracy on the validation and the test split after training."""
        network = self.build(plan)
        train(network, self.data, self.recipe)
        score = evaluate(network, self.data.validation, device=self.recipe.compute_device)
        return score, evaluate(network, self.data.test, device=self.recipe.compute_device)


def search_ghostnet(
    trainer: GhostNetTrainer,
    *,
    trials: int,
    scores: Callable[[GhostNetPlan], tuple[float, float]] | None = None,
    device: str = "onnxruntime:cpu",
    threads: int = 1,
    time_limit_s: float = 20.0,
    progress: Progress | None = None,
) -> list[Candidate]:
    """Uniform GhostNets first, then NSGA-II over all decisions, each trained alike; score up, MACs down.

    `scores` stands in for the trainer's own, where it remembers what was trained before: told the same, the search
    asks the same. Afterwards the front's and the uniform ones' latency is measured interleaved with GhostNet 1.0×.
    """
    example, named = example_input(trainer.input), uniform_plans()
    scores = scores or trainer.scores
    found: dict[GhostNetPlan, Candidate] = {}
    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=trainer.recipe.seed),
    )
    for plan in named.values():
        study.enqueue_trial(plan.parameters())

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        plan = plan_from(trial.suggest_categorical)
        if plan not in found:
            name = next((n for n, p in named.items() if p == plan), f"searched {trial.number}")
            if progress:
                progress(trial.number, trials, name)
            found[plan] = Candidate(name, plan, measure_cost(trainer.build(plan), example), *scores(plan))
        return found[plan].score, float(found[plan].cost.macs)

    study.optimize(objective, n_trials=trials)
    candidates = list(found.values())
    front = set(pareto_front([(-c.score, c.cost.macs) for c in candidates]))
    marked = [replace(c, on_front=i in front) for i, c in enumerate(candidates)]
    return _timed(marked, trainer, device, threads, time_limit_s)


def _timed(
    candidates: list[Candidate], trainer: GhostNetTrainer, device: str, threads: int, limit_s: float
) -> list[Candidate]:
    wanted = {c.name: trainer.build(c.plan).eval() for c in candidates if c.on_front or c.name in uniform_plans()}
    times = measure_latency(
        wanted, example_input(trainer.input), device=device, baseline=trainer.build(GhostNetPlan()).eval(),
        setting=Setting(threads=threads, time_limit=limit_s, seed=trainer.recipe.seed),
    )  # fmt: skip
    return [
        replace(c, latency_s=times[c.name].median_s, ratio=times[c.name].ratio) if c.name in times else c
        for c in candidates
    ]
