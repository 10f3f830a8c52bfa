"""Models of other tools beside ours, for `long_training.py`, `label_free_rivals.py` and `tool_speed.py`.

FastNAS needs nvidia-modelopt, pulp and torchprofile==0.0.4.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostsearch.data.calibration import spread_batches
from ghostsearch.graph.capture import copied
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.setup import Setup
from ghostsearch.surgery.convert import convert
from ghostsearch.training.evaluate import evaluate

STATISTICS = 50
"""Batches that FastNAS takes statistics from for each width that it scores; given fewer it scores without."""
FASTNAS_IMAGES = 1000
"""Images of the selection split that FastNAS's score looks at."""


def converted(bench: Setup, architecture: Architecture) -> nn.Module:
    """Our conversion in closed form; the architecture goes along."""
    model = bench.convert(architecture)
    model.structure = json.dumps(architecture.to_dict())  # type: ignore[assignment]
    return model


def shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of every layer that has weights, by path."""
    return {
        path: (m.weight.shape[0], m.weight.shape[1] if m.weight.ndim > 1 else 0)
        for path, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    }


def rebuilt(bench: Setup, structure: str) -> nn.Module:
    """A model of a structure, as `converted` and `shapes` tell it in JSON, with any weights."""
    found = json.loads(structure)
    if "sites" in found or "groups" in found:
        architecture = Architecture.from_dict(found)
        return convert(
            bench.baseline.module, architecture, example=bench.example, anatomy=bench.anatomy,
            width_multiple=bench.space.width_multiple,
        )  # fmt: skip
    model = copied(bench.baseline.module).eval()
    for path, (outputs, inputs) in found.items():
        old: Any = model.get_submodule(path)
        if isinstance(old, nn.Conv2d):
            new: nn.Module = nn.Conv2d(
                inputs, outputs, old.kernel_size, old.stride, old.padding, bias=old.bias is not None  # type: ignore[arg-type]
            )  # fmt: skip
        else:
            new = nn.Linear(inputs, outputs) if isinstance(old, nn.Linear) else nn.BatchNorm2d(outputs)
        model.set_submodule(path, new.eval())
    return model


def pruned(bench: Setup, importance: str, ratio: float, **how: Any) -> nn.Module:
    """torch-pruning on the channels that can change; `how` goes to its pruner."""
    import torch_pruning as tp

    model = copied(bench.baseline.module).eval()
    free = {name for g in bench.anatomy.groups if not g.fixed for name in g.members}
    ignored = [m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and name not in free]
    kinds = {
        "L1": lambda: tp.importance.MagnitudeImportance(p=1),
        "group norm": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "Taylor": tp.importance.GroupTaylorImportance,
    }
    if importance == "Taylor":
        batch, target = next(iter(bench.data.train))
        bench.task.loss(model(batch), target).backward()
    how = {"global_pruning": importance == "Taylor", "round_to": bench.space.width_multiple} | how
    pruner = tp.pruner.BasePruner(
        model, bench.example, importance=kinds[importance](), pruning_ratio=ratio, ignored_layers=ignored, **how
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    return model


def fastnas_model(
    bench: Setup, share: float, work: Path, *, score: Callable[[nn.Module], float] | None = None, divisor: int = 8
) -> nn.Module:
    """NVIDIA ModelOpt's FastNAS within a share of the FLOPs, channels in multiples of the divisor.

    score: default the accuracy on images of the selection split. What it measured is kept in `work` for other shares.
    """
    import modelopt.torch.prune as mtp

    images = spread_batches(bench.data.validation, FASTNAS_IMAGES)
    settings = {"nn.Conv2d": {"*": {"channel_divisor": divisor}}, "nn.BatchNorm2d": {"*": {"feature_divisor": divisor}}}
    model, _ = mtp.prune(
        model=copied(bench.baseline.module), mode=[("fastnas", settings)], constraints={"flops": f"{100 * share:g}%"},
        dummy_input=bench.example,
        config={
            "data_loader": bench.data.train, "score_func": score or (lambda m: evaluate(m, images, bench.task)),
            "checkpoint": str(work / "fastnas.pth"), "verbose": False, "collect_func": lambda batch: batch[0],
        },
    )  # fmt: skip
    return model


def fastnas_without_labels(
    setup: Setup, budgets: Sequence[int], work: Path, *, divisor: int = 32, scored: Callable[[], None] = lambda: None
) -> Iterator[nn.Module]:
    """FastNAS at each budget, percent of the MACs: every width of every layer by the outputs' divergence from the
    baseline's, on the images that ours judges by.

    scored: called before each measurement. divisor: of channels; FastNAS's own default is 32.
    """
    judged, seen = [x for x, _ in setup.data.validation], torch.cat([x for x, _ in setup.data.train])
    batches = [(x, None) for x in seen.split(len(seen) // STATISTICS)]
    setup = replace(setup, data=replace(setup.data, train=batches))
    with torch.inference_mode():
        wanted = [setup.baseline.module(x) for x in judged]

    @torch.inference_mode()
    def score(model: nn.Module) -> float:
        scored()
        model.eval()
        pairs = zip(judged, wanted, strict=True)
        return -float(sum(len(x) * setup.task.distillation_loss(model(x), answer) for x, answer in pairs))

    for budget in budgets:
        yield fastnas_model(setup, budget / 100, work, score=score, divisor=divisor)
