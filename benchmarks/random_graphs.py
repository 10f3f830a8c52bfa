"""Converts random small networks and holds each to what the documentation promises: results/random_graphs.md.

    python benchmarks/random_graphs.py                # 2,000 graphs, about 20 minutes on one core
    python benchmarks/random_graphs.py --seconds 240  # the same in pieces: run it again until it is done

A refusal with a reason is right; a traceback, a changed output that does not depend on the change, fitted weights worse
than copied ones, a cost that the formulas do not know, a saved directory that gives something else are wrong.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks import compute_device
from benchmarks.random_nets import RandomNet, made
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text
from ghostsearch.graph.capture import tensors
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.cost_table import CostTable
from ghostsearch.models.load import InputSpec, LoadedModel
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice_text import parse_layer_choice
from ghostsearch.space.costs import choice_fits
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.saved import load, save
from ghostsearch.surgery.sites import find_sites
from ghostsearch.surgery.verify import ConversionWarning

CHOICES = (
    "ghost(ratio=2, kernel=3)", "ghost(ratio=2, kernel=1)", "ghost(ratio=3, kernel=3)", "lowrank(rank=0.5)",
    "lowrank(rank=0.25)", "separable(multiplier=1)", "separable(multiplier=2)",
    "ghost(ratio=2, kernel=3, cheap=affine)",
)  # fmt: skip


def outcome(seed: int) -> str:
    """`right …`, `refused: …` or `WRONG …` for the conversion of one random network."""
    net, x = made(seed)
    try:
        return _judged(net, x, random.Random(seed))
    except GhostsearchError as reason:
        return f"refused: {reason}"
    # Whatever else is raised is what this looks for.
    except Exception as trouble:  # noqa: BLE001
        return f"WRONG {type(trouble).__name__}: {' '.join(str(trouble).split())[:160]}"


def _judged(net: RandomNet, x: Tensor, rng: random.Random) -> str:
    example = x[:1]
    anatomy = find_sites(net, example, include_first=True)
    sites = {
        s.path: c for s in anatomy.sites if rng.random() < 0.6 and (c := rng.choice(CHOICES))
        and choice_fits(s, parse_layer_choice(c))
    }  # fmt: skip
    groups = {g.name: "width(0.5)" for g in anatomy.groups if not g.fixed and rng.random() < 0.3}
    architecture = Architecture.of(sites, groups)
    if architecture.is_baseline:
        return "right: nothing to change"
    net.register_forward_hook(_silent)
    for parameter in list(net.parameters())[::3]:
        parameter.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        wanted = list(tensors(net(x)))
        keywords: dict[str, Any] = {"example": example, "width_multiple": 2}
        copied = convert(net, architecture, **keywords)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fitted = convert(net, architecture, calibration=[x[:12], x[12:]], **keywords)
        kept = any(issubclass(w.category, ConversionWarning) for w in said)
        trouble = _trouble(net, copied, fitted, wanted, x, set(sites), set(groups), anatomy, kept)
        if trouble:
            return f"WRONG {trouble}"
        if any(not torch.equal(before[k], v) for k, v in net.state_dict().items()):
            return "WRONG: the baseline was changed"
        predicted = CostTable(net, example, anatomy, width_multiple=2).predict(architecture)
        counted = measure_cost(fitted, example)
        if (predicted.params, predicted.macs) != (counted.params, counted.macs):
            return f"WRONG: predicted {predicted}, counted {counted}"
        with tempfile.TemporaryDirectory() as folder:
            source = LoadedModel(net, "", InputSpec(8, 3))
            save(fitted, folder, source=source, architecture=architecture, width_multiple=2)
            again = load(folder, model=net, example=example)
            if not all(torch.equal(a, b) for a, b in zip(tensors(again(x)), tensors(fitted(x)), strict=True)):
                return "WRONG: the saved directory gives other outputs"
    return "right: copied weights kept, said so" if kept else "right"


def _silent(*_: Any) -> None:
    """A hook that must survive."""


def _trouble(
    net: RandomNet, copied: nn.Module, fitted: nn.Module, wanted: list[Tensor], x: Tensor, sites: set[str],
    groups: set[str], anatomy: Any, kept: bool,
) -> str:  # fmt: skip
    if any(m.training for m in fitted.modules()):
        return "comes back in training mode"
    if len(fitted._forward_hooks) != len(net._forward_hooks):
        return "lost a hook"
    ours, theirs = dict(fitted.named_parameters()), dict(net.named_parameters())
    for name in ours.keys() & theirs.keys():
        if ours[name].requires_grad != theirs[name].requires_grad:
            return f"{name} is frozen otherwise"
    members = {m for g in anatomy.groups if g.name in groups for m in g.members}
    untouched = [not d for d in net.depends(sites | members)]
    errors = []
    for model in (copied, fitted):
        found = list(tensors(model(x)))
        for same, a, b in zip(untouched, found, wanted, strict=True):
            if a.shape != b.shape:
                return f"an output has shape {tuple(a.shape)}, not {tuple(b.shape)}"
            if same and not torch.allclose(a, b, rtol=1e-5, atol=1e-5):
                return "an output that depends on nothing changed is different"
        errors.append(sum(float((a - b).square().mean() / b.var()) for a, b in zip(found, wanted, strict=True)))
    # The product judges on the first images, this on all.
    if not kept and errors[1] > 1.1 * errors[0] + 1e-4:
        return f"fitted {errors[1]:.4g} is worse than copied {errors[0]:.4g}, and nothing says so"
    return ""


def main() -> None:
    """Goes on from what the results file has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so many seconds of processor time")
    parser.add_argument("--file", type=Path, default=Path("random_graphs.json"), help="where outcomes are kept")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, str] = json.loads(args.file.read_text()) if args.file.is_file() else {}
    started = time.process_time()
    for seed in range(args.first, args.first + args.graphs):
        if str(seed) in rows:
            continue
        if time.process_time() - started > args.seconds:
            break
        rows[str(seed)] = outcome(seed)
        if rows[str(seed)].startswith("WRONG"):
            print(seed, rows[str(seed)], flush=True)
        if len(rows) % 20 == 0:
            write_text(args.file, json.dumps(rows, indent=0) + "\n")
    write_text(args.file, json.dumps(rows, indent=0) + "\n")
    print(f"{len(rows)} graphs, {time.process_time() - started:.0f} s", Counter(_kind(t) for t in rows.values()))
    if len(rows) >= args.graphs:
        write_page(rows, args.out)


def _kind(text: str) -> str:
    """An outcome without the names of its layers."""
    if text.startswith("refused"):
        return "refused: " + text.partition(": ")[2].partition(" cannot be replaced: ")[2].partition(":")[0]
    return text if text.startswith("right") else "WRONG"


def write_page(rows: dict[str, str], out: Path) -> None:
    """The result page."""
    counts = Counter(_kind(text) for text in rows.values())
    rows_shown = [{"outcome": kind, "graphs": n} for kind, n in counts.most_common()]
    publish(
        ResultPage(
            name="random_graphs", title="Random graphs",
            claim="Random networks with the habits of real ones are converted rightly or refused with a reason",
            figure=f"{counts['WRONG']} wrong of {len(rows)}",
            command=script_command(), device=compute_device(),
            tables=[ResultTable("What became of each network", rows_shown)],
        ),
        out,
    )  # fmt: skip


if __name__ == "__main__":
    main()
