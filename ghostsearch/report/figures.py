"""The pictures of a study as plotly figures: the page shows them as they are, `pictures` draws the static ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ghostsearch.records import Axis, Record, StudyView
from ghostsearch.report.colours import choice_colours
from ghostsearch.report.compact import ComparedModel
from ghostsearch.report.history import hypervolume_history, rung_curves
from ghostsearch.report.outcome import axis_title, model_id, score_axis, score_cell, shown_score, timed_alike
from ghostsearch.report.points import FAINT_KINDS, MARKS, Panel, Point
from ghostsearch.space.choice_text import parse_choice, parse_width
from ghostsearch.space.costs import kept_width
from ghostsearch.units import share_text, with_prefix

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LIGHT = {
    "paper": "#ffffff", "panel": "#f6f7f9", "ink": "#1c2430", "soft": "#5b6675", "rule": "#dce1e7", "accent": "#1f5fa8",
    "accent-soft": "#e6eff9", "warn": "#a63a00", "other": "#87929f", "uniform": "#b35900", "ring": "#a3195b",
}  # fmt: skip
DARK = {
    "paper": "#14181d", "panel": "#1c2229", "ink": "#e6eaef", "soft": "#a0abb8", "rule": "#323b46", "accent": "#7ab4f5",
    "accent-soft": "#1f3147", "warn": "#ffa26b", "other": "#7d8894", "uniform": "#f0a850", "ring": "#ff8fc0",
}  # fmt: skip
"""The page's colours; figures are made in LIGHT, and the page's script puts DARK in their place."""
ORIGINS = {
    "baseline": ("square", "ink"), "uniform": ("diamond-open", "uniform"),
    "solver": ("triangle-up", "ring"), "sampler": ("circle-open", "accent"),
}  # fmt: skip
STUDY_MARKS = (("circle", "accent"), ("diamond", "uniform"), ("square", "ring"), ("triangle-up", "ink"))
CLEAR = "rgba(0,0,0,0)"


def front_figure(panel: Panel, view: StudyView, compact: Sequence[ComparedModel] = ()) -> Figure:
    """Score against a cost: the front's line, a trace for each kind of model, limits, and compact networks' costs.

    `customdata` holds digests. Horizontal bars are 95 % intervals of the latency, vertical ones standard errors.
    """
    cost, score = panel.cost, panel.score
    records = {model_id(r): r for r in (*view.finalists, *view.records)}
    traces = [_line(panel.line)]
    for kind in reversed(tuple(MARKS)):
        points = [p for p in panel.points if p.kind == kind]
        names = [_uniform_name(records[p.model]) for p in points] if "uniform" in kind else []
        if points:
            traces.append(_marks(points, kind, names))
    if nets := [(n.name, v * cost.scale[0]) for n in compact if (v := _compact_cost(n, cost, view)) is not None]:
        traces.append(_compact_trace(nets))
    shapes, notes = _limits(panel)
    hidden = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    return _figure(
        traces, axis_title(cost), axis_title(score), hovermode="closest", shapes=shapes, annotations=notes,
        yaxis2=hidden, uirevision=f"{cost.name} {score.name}",
    )  # fmt: skip


def strips_figure(view: StudyView, records: Sequence[Record], kind_of: Mapping[str, str]) -> Figure:
    """What each layer became: a row for each model, a cell for each site; colour: choice, height: channels kept."""
    sites = view.anatomy.get("sites", ())
    colours = choice_colours({"keep"} | {t for r in records for t in r.sites.values()})
    cells: dict[str, list[tuple[int, int, float, str, str]]] = {text: [] for text in colours}
    for row, record in enumerate(records):
        shares = width_shares(view, record.groups)
        for i, site in enumerate(sites):
            choice, share = record.sites.get(site["path"], "keep"), shares.get(site["path"], 1.0)
            cells[choice].append((i, -row, share, record.digest, _cell_text(site, choice, share)))
    full = [(x, y) for group in cells.values() for x, y, share, *_ in group if share < 1]
    frame = {"color": CLEAR, "line": {"color": LIGHT["rule"], "width": 1}}
    traces: list[dict[str, Any]] = [
        {
            "type": "bar", "x": [x for x, _ in full], "y": [0.8] * len(full), "base": [y for _, y in full],
            "width": 0.88, "marker": frame, "hoverinfo": "skip", "showlegend": False,
        }
    ]  # fmt: skip
    for choice, group in cells.items():
        traces.append({
            "type": "bar", "name": choice, "marker": {"color": colours[choice]}, "width": 0.88,
            "x": [c[0] for c in group], "y": [round(0.8 * c[2], 3) for c in group], "base": [c[1] for c in group],
            "customdata": [c[3] for c in group], "hovertext": [c[4] for c in group],
            "hovertemplate": "%{customdata}<br>%{hovertext}<extra></extra>",
        })  # fmt: skip
    stars = [" ★" * (kind_of.get(r.digest) == "chosen") for r in records]
    labels = [f"{r.digest}{star}  {score_cell(shown_score(view, r))}" for r, star in zip(records, stars, strict=True)]
    ticks = {"tickvals": [0.4 - i for i in range(len(records))], "ticktext": labels, "showgrid": False}
    figure = _figure(
        traces, f"{len(sites)} sites, from input to output; height: share of channels kept", "", barmode="overlay",
        hovermode="closest", height=130 + 30 * len(records), meta={"rows": [r.digest for r in records]},
    )  # fmt: skip
    figure.update_xaxes(showticklabels=False, showgrid=False, range=[-0.6, max(len(sites), 1) - 0.4])
    figure.update_yaxes(**ticks, range=[0.9 - len(records), 0.95], tickfont={"family": "monospace", "size": 12})
    return figure


def layer_figures(view: StudyView) -> dict[str, dict[str, Figure]]:
    """Each layer timed alone, baseline and as it became: by device, then by digest of the model.

    Empty where the study kept no times of single layers.
    """
    devices: dict[str, list[dict[str, Any]]] = {}
    for row in view.layers:
        devices.setdefault(str(row["device"]), []).append(row)
    known = {r.digest: r for r in (*view.records, *view.finalists)}
    return {
        device: {
            digest: _layer_bars(rows, known[digest], device)
            for digest in rows[0]["seconds"]
            if digest in known and all(row["seconds"].get(digest) is not None for row in rows)
        }
        for device, rows in devices.items()
    }


def _layer_bars(rows: Sequence[Mapping[str, Any]], record: Record, device: str) -> Figure:
    before = [1e6 * r["baseline_s"] for r in rows]
    after = [1e6 * r["seconds"][record.digest] for r in rows]
    choices = [record.sites.get(r["layer"], "keep") for r in rows]
    colours = choice_colours({"keep", *choices})
    bars = {"type": "bar", "x": [escape(r["layer"]) for r in rows]}
    hover = [
        f"{escape(c)}<br>{b:.3g} µs before, {a:.3g} µs after ({share_text(a / b)})"
        for c, b, a in zip(choices, before, after, strict=True)
    ]
    total = (
        f"all layers: {sum(before):.0f} µs before, {sum(after):.0f} µs after ({share_text(sum(after) / sum(before))})"
    )
    hollow = {"color": CLEAR, "line": {"color": LIGHT["soft"], "width": 1}}
    filled = {"color": [colours[c] for c in choices]}
    traces: list[dict[str, Any]] = [
        {**bars, "name": "before", "y": _round(before), "marker": hollow},
        {**bars, "name": "after, coloured by choice", "y": _round(after), "marker": filled},
    ]
    for trace in traces:
        trace |= {"hovertext": hover, "hovertemplate": "<b>%{x}</b><br>%{hovertext}<extra></extra>"}
    figure = _figure(traces, "", "latency (µs)", barmode="group", bargap=0.2, hovermode="closest")
    figure.update_xaxes(type="category", tickangle=-60, tickfont={"size": 10}, showgrid=False)
    figure.update_layout(meta={"caption": f"{record.digest} on {device}; {total}"})
    return figure


def progress_figures(view: StudyView, shown: set[str]) -> dict[str, Figure]:
    """Score by trial, hypervolume by trial, and score by rung where trials had several."""
    score, figures = score_axis(view), {}
    factor = score.scale[0]
    traces = []
    for origin in dict.fromkeys(r.origin for r in view.records):
        own = [r for r in view.records if r.origin == origin and r.digest in shown and score.value(r) is not None]
        symbol, colour = ORIGINS.get(origin, ("circle", "other"))
        traces.append({
            "mode": "markers", "name": escape(origin), "x": [r.number for r in own],
            "y": _round([factor * (score.value(r) or 0) for r in own]), "customdata": [r.digest for r in own],
            "hovertemplate": "<b>%{customdata}</b><br>trial %{x}: %{y:.4g}<extra></extra>",
            "marker": {"symbol": symbol, "size": 8, "color": LIGHT[colour],
                       "opacity": [1 if r.state == "complete" else 0.35 for r in own]},
        })  # fmt: skip
    figures["scores"] = _figure(traces, "trial", axis_title(score), hovermode="closest")
    if curve := hypervolume_history(view).get("curve"):
        steps = _line(curve, "after trial %{x}: %{y:.3f}<extra></extra>")
        figures["volume"] = _figure([steps], "trial", "hypervolume")
    rungs = rung_curves(view)
    if rungs["curves"]:
        figures["rungs"] = _rungs(rungs, view, score, shown)
    return figures


def _rungs(rungs: Mapping[str, Any], view: StudyView, score: Axis, shown: set[str]) -> Figure:
    place = {epochs: i for i, epochs in enumerate(rungs["epochs"])}
    traces = []
    for curve in (c for c in rungs["curves"] if c["id"] in shown):
        strong = curve["id"] in view.front or curve["id"] == "baseline"
        traces.append({
            "mode": "lines+markers", "showlegend": False, "x": [place[e] for e, _ in curve["points"]],
            "y": _round([v * score.scale[0] for _, v in curve["points"]]), "opacity": 0.9 if strong else 0.45,
            "line": {"color": LIGHT["accent" if strong else "other"], "width": 1.2}, "marker": {"size": 4},
            "customdata": [curve["id"]] * len(curve["points"]),
            "hovertemplate": "<b>%{customdata}</b> %{y:.4g}<extra></extra>",
        })  # fmt: skip
    figure = _figure(traces, "proxy epochs after inheriting (rung)", axis_title(score), hovermode="closest")
    figure.update_xaxes(tickvals=list(place.values()), ticktext=[f"{e:g}" for e in place])
    return figure


def comparison_figure(views: Sequence[StudyView], panels: Sequence[Panel], *, relative: bool) -> Figure:
    """The fronts of several studies on the same axes, or on shares of each study's baseline cost."""
    traces = []
    for i, (view, panel) in enumerate(zip(views, panels, strict=True)):
        symbol, colour = STUDY_MARKS[i % len(STUDY_MARKS)]
        baseline = next((p.x for p in panel.points if p.kind == "baseline"), None)
        if relative and not baseline:
            continue
        factor = 100 / baseline if relative and baseline else 1.0
        line = _line([(x * factor, y) for x, y in panel.line])
        traces.append(line | {"line": line["line"] | {"color": LIGHT[colour]}})
        ends = {p.model for p in panel.points if p.kind == "baseline"}
        for name, mark, own in (
            (view.name, symbol, [p for p in panel.points if p.model in view.front and p.model not in ends]),
            (f"{view.name}, baseline", f"{symbol}-open", [p for p in panel.points if p.model in ends]),
        ):
            traces.append({
                "mode": "markers", "name": escape(name), "x": _round([p.x * factor for p in own]),
                "y": _round([p.y for p in own]), "customdata": [p.model for p in own],
                "marker": {"symbol": mark, "size": 11, "color": LIGHT[colour]},
                "hovertemplate": f"<b>{escape(name)}</b> %{{customdata}}<br>%{{y:.4g}} at %{{x:.4g}}<extra></extra>",
            })  # fmt: skip
    cost = panels[0].cost
    title = f"{cost.label} (% of the study's baseline)" if relative else axis_title(cost)
    return _figure(traces, title, axis_title(panels[0].score), hovermode="closest")


def width_shares(view: StudyView, groups: Mapping[str, str]) -> dict[str, float]:
    """Share of its output channels that each narrowed site keeps, by site; sites at full width are left out.

    `groups`: name of the group to its width choice. The share is the one asked for, rounded to the search space's
    multiple where the study records that.
    """
    multiple, shares = view.width_multiple, dict[str, float]()
    for group in view.anatomy.get("groups", ()):
        text = groups.get(group["name"])
        if text is None:
            continue
        channels, share = group["channels"], parse_width(text).share
        if multiple:
            share = kept_width(channels, share, multiple, group.get("divisions", 1)) / channels
        shares |= dict.fromkeys(group["members"], share)
    return shares


def _cell_text(site: Mapping[str, Any], choice: str, share: float) -> str:
    channels = site["out_channels"]
    kept = f"{round(share * channels)} of {channels}" if share < 1 else f"{channels}"
    return escape(
        f"{site['path']}: {choice}, {kept} channels ({site['kind']}, {with_prefix(site['macs'], 'MACs')} before)"
    )


def _uniform_name(record: Record) -> str:
    """A uniform model's one choice, short enough to stand beside its mark."""
    names = {parse_choice(text).look.short for text in record.sites.values() if text != "keep"}
    widths = {text.replace("width(", "w").rstrip(")") for text in record.groups.values()}
    return " ".join(sorted(names) + sorted(widths))


def _marks(points: Sequence[Point], kind: str, names: Sequence[str]) -> dict[str, Any]:
    mark = MARKS[kind]
    trace: dict[str, Any] = {
        "mode": "markers+text" if names else "markers", "name": kind, "legendrank": list(MARKS).index(kind),
        "x": _round([p.x for p in points]), "y": _round([p.y for p in points]),
        "customdata": [p.model for p in points],
        "marker": {"symbol": mark.symbol, "size": mark.size, "color": LIGHT[mark.colour],
                   "line": {"width": 1.5, "color": LIGHT[mark.colour]}},
        "hovertemplate": f"<b>%{{customdata}}</b> {kind}<br>%{{y:.4g}} at %{{x:.4g}}<extra></extra>",
    }  # fmt: skip
    bars = {"type": "data", "thickness": 1, "width": 0, "color": LIGHT["other"]}
    if kind not in FAINT_KINDS and any(p.y_error for p in points):
        trace["error_y"] = {**bars, "array": _round([p.y_error or 0 for p in points])}
    if kind not in FAINT_KINDS and any(p.x_range for p in points):
        ranges = [p.x_range or (p.x, p.x) for p in points]
        trace["error_x"] = {
            **bars, "array": _round([high - p.x for p, (_, high) in zip(points, ranges, strict=True)]),
            "arrayminus": _round([p.x - low for p, (low, _) in zip(points, ranges, strict=True)]),
        }  # fmt: skip
    if names:
        # Labels of neighbours lie on opposite sides of their marks.
        order = sorted(range(len(points)), key=lambda i: points[i].x)
        places = {
            i: "bottom right" if rank % 2 else "top left" if rank else "top right" for rank, i in enumerate(order)
        }
        trace |= {
            "text": [escape(name) for name in names], "textposition": [places[i] for i in range(len(points))],
            "textfont": {"size": 11, "color": LIGHT["uniform"]},
        }  # fmt: skip
    return trace


def _line(corners: Sequence[Sequence[float]], hover: str = "") -> dict[str, Any]:
    """A staircase through corners, from each to the right at its height: what is best up to a cost."""
    line = {"shape": "hv", "color": LIGHT["accent"], "width": 1.5}
    told = {"hovertemplate": hover} if hover else {"hoverinfo": "skip"}
    x, y = ([round(c[i], 6) for c in corners] for i in (0, 1))
    return {"mode": "lines", "x": x, "y": y, "line": line, "showlegend": False, **told}


def _compact_cost(net: ComparedModel, cost: Axis, view: StudyView) -> float | None:
    if cost.device:
        alike = net.latency.device == cost.device and timed_alike(view, net.latency)
        return net.latency.median_s if alike else None
    value: float | None = getattr(net.cost, cost.name, None)
    return value


def _compact_trace(nets: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Networks at their cost; their accuracy on this data is not known, so they are stacked from the bottom."""
    ordered = sorted(nets, key=lambda net: net[1])
    return {
        "mode": "markers+text", "name": "compact network (cost only)", "yaxis": "y2", "legendrank": len(MARKS),
        "x": _round([x for _, x in ordered]), "y": [0.03 + 0.055 * (i % 6) for i in range(len(ordered))],
        "text": [escape(name) for name, _ in ordered], "textposition": "middle right",
        "textfont": {"size": 11, "color": LIGHT["soft"]}, "hovertemplate": "%{text}: cost only<extra></extra>",
        "marker": {"symbol": "arrow-up", "size": 9, "color": LIGHT["soft"]},
    }  # fmt: skip


def _limits(panel: Panel) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Dashed lines at the limits, and the cost limit's label."""
    cost, score = panel.cost, panel.score
    style = {"type": "line", "line": {"color": LIGHT["warn"], "width": 1.5, "dash": "dash"}}
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    if cost.bound is not None:
        x = cost.bound * cost.scale[0]
        shapes.append({**style, "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1})
        notes.append({
            "x": x, "y": 0, "yref": "paper", "yanchor": "bottom", "xanchor": "right", "xshift": -4, "showarrow": False,
            "textangle": -90, "text": f"limit {panel.asked}", "font": {"color": LIGHT["warn"], "size": 12},
        })  # fmt: skip
    if score.bound is not None:
        y = score.bound * score.scale[0]
        shapes.append({**style, "y0": y, "y1": y, "xref": "paper", "x0": 0, "x1": 1})
    return shapes, notes


def _round(values: Sequence[float]) -> list[float]:
    """Five significant digits: enough for a picture, a third of the page's size."""
    return [float(f"{value:.5g}") for value in values]


def _figure(traces: Sequence[Mapping[str, Any]], x_title: str, y_title: str, **layout: Any) -> Figure:
    from plotly.graph_objects import Figure

    line = {"gridcolor": LIGHT["rule"], "linecolor": LIGHT["rule"], "zeroline": False, "ticks": "", "automargin": True}
    base = {
        "template": {}, "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR, "margin": {"l": 60, "r": 12, "t": 10, "b": 50},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": LIGHT["ink"]},
        "hoverlabel": {"bgcolor": LIGHT["panel"], "bordercolor": LIGHT["rule"], "align": "left",
                       "font": {"color": LIGHT["ink"], "size": 12}},
        "xaxis": {**line, "title": {"text": escape(x_title), "standoff": 10}},
        "yaxis": {**line, "title": {"text": escape(y_title), "standoff": 8}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
    }  # fmt: skip
    return Figure(list(traces), {**base, **layout})
