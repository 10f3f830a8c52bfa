"""The models of every tool at one cost that `long_training.py` trains."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from benchmarks.networks import opened, random_near
from benchmarks.rivals import converted, fastnas_model, pruned, shapes
from ghostsearch.files import write_text
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.cost_table import encode
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.candidates import build_candidates, losses_of
from ghostsearch.study.directory import load_study
from ghostsearch.study.setup import Setup
from ghostsearch.study.solve import solve_study
from ghostsearch.training.evaluate import evaluate

BUDGETS = {"macs": 0.5, "latency": 0.6}
"""Shares of the baseline's cost that a model may have at most."""
SLACK = 0.01
"""Of a latency, as far as two runs of the clock may differ."""
IMPORTANCES = ("L1", "group norm", "Taylor")
RATIOS = tuple(r / 100 for r in range(14, 86))
"""A rival's pruning ratios that are tried, the least first."""
FASTNAS_SHARES = tuple(s / 100 for s in range(60, 20, -4))
"""Shares of the MACs that FastNAS, which knows no latency, is asked for until one meets the latency."""
GHOST = "ghost(ratio=2, kernel=3)"

Make = Callable[[], tuple[str, nn.Module]]
"""What a model is, and the model."""


def make_models(args: argparse.Namespace) -> None:
    """The models of every tool, as structures in models.json and weights beside it; what is there is not made again."""
    bench = opened(args)
    target = args.work / "models.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(target.read_text()) if target.exists() else []
    losses = losses_of(build_candidates(bench, args.work), bench.space) if args.random else []
    for name, tool, budget, make in proposals(bench, args):
        if any(name == row["model"] for row in found) or (args.models and name not in args.models):
            continue
        point, model = make()
        cost = measure_cost(model, bench.example)
        structure = getattr(model, "structure", "") or json.dumps(shapes(model))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, args.work / f"{name}.safetensors")
        before = evaluate(model, bench.data.validation, bench.task)
        found.append({
            "model": name, "tool": tool, "budget": budget, "point": point, "structure": structure, "macs": cost.macs,
            "macs_ratio": cost.macs / bench.baseline_cost.macs, "before": before,
            "predicted": predicted(bench, losses, structure) if tool == "random" else None,
        })  # fmt: skip
        write_text(target, json.dumps(found))
        print(name, tool, budget, point, f"{found[-1]['macs_ratio']:.3f} of the MACs, {before:.4f}", flush=True)


def predicted(bench: Setup, losses: Sequence[Any], structure: str) -> float:
    """What the candidate table says that an architecture loses: the sum of its choices' divergences."""
    code = encode(bench.space, [Architecture.from_dict(json.loads(structure))])[0]
    return float(sum(losses[i][option] for i, option in enumerate(code)))


def proposals(bench: Setup, args: argparse.Namespace) -> Iterator[tuple[str, str, str, Make]]:
    """Name, tool and budget of everything that is compared, and what makes it."""

    def ours(architecture: Architecture) -> Make:
        return lambda: (architecture.digest, converted(bench, architecture))

    yield "baseline", "baseline", "", ours(Architecture.of({}))
    for budget in args.budgets:
        for number, architecture in enumerate(best_of(args.study, budget)[: args.candidates]):
            yield f"ghostsearch_{budget}_{number}", "ghostsearch", budget, ours(architecture)
        answer = solve_study(args.study[0], {budget: f"{100 * BUDGETS[budget]:g}%"}, count=1)[0].architecture
        yield f"solver_{budget}", "solver only", budget, ours(answer)
        for importance in args.importances:
            for together in (1, bench.space.width_multiple) if budget == "latency" else (1,):
                tool = importance if together == 1 else f"{importance} by {together}"
                make = partial(nearest_pruned, bench, importance, budget, together)
                yield f"{tool.replace(' ', '_')}_{budget}", tool, budget, make
        yield f"uniform_width_{budget}", "uniform width", budget, partial(nearest_width, bench, budget)
        if find_spec("modelopt"):
            yield f"FastNAS_{budget}", "FastNAS", budget, partial(nearest_fastnas, bench, budget, args.work)
        else:
            print("FastNAS is left out: nvidia-modelopt is not installed", flush=True)
    if "macs" in args.budgets:
        ghosts = Architecture.of({path: GHOST for path, options in bench.space.sites.items() if GHOST in options})
        yield "uniform_ghost", f"uniform {GHOST}", "macs", ours(ghosts)
    for architecture in random_near(bench, args.random, BUDGETS["macs"], seed=1):
        yield f"random_{architecture.digest}", "random", "", ours(architecture)


def best_of(studies: Sequence[Path], budget: str) -> list[Architecture]:
    """The best of some studies' trials within a budget, by their scores on the selection split."""
    found: dict[str, tuple[float, Architecture]] = {}
    for view in map(load_study, studies):
        records = [r for r in view.records if r.state == "complete" and r.cost and r.latencies]
        baseline = next(r for r in records if r.digest == "baseline")
        for r in records:
            macs = r.cost.macs / baseline.cost.macs  # type: ignore[union-attr]
            score, ratio = r.score(), macs if budget == "macs" else r.latencies[0].ratio
            if score and ratio is not None and ratio <= BUDGETS[budget] + (SLACK if budget == "latency" else 0):
                found[r.digest] = score.value, r.architecture
    return [architecture for _, architecture in sorted(found.values(), key=lambda pair: -pair[0])]


def nearest_pruned(bench: Setup, importance: str, budget: str, together: int) -> tuple[str, nn.Module]:
    """torch-pruning's model at the lowest ratio that meets a budget, channels cut so many together."""
    made: dict[str, nn.Module] = {}
    for ratio in RATIOS:
        model = pruned(bench, importance, ratio, round_to=together)
        if not any(shapes(model) == shapes(m) for m in made.values()):
            made[f"ratio {ratio:g}"] = model
    return nearest(bench, made, budget)


def nearest_fastnas(bench: Setup, budget: str, work: Path) -> tuple[str, nn.Module]:
    """FastNAS's model at half of the MACs, or at the most MACs that meet the latency, of which it knows nothing."""
    made: dict[str, nn.Module] = {}
    for share in [BUDGETS["macs"]] if budget == "macs" else FASTNAS_SHARES:
        try:
            made[f"{share:g} of the MACs"] = fastnas_model(bench, share, work)
        except ValueError:
            if not made:
                raise
            # Its space has nothing so small.
            break
    return nearest(bench, made, budget)


def nearest_width(bench: Setup, budget: str) -> tuple[str, nn.Module]:
    """Our conversion to the widest `width(f)` for every group that meets a budget."""
    groups = [g.name for g in bench.anatomy.groups if not g.fixed]
    everywhere = [Architecture.of({}, dict.fromkeys(groups, f"width({share / 100:g})")) for share in range(98, 10, -2)]
    made: dict[str, tuple[nn.Module, Architecture]] = {}
    for architecture in everywhere:
        model = bench.copied(architecture)
        if not any(shapes(model) == shapes(m) for m, _ in made.values()):
            made[str(next(iter(architecture.groups.values())))] = model, architecture
    name, _ = nearest(bench, {n: model for n, (model, _) in made.items()}, budget)
    return name, converted(bench, made[name][1])


def nearest(bench: Setup, made: dict[str, nn.Module], budget: str) -> tuple[str, nn.Module]:
    """The first model, of ever smaller ones, that meets a budget, with its name; else the one that comes nearest."""
    if budget == "macs":
        ratios = {n: measure_cost(m, bench.example).macs / bench.baseline_cost.macs for n, m in made.items()}
        most = BUDGETS[budget]
    else:
        timed = measure_latency(
            made, bench.example, baseline=bench.baseline.module, setting=Setting(time_limit=1.0 * len(made), seed=0)
        )
        ratios, most = {n: float(timed[n].ratio or 1) for n in made}, BUDGETS[budget] + SLACK
    name = next((n for n in made if ratios[n] <= most), min(made, key=lambda n: ratios[n]))
    return name, made[name]
