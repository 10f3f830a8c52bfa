"""The search over GhostNet itself, as a table and a picture beside the uniform GhostNets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.paper.counted import Row
from benchmarks.paper.ghostnet_space import GhostNetPlan
from benchmarks.paper.ghostnet_study import Candidate, GhostNetTrainer, search_ghostnet
from benchmarks.paper.kept import KeptRows
from benchmarks.paper.options import PaperOptions
from ghostsearch.data.load import load_data
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import atomic_path
from ghostsearch.models.input import InputSpec
from ghostsearch.training.recipe import Recipe

Progress = Callable[[int, int, str], None]

SCHEDULE = {
    "data", "validation_list", "train_images", "test_images", "search_size", "epochs", "batch_size", "lr",
    "train_precision",
}  # fmt: skip
"""Options that decide what a training comes to, beside its plan and seed."""


def searched(options: PaperOptions, kept: KeptRows, progress: Progress | None = None) -> list[Candidate]:
    """Uniform and searched GhostNets on small images under the short schedule; raises GhostsearchError without data."""
    if options.data is None:
        raise GhostsearchError("the search trains on images; give --data, such as folder:PATH")
    spec = InputSpec(options.search_size)
    data = load_data(
        options.data, input=spec, batch=options.batch_size, train_images=options.train_images,
        test_images=options.test_images, validation_list=options.validation_list, seed=options.seed,
    )  # fmt: skip
    trainer = GhostNetTrainer(data, spec, options.part(Recipe))

    def scores(plan: GhostNetPlan) -> tuple[float, float]:
        key = plan.parameters() | {"seed": options.seed} | options.model_dump(mode="json", include=SCHEDULE)
        row = kept.get(key)
        if row is None:
            row = dict(zip(("score", "test"), trainer.scores(plan), strict=True))
            kept.add(key, row)
        return row["score"], row["test"]

    return search_ghostnet(
        trainer, trials=options.search_trials, scores=scores, device=options.device, threads=options.threads,
        time_limit_s=options.time_limit, progress=progress,
    )  # fmt: skip


def search_rows(candidates: Sequence[Candidate]) -> list[Row]:
    """A row a network, from few multiply-adds to many."""
    return [
        {
            "network": c.name,
            "on front": c.on_front,
            "validation accuracy %": 100 * c.score,
            "test accuracy %": 100 * c.test,
            "MACs": c.cost.macs,
            "params": c.cost.params,
            "latency ms": None if c.latency_s is None else 1e3 * c.latency_s,
            "÷ GhostNet 1×": c.ratio,
            "width": c.plan.width,
            "ratios": _counts(c.plan.ratio),
            "kernels": _counts(c.plan.kernel),
            "expansions": _counts(c.plan.expansion),
            "SE": sum(c.plan.squeeze),
        }
        for c in sorted(candidates, key=lambda c: c.cost.macs)
    ]


def _counts(values: Sequence[float]) -> str:
    """How often each value stands in a list of sixteen, such as `2×9 3×4 4×3`."""
    return " ".join(f"{value:g}: {count}" for value, count in sorted(Counter(values).items()))


def draw_search(candidates: Sequence[Candidate], path: Path) -> Path:
    """Draw accuracy against multiply-adds: uniform GhostNets joined by a line, searched ones, the front filled."""
    from matplotlib.figure import Figure

    figure = Figure((6.4, 3.8), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for uniform, colour, marker in ((True, "#b35900", "D"), (False, "#1f5fa8", "o")):
        chosen = sorted((c for c in candidates if c.name.startswith("GhostNet") is uniform), key=lambda c: c.cost.macs)
        xs, ys = [c.cost.macs / 1e6 for c in chosen], [100 * c.score for c in chosen]
        faces = [colour if c.on_front else "none" for c in chosen]
        name = "uniform GhostNet 0.5–1.3×" if uniform else "searched"
        axes.scatter(xs, ys, marker=marker, facecolors=faces, edgecolors=colour, label=f"{name} (filled: front)")
        if uniform:
            axes.plot(xs, ys, color=colour, linewidth=0.8)
    axes.set_xlabel("MACs (millions)")
    axes.set_ylabel("validation accuracy (%), short schedule")
    axes.grid(color="#dce1e7", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    return path
