"""The paper's toy experiment (section 4.1, table 2): one feature map from another by a single d×d filter."""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.paper.counted import Row
from benchmarks.paper.options import PaperOptions
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.load import load_model
from ghostsearch.report.gallery import KERNELS, closest_pairs, image_tensor, open_image, pair_errors

PAIRS = 3


def toy_rows(options: PaperOptions) -> tuple[list[Row], list[Row]]:
    """The error of a layer's three most similar pairs of maps; and of every map's best other map, by kernel d.

    Raises GhostsearchError without trained weights, or when the first residual block's maps are too small to fit.
    """
    if options.toy_weights is None:
        raise GhostsearchError("the toy experiment looks into a trained network; give --toy-weights FILE")
    loaded = load_model(options.toy_model, weights=options.toy_weights)
    pixels = image_tensor(open_image(options.toy_image), loaded.input)
    maps = block_output(loaded.module, options.toy_layer, pixels)
    living = maps[maps.flatten(1).var(dim=1) > 1e-12]
    if len(living) < 2 or living[0].numel() < 3 * max(KERNELS) ** 2:
        raise GhostsearchError(f"{options.toy_layer}: maps of {tuple(living.shape)} are too small for a 7×7 filter")
    return _closest(living), _everywhere(living)


def block_output(model: nn.Module, path: str, pixels: Tensor) -> Tensor:
    """What a module inside a model makes of pixels (1, C, H, W): maps (C', H', W'). Raises GhostsearchError."""
    try:
        block = model.get_submodule(path)
    except AttributeError:
        raise GhostsearchError(f"the network has no module {path!r} to look into; give --toy-layer") from None
    found: list[Tensor] = []
    handle = block.register_forward_hook(lambda _module, _inputs, output: found.append(output[0]))
    try:
        with torch.no_grad():
            model(pixels)
    finally:
        handle.remove()
    return found[0].float()


def _closest(maps: Tensor) -> list[Row]:
    rows = []
    for source, target in closest_pairs(maps, PAIRS):
        pair, variance = maps[[source, target]], float(maps[target].double().var())
        errors = {d: float(pair_errors(pair, d)[0, 1]) for d in KERNELS}
        shares = {f"d={d}": error for d, error in errors.items()}
        squares = {f"MSE d={d}": error * variance for d, error in errors.items()}
        rows.append({"pair": f"map {source} → map {target}", **shares, **squares})
    return rows


def _everywhere(maps: Tensor) -> list[Row]:
    rows = []
    for d in KERNELS:
        errors = pair_errors(maps, d)
        best = errors.min(dim=0).values.tolist()
        off = errors[~errors.diagonal().diag().bool()].tolist() if len(maps) > 1 else [1.0]
        rows.append(
            {
                "d": d,
                "best other map, median": median(best),
                "best other map, worst": max(best),
                "any pair, median": median(off),
            }
        )
    return rows
