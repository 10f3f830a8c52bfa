"""Static pictures for a pull request: matplotlib draws the page's own plotly figures.

plotly's way to a PNG (kaleido) needs a browser. What a figure shows is decided in `figures` alone; here are only marks,
lines and bars in matplotlib's words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostsearch.files import atomic_path
from ghostsearch.report.figures import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure

SYMBOLS = {
    "star": "*", "square": "s", "x": "X", "cross": "P", "diamond": "D", "circle": "o", "triangle-down": "v",
    "triangle-up": "^", "arrow-up": "^",
}  # fmt: skip
POINTS_PER_PIXEL = 0.72


def draw(figures: Sequence[Figure], path: Path, *, titles: Sequence[str] = (), height: float = 4.6) -> Path:
    """Draw figures of markers, lines, bars and limits side by side into a PNG; `height` in inches. Returns the path."""
    from matplotlib.figure import Figure as Sheet

    width = 9.0 if len(figures) == 1 else 6.0 * len(figures)
    sheet = Sheet((width, height), dpi=150, layout="constrained", facecolor="white")
    panels: Sequence[Axes] = sheet.subplots(1, len(figures), squeeze=False)[0]
    handles: dict[str, Any] = {}
    ranks = {unescape(t.name): t.legendrank or 0 for figure in figures for t in figure.data if t.name}
    for axes, figure in zip(panels, figures, strict=True):
        handles |= _draw_panel(axes, figure.to_plotly_json())
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title, fontsize=10, color="#5b6675")
    if handles:
        handles = dict(sorted(handles.items(), key=lambda item: ranks[item[0]]))
        columns = min(len(handles), 4 * len(figures))
        sheet.legend(
            handles.values(), handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=9
        )  # fmt: skip
    with atomic_path(path) as temporary:
        sheet.savefig(temporary)
    return path


def _draw_panel(axes: Axes, figure: Mapping[str, Any]) -> dict[str, Any]:
    """Draw one figure; returns its legend's entries."""
    layout, handles = figure["layout"], {}
    bars = [t for t in figure["data"] if t.get("type") == "bar"]
    for order, trace in enumerate(figure["data"]):
        if trace.get("yaxis") == "y2":
            continue
        if trace.get("type") == "bar":
            handle = _bar(axes, trace, _offset(trace, bars, layout))
        else:
            handle = _scatter(axes, trace, order)
        if handle is not None and trace.get("showlegend", True) and len(trace["x"]):
            handles[unescape(trace["name"])] = handle
    for shape in layout.get("shapes") or ():
        line = {"color": shape["line"]["color"], "linestyle": "--", "linewidth": 1.1, "zorder": 1}
        axes.axhline(shape["y0"], **line) if shape.get("xref") == "paper" else axes.axvline(shape["x0"], **line)
    for note in layout.get("annotations") or ():
        axes.annotate(
            note["text"], (note["x"], 0.02), xycoords=("data", "axes fraction"), rotation=90, ha="right", va="bottom",
            fontsize=8, color=note["font"]["color"],
        )  # fmt: skip
    _style(axes, layout)
    return handles


def _scatter(axes: Axes, trace: Mapping[str, Any], order: int) -> Any:
    if trace["mode"] == "lines":
        line = trace["line"]
        axes.plot(
            trace["x"], trace["y"], drawstyle="steps-post", color=line["color"], linewidth=1.2, zorder=2
        )  # fmt: skip
        return None
    marker = trace["marker"]
    symbol, hollow = marker["symbol"].removesuffix("-open"), marker["symbol"].endswith("-open")
    across, up = (e and (e.get("arrayminus", e["array"]), e["array"]) for e in map(trace.get, ("error_x", "error_y")))
    if across or up:
        axes.errorbar(
            trace["x"], trace["y"], xerr=across, yerr=up, fmt="none", ecolor=LIGHT["other"], elinewidth=0.8, zorder=3
        )  # fmt: skip
    for x, y, text in zip(trace["x"], trace["y"], trace.get("text") or (), strict=False):
        axes.annotate(
            unescape(text), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7, color=marker["color"]
        )
    return axes.scatter(
        trace["x"], trace["y"], s=(marker["size"] * POINTS_PER_PIXEL) ** 2, marker=SYMBOLS[symbol], linewidths=1.2,
        facecolor="white" if hollow else marker["color"], edgecolor=marker["color"], zorder=4 + order,
    )  # fmt: skip


def _offset(trace: Mapping[str, Any], bars: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> float:
    """How far grouped bars stand beside their place."""
    return 0.4 * (list(bars).index(trace) - (len(bars) - 1) / 2) if layout.get("barmode") == "group" else 0.0


def _bar(axes: Axes, trace: Mapping[str, Any], offset: float) -> Any:
    marker, named = trace["marker"], bool(trace["x"]) and isinstance(trace["x"][0], str)
    places = [i + offset for i in range(len(trace["x"]))] if named else trace["x"]
    if named:
        axes.set_xticks(range(len(places)), [unescape(x) for x in trace["x"]], rotation=60, ha="right")
    hollow = isinstance(marker["color"], str) and marker["color"].startswith("rgba(0,0,0,0")
    drawn = axes.bar(
        places, trace["y"], trace.get("width", 0.38), bottom=trace.get("base", 0), linewidth=0.8 if hollow else 0,
        color="none" if hollow else marker["color"], edgecolor=(marker.get("line") or {}).get("color"),
    )  # fmt: skip
    return drawn[0] if len(drawn) else None


def _style(axes: Axes, layout: Mapping[str, Any]) -> None:
    x, y = layout["xaxis"], layout["yaxis"]
    axes.set_xlabel(unescape(x["title"]["text"]), color=layout["font"]["color"])
    axes.set_ylabel(unescape(y["title"]["text"]), color=layout["font"]["color"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(x["linecolor"])
    axes.tick_params(colors="#5b6675", labelsize=7 if x.get("tickangle") else 9, length=0)
    for axis, name in ((x, "x"), (y, "y")):
        if axis.get("showgrid", True):
            axes.grid(axis="x" if name == "x" else "y", color=axis["gridcolor"], linewidth=0.6)
        if axis.get("range"):
            (axes.set_xlim if name == "x" else axes.set_ylim)(*axis["range"])
    if x.get("showticklabels") is False:
        axes.set_xticks([])
    if y.get("tickvals"):
        axes.set_yticks(y["tickvals"], y["ticktext"], family="monospace")
    axes.set_axisbelow(True)
