"""Where the weights of a converted net may come from: ours, and torch-pruning's. For benchmarks/inheritance.py."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ghostsearch.data.load import Data
from ghostsearch.fits.problem import FitSettings
from ghostsearch.graph.widths import set_widths, width_plan
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.distillation import DistillSettings
from ghostsearch.surgery.norm_statistics import recalibrate_batchnorm

ONE_PASS = FitSettings(relu_rounds=0, joint_rounds=0)
NO_GATHER = FitSettings(gather=False)
DISTILL_STEPS = {"resnet20": 300, "resnet56": 100}


@dataclass
class Spent:
    """Seconds of making a net, on the wall and of the processor."""

    wall: float = 0.0
    cpu: float = 0.0


@dataclass(frozen=True)
class Bench:
    """The baseline, its data and what all rows share."""

    net: str
    baseline: nn.Module
    data: Data
    few: Callable[[], Data]
    """The data with only some of the training images, loaded when asked for."""
    example: Tensor
    calibration: list[Tensor]
    solved: Callable[[], Architecture]
    """The integer program's answer for half the MACs."""
    made: dict[tuple[str, str], tuple[nn.Module, Spent]] = field(default_factory=dict)

    def once(
        self, source: str, architecture: Architecture, make: Callable[[], tuple[nn.Module, Spent]]
    ) -> tuple[nn.Module, Spent]:
        """A copy of what `make` gave the first time, and the seconds that it took then."""
        key = (source, architecture.digest)
        if key not in self.made:
            self.made[key] = make()
        model, spent = self.made[key]
        return copy.deepcopy(model), spent

    def architecture(self, name: str) -> Architecture:
        """One of the table's architectures, about half the MACs."""
        if name == "solver":
            return self.solved()
        convs = [p for p, m in self.baseline.named_modules() if isinstance(m, nn.Conv2d) and p != "conv1"]
        if name == "ghost2":
            return Architecture.of(dict.fromkeys(convs, "ghost(ratio=2, kernel=3)"), {})
        return Architecture.of({}, {p: "width(0.5)" for p in convs if p.endswith("conv1")})


Source = Callable[[Bench, Architecture], tuple[nn.Module, Spent]]
"""Makes a converted net; returns it and the seconds it took."""


def timed(make: Callable[[Bench, Architecture], nn.Module]) -> Source:
    """A source from a function that returns only the net."""

    def source(bench: Bench, architecture: Architecture) -> tuple[nn.Module, Spent]:
        wall, cpu = time.perf_counter(), time.process_time()
        model = make(bench, architecture)
        return model, Spent(time.perf_counter() - wall, time.process_time() - cpu)

    return source


def random_weights(bench: Bench, architecture: Architecture) -> nn.Module:
    """The converted structure with fresh weights, its stem and classifier too."""
    model = convert(bench.baseline, architecture, example=bench.example)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    recalibrate_batchnorm(model, bench.calibration)
    return model


def copied(bench: Bench, architecture: Architecture) -> nn.Module:
    """Copied filters, BatchNorm statistics recalibrated."""
    model = convert(bench.baseline, architecture, example=bench.example)
    recalibrate_batchnorm(model, bench.calibration)
    return model


def fitted(settings: FitSettings | None = None, steps: Mapping[str, int] | None = None) -> Source:
    """Weights in closed form; with steps by network, then distilled without labels, the seconds are of both."""

    def fit(bench: Bench, architecture: Architecture) -> nn.Module:
        return convert(
            bench.baseline, architecture, example=bench.example, calibration=bench.calibration, settings=settings,
            distill_steps=steps[bench.net] if steps else 0,
        )  # fmt: skip

    name = f"{settings or 'closed form'} {steps or ''} {DistillSettings()}"
    return lambda bench, architecture: bench.once(name, architecture, lambda: timed(fit)(bench, architecture))


def pruned(criterion: str) -> Source:
    """torch-pruning's channels at the architecture's widths, weights sliced, BatchNorm statistics recalibrated."""

    def make(bench: Bench, architecture: Architecture) -> nn.Module:
        import torch_pruning as tp

        model = copy.deepcopy(bench.baseline).eval()
        if criterion == "taylor":
            loss = sum(model(x).square().mean() for x in bench.calibration)  # no labels here: outputs' energy
            loss.backward()
        importance = {
            "l1": lambda: tp.importance.MagnitudeImportance(p=1, group_reduction="first"),
            "group_norm": lambda: tp.importance.GroupMagnitudeImportance(p=2),
            "taylor": lambda: tp.importance.GroupTaylorImportance(),
        }[criterion]()
        graph = tp.DependencyGraph().build_dependency(model, bench.example)
        plan, keep = width_plan(bench.baseline, bench.example), {}
        for name in architecture.groups:
            conv = model.get_submodule(name)
            group = graph.get_pruning_group(conv, tp.prune_conv_out_channels, list(range(conv.out_channels)))
            order = importance(group).argsort(descending=True)
            keep[name] = sorted(order[: conv.out_channels // 2].tolist())
        model = copy.deepcopy(bench.baseline)
        set_widths(model, keep, bench.example, plan=plan)
        recalibrate_batchnorm(model, bench.calibration)
        return model

    return timed(make)


SOURCES: dict[str, Source] = {
    "closed form": fitted(),
    "closed form + distilled": fitted(steps=DISTILL_STEPS),
    "closed form, order kept": fitted(NO_GATHER),
    "one-pass least squares": fitted(ONE_PASS),
    "copied": timed(copied),
    "random": timed(random_weights),
    "torch-pruning L1": pruned("l1"),
    "torch-pruning group norm": pruned("group_norm"),
    "torch-pruning Taylor": pruned("taylor"),
}
PEERS = tuple(name for name in SOURCES if name.startswith("torch-pruning"))
