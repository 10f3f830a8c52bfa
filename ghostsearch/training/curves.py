"""Training curves drawn by matplotlib; reads a training's history, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ghostsearch.errors import GhostsearchError
from ghostsearch.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ghostsearch.training.recipe import Epoch

LOSS, SCORE = "#b45309", "#1d4ed8"


def draw_curves(history: Sequence[Epoch], path: Path, *, metric: str = "accuracy", title: str = "") -> Path:
    """Loss, and the validation score where it was taken, by epoch; the format follows the suffix (.svg, .png, .pdf).

    Raises GhostsearchError when there is no epoch to draw or the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not history:
        raise GhostsearchError("no training curves: the training had no whole epoch")
    figure = Figure((6.4, 3.6), dpi=150, layout="constrained", facecolor="white")
    left = figure.add_subplot()
    left.set_xlabel("epoch")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(color="#e5e7eb", linewidth=0.6)
    left.spines["top"].set_visible(False)
    if title:
        left.set_title(title, fontsize=10, loc="left")
    _curve(left, history, [e.loss for e in history], "training loss", LOSS)
    scored = [e for e in history if e.score is not None]
    if scored:
        right = left.twinx()
        right.spines["top"].set_visible(False)
        values = [e.score for e in scored if e.score is not None]
        _curve(right, scored, values, f"validation {metric}", SCORE)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    return path


def _curve(axes: Axes, epochs: Sequence[Epoch], values: Sequence[float], label: str, colour: str) -> None:
    axes.plot([e.epoch for e in epochs], values, color=colour, marker="o", markersize=3, label=label)
    axes.set_ylabel(label, color=colour)
    axes.tick_params(axis="y", colors=colour, length=0)
