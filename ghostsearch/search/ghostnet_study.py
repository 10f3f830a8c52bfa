"""Search over GhostNet itself: networks trained from random weights, beside the paper's uniform ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import optuna
import torch
from torch import nn

from ghostsearch.data import Data
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.latency import measure_latency
from ghostsearch.models.ghostnet_space import GhostNetPlan, plan_from, uniform_plans
from ghostsearch.models.loading import InputSpec, example_input
from ghostsearch.pareto import pareto_front
from ghostsearch.records import Cost
from ghostsearch.train import evaluate, train

Progress = Callable[[int, int, str], None]

POPULATION = 8


@dataclass(frozen=True)
class Candidate:
    """A plan that was built, counted and trained."""

    name: str
    plan: GhostNetPlan
    cost: Cost
    score: float
    """Accuracy on the validation split after the short schedule."""
    on_front: bool = False
    """Whether no other candidate has both a higher score and fewer MACs."""
    latency_s: float | None = None
    ratio: float | None = None
    """Its latency over GhostNet 1.0×'s, timed in turns."""


def search_ghostnet(
    data: Data,
    input_spec: InputSpec,
    *,
    trials: int,
    epochs: float,
    lr: float | None = None,
    train_device: str = "auto",
    device: str = "onnxruntime:cpu",
    threads: int = 1,
    time_limit_s: float = 20.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Candidate]:
    """Uniform GhostNets first, then NSGA-II over all decisions, each trained alike; score up, MACs down.

    Every network starts from random weights with the same seed, data and schedule. Afterwards the front's and the
    uniform ones' latency is measured in turns with GhostNet 1.0×.
    """
    example, named = example_input(input_spec), uniform_plans()
    found: dict[GhostNetPlan, Candidate] = {}
    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed),
    )
    for plan in named.values():
        study.enqueue_trial(plan.parameters())

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        plan = plan_from(trial.suggest_categorical)
        if plan not in found:
            name = next((n for n, p in named.items() if p == plan), f"searched {trial.number}")
            network = built(plan, data, input_spec, seed)
            cost = measure_cost(network, example)
            train(network, data, epochs=epochs, lr=lr, device=train_device, seed=seed)
            found[plan] = Candidate(name, plan, cost, evaluate(network, data.validation, device=train_device))
        best = found[plan]
        if progress:
            progress(trial.number + 1, trials, f"{best.name}: {best.score:.3f}")
        return best.score, float(best.cost.macs)

    study.optimize(objective, n_trials=trials)
    candidates = list(found.values())
    front = set(pareto_front([(-c.score, c.cost.macs) for c in candidates]))
    marked = [replace(c, on_front=i in front) for i, c in enumerate(candidates)]
    return _timed(marked, data, input_spec, device, threads, time_limit_s, seed)


def built(plan: GhostNetPlan, data: Data, input_spec: InputSpec, seed: int) -> nn.Module:
    """The network of a plan for the data's classes; on small images its stem keeps the size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return plan.build(len(data.classes), stem_stride=1 if input_spec.size <= 64 else 2)


def _timed(
    candidates: list[Candidate], data: Data, input_spec: InputSpec, device: str, threads: int, limit_s: float, seed: int
) -> list[Candidate]:
    wanted = {c.name: built(c.plan, data, input_spec, seed).eval() for c in candidates if c.on_front or _uniform(c)}
    reference = built(GhostNetPlan(), data, input_spec, seed).eval()
    times = measure_latency(
        wanted,
        example_input(input_spec),
        device=device,
        plain=reference,
        threads=threads,
        time_limit_s=limit_s,
        seed=seed,
    )
    return [
        replace(
            c,
            latency_s=median(times[c.name].times_s),
            ratio=median(times[c.name].times_s) / median(times[c.name].plain_times_s),
        )
        if c.name in times
        else c
        for c in candidates
    ]


def _uniform(candidate: Candidate) -> bool:
    return candidate.name in uniform_plans()
