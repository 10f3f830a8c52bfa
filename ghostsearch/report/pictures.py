"""Static pictures of a study for a pull request, by matplotlib: the front, and what each layer became."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostsearch.files import atomic_path
from ghostsearch.records import Axis, Record, StudyView
from ghostsearch.report.colours import choice_colours
from ghostsearch.report.layer_times import layer_times
from ghostsearch.report.outcome import cost_axes, find_record, number, score_axis
from ghostsearch.report.widths import width_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, RULE, ACCENT, WARN, OTHER, UNIFORM = (
    "#1c2430", "#5b6675", "#dce1e7", "#1f5fa8", "#a63a00", "#98a2ae", "#b35900",
)  # fmt: skip
MAX_STRIPS = 12

MARKS: dict[str, dict[str, Any]] = {
    "chosen (knee)": {"marker": "*", "color": ACCENT, "s": 190},
    "baseline": {"marker": "s", "color": INK, "s": 52},
    "missed a limit": {"marker": "X", "color": WARN, "s": 52},
    "uniform": {"marker": "D", "fc": "white", "ec": UNIFORM, "s": 36},
    "front": {"marker": "o", "color": ACCENT, "s": 44},
    "other trials": {"marker": "o", "fc": "white", "ec": OTHER, "s": 26},
    "stopped early": {"marker": "v", "fc": "white", "ec": OTHER, "s": 12},
}
"""How each kind of model is marked; the first ones lie on top."""


def draw_front(view: StudyView, path: Path) -> Path:
    """Draw score against the study's first cost: every trial as searched and, once trained, the finalists beside."""
    tested = any(r.score("test") for r in view.finalists)
    figure, panels = _figure(10.5 if tested else 7.5, 4.6, 1 + tested)
    costs, score = cost_axes(view), score_axis(view)
    if not costs:
        panels[0].text(0.5, 0.5, "no trial has a cost yet", ha="center", transform=panels[0].transAxes, color=SOFT)
        return _save(figure, path)
    _panel(panels[0], view, view.records, costs[0], score)
    panels[0].set_title("as searched", fontsize=10, color=SOFT)
    if tested:
        _panel(
            panels[1], view, view.finalists, costs[0], score.model_copy(update={"name": "test_score", "limit": None})
        )
        panels[1].set_title("finalists, after final training", fontsize=10, color=SOFT)
    handles = {text: h for p in panels for h, text in zip(*p.get_legend_handles_labels(), strict=True)}
    shown = [kind for kind in MARKS if kind in handles]
    figure.legend(
        [handles[k] for k in shown], shown, loc="outside upper center", ncols=len(shown), frameon=False, fontsize=9
    )
    return _save(figure, path)


def _panel(axes: Axes, view: StudyView, records: Sequence[Record], cost: Axis, score: Axis) -> None:
    """One picture of a score against a cost."""
    for order, (kind, style) in enumerate(MARKS.items()):
        points = _points([r for r in records if _kind(view, r) == kind], cost, score)
        if points:
            axes.scatter(*zip(*points, strict=True), label=kind, linewidths=1.2, zorder=9 - order, **style)
    kept = [r for r in records if r.state == "complete" and r.digest not in view.missed]
    kept = [r for r in kept if not any(axis.breach(r) for axis in (cost, score))]
    _steps(axes, kept, cost, score)
    _limits(axes, cost, score)
    axes.set_xlabel(_title(cost))
    axes.set_ylabel(f"{'test' if score.name == 'test_score' else 'validation'} {_title(score)}")


def draw_layers(view: StudyView, path: Path) -> Path:
    """Draw a strip per model of the front: sites in order, colour the choice, height the channels kept."""
    from matplotlib.patches import Patch, Rectangle

    sites = [s["path"] for s in view.anatomy.get("sites", ())]
    rows = _strip_rows(view)
    figure, (axes,) = _figure(9.0, 1.2 + 0.42 * max(len(rows), 1))
    colours = choice_colours({"keep"} | {t for r in rows for t in r.sites.values()})
    axes.grid(visible=False)
    score = score_axis(view)
    for y, record in enumerate(rows):
        widths = width_shares(view, record.groups)
        for x, site in enumerate(sites):
            share = widths.get(site, 1.0)
            if share < 1:
                axes.add_patch(Rectangle((x + 0.06, -y), 0.88, 0.8, fill=False, edgecolor=RULE, linewidth=0.8))
            colour = colours[record.sites.get(site, "keep")]
            axes.add_patch(Rectangle((x + 0.06, -y), 0.88, 0.8 * share, facecolor=colour, linewidth=0))
    axes.set_xlim(0, max(len(sites), 1))
    axes.set_ylim(-len(rows) + 0.8, 1)
    labels = [f"{r.digest}{' ★' if r.digest == view.chosen else ''}  {score.text(number(r, 'score'))}" for r in rows]
    axes.set_yticks([-y + 0.4 for y in range(len(rows))], labels, fontsize=9, family="monospace")
    axes.set_xticks([])
    axes.set_xlabel(f"{len(sites)} sites, from input to output; height: share of channels kept", fontsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    handles = [Patch(color=c, label=t) for t, c in colours.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)), frameon=False, fontsize=9)
    return _save(figure, path)


def draw_layer_times(view: StudyView, path: Path) -> Path | None:
    """Draw each layer's latency before and after in the chosen model, as the first device has them.

    None, and no file, where the study timed no layers or its choice is the baseline.
    """
    timed, chosen = next(iter(layer_times(view)), None), find_record(view, view.chosen)
    if timed is None or chosen is None or chosen.digest not in timed["models"]:
        path.unlink(missing_ok=True)
        return None
    before, after = (np.array(x) * 1e6 for x in (timed["baseline"], timed["models"][chosen.digest]))
    figure, (axes,) = _figure(9.0, 3.4)
    choices = [chosen.sites.get(layer, "keep") for layer in timed["layers"]]
    colours, places = choice_colours({"keep", *choices}), np.arange(len(before))
    axes.bar(places - 0.2, before, 0.38, facecolor="white", edgecolor=SOFT, linewidth=0.8, label="before")
    axes.bar(places + 0.2, after, 0.38, color=[colours[c] for c in choices], label="after, coloured by choice")
    axes.set_xticks(places, timed["layers"], rotation=60, ha="right", fontsize=7 if len(before) < 30 else 5)
    axes.set_ylabel("latency (µs)")
    axes.grid(visible=False, axis="x")
    total = f"all layers: {before.sum():.0f} µs before, {after.sum():.0f} µs after"
    axes.set_title(f"{chosen.digest} on {timed['device']}; {total}", fontsize=10, color=SOFT)
    axes.legend(frameon=False, fontsize=9)
    return _save(figure, path)


def _kind(view: StudyView, record: Record) -> str:
    """What a model is on the picture: the first of MARKS that fits it."""
    if record.digest == "baseline":
        return "baseline"
    if record.digest == view.chosen:
        return "chosen (knee)"
    if record.digest in view.missed:
        return "missed a limit"
    if record.origin == "uniform":
        return "uniform"
    if record.digest in view.front:
        return "front"
    return "other trials" if record.state == "complete" and not record.reason else "stopped early"


def _strip_rows(view: StudyView) -> list[Record]:
    """Baseline, chosen, and as many of the front, evenly spaced, as there is room for; in the front's order."""
    rest = [d for d in view.front if d not in ("baseline", view.chosen)]
    step = max(1, -(-len(rest) // (MAX_STRIPS - 2)))
    wanted = {"baseline", view.chosen, *rest[::step]}
    ordered = dict.fromkeys(["baseline", *view.front, view.chosen])
    found = [find_record(view, d) for d in ordered if d in wanted]
    return [r for r in found if r]


def _points(records: Sequence[Record], cost: Axis, score: Axis) -> list[tuple[float, float]]:
    (cost_factor, _), (score_factor, _) = cost.scale, score.scale
    pairs = [(number(r, cost.name), number(r, score.name)) for r in records]
    return [(x * cost_factor, y * score_factor) for x, y in pairs if x is not None and y is not None]


def _steps(axes: Axes, records: Sequence[Record], cost: Axis, score: Axis) -> None:
    """The staircase of the best records on these two axes."""
    sign = 1 if score.maximize else -1
    stairs: list[tuple[float, float]] = []
    for x, y in sorted(_points(records, cost, score), key=lambda p: (p[0], -sign * p[1])):
        if not stairs or sign * y > sign * stairs[-1][1]:
            stairs.append((x, y))
    if stairs:
        axes.step(*zip(*stairs, strict=True), where="post", color=ACCENT, linewidth=1.2, zorder=2)


def _limits(axes: Axes, cost: Axis, score: Axis) -> None:
    style: dict[str, Any] = {"color": WARN, "linewidth": 1.1, "linestyle": "--", "zorder": 1}
    if cost.bound is not None:
        axes.axvline(cost.bound * cost.scale[0], **style)
        axes.annotate(
            f"limit {cost.text(cost.bound)}",
            (cost.bound * cost.scale[0], 0.02),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="bottom",
            fontsize=8,
            color=WARN,
        )
    if score.bound is not None:
        axes.axhline(score.bound * score.scale[0], **style)


def _title(axis: Axis) -> str:
    unit = axis.scale[1]
    return f"{axis.label} ({unit})" if unit and unit != axis.label else axis.label


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=150, layout="constrained", facecolor="white")
    drawn: list[Axes] = list(figure.subplots(1, panels, squeeze=False)[0])
    for axes in drawn:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(RULE)
        axes.tick_params(colors=SOFT, labelsize=9, length=0)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.grid(color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, drawn


def _save(figure: Figure, path: Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    return path
