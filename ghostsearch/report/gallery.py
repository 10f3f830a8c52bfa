"""The paper's figure 1 for any model: a layer's similar feature maps, as page and picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError, told_as
from ghostsearch.files import atomic_path, write_text
from ghostsearch.graph.capture import call, copied, hooked
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import LoadedModel
from ghostsearch.report.html import render
from ghostsearch.shown import Progress
from ghostsearch.space.costs import is_depthwise
from ghostsearch.units import share_text

if TYPE_CHECKING:
    from PIL.Image import Image

KERNELS = (1, 3, 5, 7)
"""The d of the paper's toy experiment (section 4.1, table 1)."""
PAIRS = 3
SAMPLES_PER_TAP = 3
"""A d×d filter is fitted on at least three times as many positions as it has taps; fewer would fit anything."""
DEFAULT_IMAGE = "china.jpg"
MAX_ROWS = 8
"""Layers on the picture; the page has all."""
FRAMES = ("#0072b2", "#e69f00", "#009e73")
"""A colour per pair, as in the paper's figure 1; safe for colour-blind readers."""


@dataclass(frozen=True)
class MapPair:
    """Two similar feature maps of a layer, and the target as a filter of the source makes it."""

    source: int
    target: int
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


def write_gallery(
    loaded: LoadedModel, image: Path | None, out: Path, *, progress: Progress | None = None
) -> list[Path]:
    """Write gallery.html and gallery.png about a model's feature maps of one image; returns their paths.

    Without an image, scikit-learn's photograph of a Chinese temple is taken. Raises GhostsearchError for an
    unreadable image or a model without such layers.
    """
    pixels = image_tensor(open_image(image), loaded.input)
    layers = list(similar_maps(loaded.module, pixels, progress=progress))
    if not any(layer.pairs for layer in layers):
        raise GhostsearchError(
            f"{loaded.spec} makes no feature maps large enough to compare at {loaded.input}; give a larger --size"
        )
    html = render(
        "gallery.html", ("common",), {}, plots=False, model=loaded.spec, layers=layers, picture=_data_uri,
        image=image or f"scikit-learn's {DEFAULT_IMAGE}", summary=summary(loaded.spec, layers), percent=share_text,
    )  # fmt: skip
    write_text(out / "gallery.html", html)
    return [out / "gallery.html", draw_gallery(loaded.spec, layers, out / "gallery.png")]


def summary(model: str, layers: list[LayerMaps]) -> str:
    """One sentence: how redundant the layers are, the most and the least."""
    ordered = sorted((x for x in layers if x.redundancy is not None), key=lambda x: x.redundancy or 0)
    if not ordered:
        return f"No layer of {model} has maps to compare."
    least, middle, most = (ordered[i] for i in (0, len(ordered) // 2, -1))
    return (
        f"In the median layer of {model}, {share_text(middle.redundancy)} of the feature maps' variance is explained "
        f"by one other map through a 3×3 filter; most in {most.path} ({share_text(most.redundancy)}), "
        f"least in {least.path} ({share_text(least.redundancy)})."
    )


def draw_gallery(model: str, layers: list[LayerMaps], path: Path) -> Path:
    """Draw up to eight layers, evenly spaced, three pairs each: source, target, and the target made from the source."""
    from matplotlib.figure import Figure

    usable = [layer for layer in layers if layer.pairs]
    rows = usable[:: max(1, -(-len(usable) // MAX_ROWS))]
    figure = Figure((1.2 + 3.4 * PAIRS, 0.5 + 1.35 * len(rows)), dpi=150, layout="constrained", facecolor="white")
    grid: Any = figure.subplots(len(rows), 3 * PAIRS, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for cells, layer in zip(grid, rows, strict=True):
        cells[0].set_ylabel(f"{layer.path}\nredundancy {share_text(layer.redundancy)}", fontsize=7)
        tiles = [(m, i, pair) for i, pair in enumerate(layer.pairs) for m in pair.maps]
        for cell in cells[len(tiles) :]:
            cell.set_axis_off()
        for n, (cell, (picture, i, pair)) in enumerate(zip(cells, tiles, strict=False)):
            cell.imshow(picture, cmap="gray", interpolation="nearest")
            cell.set_title((pair.source, pair.target, f"error {share_text(pair.errors[3])}")[n % 3], fontsize=6, pad=2)
            cell.spines[:].set(color=FRAMES[i % len(FRAMES)], linewidth=1.6)
    figure.suptitle(f"{model}: source map, target map, target made from the source by a 3×3 filter", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    return path


def open_image(path: Path | None) -> Image:
    """An image file, or the photograph that scikit-learn ships; raises GhostsearchError when it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    if path is None:
        from sklearn.datasets import load_sample_image

        return Image.fromarray(load_sample_image(DEFAULT_IMAGE))
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise GhostsearchError(f"{path}: no readable image ({type(error).__name__})") from None


def image_tensor(image: Image, spec: InputSpec) -> Tensor:
    """The image's middle, scaled and normalised as a model wants it: (1, C, H, W)."""
    from PIL import ImageOps
    from torchvision.transforms import functional as transforms

    height, width = spec.dims
    fitted = ImageOps.fit(image, (width, height)).convert("L" if spec.channels == 1 else "RGB")
    pixels: Tensor = transforms.normalize(transforms.to_tensor(fitted), spec.mean, spec.std)
    return pixels[None]


def similar_maps(model: nn.Module, pixels: Tensor, *, progress: Progress | None = None) -> Iterator[LayerMaps]:
    """Each convolution's redundancy and its PAIRS most similar pairs of output maps, on pixels: (1, C, H, W).

    The maps are a convolution's own output, which is what a ghost convolution has to reproduce.
    Depthwise convolutions, which are never ghosted, are left out. Raises GhostsearchError when the forward fails.
    """
    found = feature_maps(model, pixels)
    for done, (path, (kind, maps)) in enumerate(found.items()):
        if progress:
            progress(done, len(found), path)
        yield _compare_maps(path, kind, maps)


def feature_maps(model: nn.Module, pixels: Tensor) -> dict[str, tuple[str, Tensor]]:
    """Kind and output (C, H, W) of each Conv2d on one image, depthwise ones left out; the model stays untouched."""
    found: dict[str, tuple[str, Tensor]] = {}
    replica = copied(model).to("cpu").eval()
    convs = {m: path for path, m in replica.named_modules() if isinstance(m, nn.Conv2d) and not is_depthwise(m)}

    def keep(conv: nn.Conv2d, _: Any, output: Tensor) -> None:
        # A copy: an activation in place behind the convolution would change the maps after this.
        kind = f"Conv2d {conv.kernel_size[0]}×{conv.kernel_size[1]}"
        found.setdefault(convs[conv], (kind, output[0].detach().float().clone()))

    failing = f"the model's forward fails on the image at {tuple(pixels.shape)}"
    with torch.no_grad(), hooked((conv, keep) for conv in convs), told_as(lambda why: f"{failing} ({why})"):
        call(replica, pixels)
    return found


def _compare_maps(path: str, kind: str, maps: Tensor) -> LayerMaps:
    channels, height, width = maps.shape
    shape = (channels, height, width)
    alive = maps.flatten(1).var(dim=1) > 1e-12
    if height * width < SAMPLES_PER_TAP * (9 + 1):
        return LayerMaps(path, kind, shape, None, (), f"maps of {height}×{width} are too small to fit a 3×3 filter")
    if int(alive.sum()) < 2:
        return LayerMaps(path, kind, shape, None, (), "fewer than two maps differ from a constant")
    index = alive.nonzero().flatten().tolist()
    living = maps[alive]
    errors = pair_errors(living, 3)
    pairs = tuple(_pair(living, source, target, index) for source, target in closest_pairs(living, PAIRS))
    return LayerMaps(path, kind, shape, redundancy(living, errors), pairs, "")


def closest_pairs(maps: Tensor, count: int) -> list[tuple[int, int]]:
    """The pairs of maps (C, H, W) that correlate most, by absolute value, no map in two pairs: (source, target)."""
    flat = F.normalize(maps.flatten(1) - maps.flatten(1).mean(dim=1, keepdim=True), dim=1)
    likeness = (flat @ flat.T).abs().triu(diagonal=1)
    chosen: list[tuple[int, int]] = []
    while len(chosen) < min(count, len(maps) // 2):
        source, target = divmod(int(likeness.argmax()), len(maps))
        chosen.append((source, target))
        for taken in (source, target):
            likeness[taken, :] = likeness[:, taken] = -1
    return chosen


def pair_errors(maps: Tensor, kernel: int) -> Tensor:
    """Error of making each map from each other one by the best kernel×kernel filter and a constant: (C, C).

    maps: (C, H, W). Row: source; column: target. Share of the target's variance that is left, both corrected for
    degrees of freedom, at most 1; the diagonal is 1. The constant is free because the batch norm behind takes it.
    """
    targets = maps.flatten(1).T.double()
    targets = targets - targets.mean(dim=0)
    positions, taps = len(targets), kernel * kernel
    variance = targets.square().sum(dim=0) / (positions - 1)
    rows = []
    for source in maps:
        inputs = _shifted(source, kernel)
        gram = inputs.T @ inputs
        gram.diagonal().add_(1e-9 * gram.diagonal().mean())
        moments = inputs.T @ targets
        explained = (moments * torch.linalg.solve(gram, moments)).sum(dim=0)
        left = (targets.square().sum(dim=0) - explained).clamp_min(0) / (positions - taps - 1)
        rows.append((left / variance).clamp_max(1))
    errors = torch.stack(rows)
    errors.fill_diagonal_(1)
    return errors


def redundancy(maps: Tensor, errors: Tensor) -> float:
    """Share of the maps' variance that each map's best other map explains through a 3×3 filter: 0 none, 1 all."""
    variance = maps.flatten(1).double().var(dim=1)
    best = errors.min(dim=0).values
    return float((variance * (1 - best)).sum() / variance.sum())


def _pair(maps: Tensor, source: int, target: int, names: list[int]) -> MapPair:
    pair = maps[[source, target]]
    positions = maps[0].numel()
    fits = [d for d in KERNELS if positions >= SAMPLES_PER_TAP * (d * d + 1)]
    errors = {d: float(pair_errors(pair, d)[0, 1]) if d in fits else None for d in KERNELS}
    return MapPair(
        source=names[source],
        target=names[target],
        errors=errors,
        maps=tuple(m.numpy() for m in (pair[0], pair[1], _made(pair[0], pair[1]))),
    )


def _made(source: Tensor, target: Tensor) -> Tensor:
    """The target map as the best 3×3 filter of the source makes it."""
    inputs = _shifted(source, 3)
    wanted = target.flatten().double()
    filter_ = torch.linalg.lstsq(inputs, (wanted - wanted.mean())[:, None]).solution
    return (inputs @ filter_ + wanted.mean()).reshape(target.shape).float()


def _shifted(source: Tensor, kernel: int) -> Tensor:
    """The map (H, W) under every tap of a zero-padded filter, centred: (H·W, kernel²)."""
    columns = F.unfold(source[None, None].double(), kernel, padding=kernel // 2)[0].T
    return columns - columns.mean(dim=0)


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
