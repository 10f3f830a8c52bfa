"""The gallery of similar feature maps, drawn as a page and as a picture; plain data, no torch."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostsearch.files import atomic_path, write_text
from ghostsearch.report.html import render

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

MAX_ROWS = 8
"""Layers on the picture; the page has all."""
FRAMES = ("#0072b2", "#e69f00", "#009e73")
"""A colour a pair, as in the paper's figure 1; safe for colour-blind readers."""


@dataclass(frozen=True)
class MapPair:
    """Two similar feature maps of a layer, and the target as a filter of the source makes it."""

    source: int
    target: int
    correlation: float
    errors: dict[int, float | None]
    """Share of the target's variance left by the best d×d filter, by d; None where the map is too small for it."""
    maps: tuple[np.ndarray, ...]
    """Source, target, and the target made by a 3×3 filter: (H, W) each."""


@dataclass(frozen=True)
class LayerMaps:
    """A layer's feature maps: how redundant they are, and its most similar pairs."""

    path: str
    kind: str
    shape: tuple[int, int, int]
    redundancy: float | None
    """Share of the maps' variance that each map's best other map explains through a 3×3 filter."""
    pairs: tuple[MapPair, ...]
    note: str
    """Why there are no pairs; empty when there are."""


@dataclass(frozen=True)
class Agreement:
    """Rank correlation of redundancy with a study's candidate table."""

    study: str
    choice: str
    tau: float
    layers: int


@dataclass(frozen=True)
class Gallery:
    """Everything the page and the picture show."""

    model: str
    image: str
    layers: tuple[LayerMaps, ...]
    agreement: Agreement | None = None


def gallery_page(gallery: Gallery, path: Path) -> Path:
    """Write the self-contained page: every layer with its pairs; returns its path."""
    layers = [
        {
            "layer": layer,
            "redundancy": _percent(layer.redundancy),
            "pairs": [{"pair": pair, "pictures": [_data_uri(m) for m in pair.maps]} for pair in layer.pairs],
        }
        for layer in gallery.layers
    ]
    html = render(
        "gallery.html", ("common",), {}, plots=False,
        gallery=gallery, layers=layers, summary=summary(gallery), percent=_percent,
    )  # fmt: skip
    write_text(path, html)
    return path


def summary(gallery: Gallery) -> str:
    """One sentence: how redundant the layers are, the most and the least."""
    known = [layer for layer in gallery.layers if layer.redundancy is not None]
    if not known:
        return f"No layer of {gallery.model} has maps to compare."
    ordered = sorted(known, key=lambda layer: layer.redundancy or 0)
    middle = ordered[len(ordered) // 2].redundancy
    return (
        f"In the median layer of {gallery.model}, {_percent(middle)} of the feature maps' variance is explained by one "
        f"other map through a 3×3 filter; most in {ordered[-1].path} ({_percent(ordered[-1].redundancy)}), "
        f"least in {ordered[0].path} ({_percent(ordered[0].redundancy)})."
    )


def draw_gallery(gallery: Gallery, path: Path) -> Path:
    """Draw up to eight layers, evenly spaced, three pairs each: source, target, and the target made from the source."""
    from matplotlib.figure import Figure

    usable = [layer for layer in gallery.layers if layer.pairs]
    step = max(1, -(-len(usable) // MAX_ROWS))
    rows = usable[::step]
    most = max((len(layer.pairs) for layer in rows), default=1)
    figure = Figure((1.2 + 3.4 * most, 0.5 + 1.35 * len(rows)), dpi=150, layout="constrained", facecolor="white")
    grid: Any = figure.subplots(len(rows), 3 * most, squeeze=False)
    for cells, layer in zip(grid, rows, strict=True):
        for cell in cells:
            cell.set_axis_off()
        for i, pair in enumerate(layer.pairs):
            _draw_pair(cells[3 * i : 3 * i + 3], pair, FRAMES[i % len(FRAMES)])
        label = f"{layer.path}\nredundancy {_percent(layer.redundancy)}"
        cells[0].text(
            -0.12, 0.5, label, transform=cells[0].transAxes, ha="right", va="center", fontsize=7, color="#1c2430"
        )
    figure.suptitle(f"{gallery.model}: source map, target map, target made from the source by a 3×3 filter", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    return path


def _draw_pair(cells: list[Axes], pair: MapPair, colour: str) -> None:
    captions = (f"{pair.source}", f"{pair.target}", f"error {_percent(pair.errors[3])}")
    for cell, picture, caption in zip(cells, pair.maps, captions, strict=True):
        cell.imshow(picture, cmap="gray", interpolation="nearest")
        cell.set_axis_on()
        cell.set_xticks([])
        cell.set_yticks([])
        cell.set_title(caption, fontsize=6, pad=2, color="#5b6675")
        for spine in cell.spines.values():
            spine.set_color(colour)
            spine.set_linewidth(1.6)


def _data_uri(picture: np.ndarray) -> str:
    """A map as a grey PNG inside the page, black its least and white its largest value."""
    from PIL import Image

    low, high = float(picture.min()), float(picture.max())
    grey = ((picture - low) / ((high - low) or 1.0) * 255).astype("uint8")
    image = Image.fromarray(grey)
    if max(image.size) > 112:
        image.thumbnail((112, 112))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f}\u202f%"
