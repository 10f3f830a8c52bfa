"""Commands about the latency table: profile builds it, audit measures its error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import progress_bar, say, say_json, show_table, typed
from ghostsearch.measure.setting import Setting
from ghostsearch.models.options import ModelOptions
from ghostsearch.shown import Progress
from ghostsearch.space.preset import default_space
from ghostsearch.units import milliseconds

if TYPE_CHECKING:
    from ghostsearch.measure.latency_table import LatencyTable
    from ghostsearch.measure.profiling import Network

SETTING, LOADING = Setting(), ModelOptions()


@o.without("time_limit")
def profile(
    model: o.Model,
    device: o.Device = o.DEVICE,
    space: o.Space = "",
    setting: Setting = SETTING,
    correct: Annotated[
        bool, typer.Option(help="Measure ten random architectures too and fit what the layers' sum misses.")
    ] = True,
    loading: ModelOptions = LOADING,
    shown: o.Output = o.OUTPUT,
) -> None:
    """Time every layer under every choice of a space on a device; the times are kept for later searches there.

    Example: [bold]ghostsearch profile torchvision:resnet18 --device onnxruntime:cpu[/bold]
    """
    space = space or default_space(model)
    with progress_bar(shown.silent) as progress:
        table, _ = _table(model, loading, device, setting, space, progress, correct=correct)
    rows, vetoed = table.rows(), table.vetoed()
    if shown.as_json:
        say_json({"rows": rows, "vetoed": list(vetoed), "file": str(table.store.path), "note": table.store.note})
        return
    lines = [
        (
            r["site"],
            r["choice"],
            milliseconds(r["baseline_s"]),
            milliseconds(r["latency_s"]),
            _ratio(r),
            "x" * r["vetoed"],
        )
        for r in rows
    ]
    show_table(f"{model} on {device}", ["site", "choice", "baseline", "time", "÷ baseline (95 %)", "vetoed"], lines)
    say(
        f"{len(vetoed)} of {len(rows)} choices are not faster than the baseline on this device; "
        "a search for latency leaves them out"
    )
    say(table.store.note or f"kept in {table.store.path}")
    say(f"next: ghostsearch audit {typed(model)} --device {device} --space {typed(space)}")


@o.without("time_limit")
def audit(
    model: o.Model,
    device: o.Device = o.DEVICE,
    space: o.Space = "",
    setting: Setting = SETTING,
    count: Annotated[int, typer.Option(min=3, help="Random architectures to measure.")] = 30,
    loading: ModelOptions = LOADING,
    shown: o.Output = o.OUTPUT,
) -> None:
    """Measure unseen random architectures and report the error of the latency table, and of MACs alone.

    Example: [bold]ghostsearch audit torchvision:resnet18 --device onnxruntime:cpu[/bold]
    """
    from ghostsearch.measure.audit import audit as run_audit

    space = space or default_space(model)
    with progress_bar(shown.silent) as progress:
        table, network = _table(model, loading, device, setting, space, progress, correct=True)
        found = run_audit(table, network, count=count, progress=progress)
    if shown.as_json:
        say_json(dataclasses.asdict(found))
        return
    rows = [(r.predictor, f"{r.mape:.1%}", f"{r.tau:.3f}", f"{r.worst:.1%}") for r in found.rows]
    baseline = milliseconds(found.baseline_s)
    title = f"{model} on {device}: {len(found.models)} unseen architectures, baseline {baseline}"
    show_table(title, ["predictor", "mean error", "Kendall τ", "worst error"], rows, note=table.store.note)
    say(f"next: ghostsearch search --model {typed(model)} --device {device} --space {typed(space)} --data …")


def _table(
    model: str, loading: ModelOptions, device: str, setting: Setting, space: str, progress: Progress | None, *,
    correct: bool,
) -> tuple[LatencyTable, Network]:  # fmt: skip
    """The latency table of a model, its correction fitted where `correct`, and the network it was made from."""
    from ghostsearch.measure import profiling
    from ghostsearch.measure.audit import fit_correction
    from ghostsearch.measure.cells import CellStore
    from ghostsearch.models.load import example_input
    from ghostsearch.space.preset import load_preset
    from ghostsearch.surgery.saved import open_model
    from ghostsearch.surgery.sites import find_sites

    loaded, preset = open_model(model, loading), load_preset(space)
    example = example_input(loaded.input)
    anatomy = find_sites(loaded.module, example, include_first=preset.include_first)
    network = profiling.Network(loaded.module, example, anatomy)
    table = profiling.profile(network, preset.resolve(anatomy), CellStore(device, setting), progress=progress)
    if correct and table.correction is None:
        fit_correction(table, network, progress=progress)
    return table, network


def _ratio(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['ratio']:.2f} ({low:.2f}–{high:.2f})"
