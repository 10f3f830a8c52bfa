"""Figure 1 of the paper for a trained ResNet-20, and whether redundant layers are those that ghost convolutions suit.

    python benchmarks/gallery.py STUDY

STUDY is a folder whose candidates.parquet holds the same network's sites; SEARCH below writes it before its first
trial. Run from a folder with cifar_resnet20_jpeg.safetensors. Writes results/gallery.*.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.machine import processor
from ghostsearch.models.load import load_model
from ghostsearch.report.gallery import (
    LayerMaps,
    draw_gallery,
    image_tensor,
    open_image,
    similar_maps,
)
from ghostsearch.study.candidates import read_candidates

MODEL, WEIGHTS, SIZE = "ghostsearch:resnet20", Path("cifar_resnet20_jpeg.safetensors"), 64
REFERENCE_CHOICE = "ghost(ratio=2, kernel=3)"
IMAGES = ("china.jpg", "flower.jpg")
SEARCH = (
    "ghostsearch search --model ghostsearch:resnet20 --weights cifar_resnet20_jpeg.safetensors "
    "--data folder:cifar10-jpeg --validation-list cifar10-jpeg-val.txt --train-images 2000 "
    "--space ghost_width --objectives score,macs "
    "--calibration-images 256 --batch-size 128 --out study"
)
COLUMNS = ("divergence",)


def rows_of(layers: list[LayerMaps], damage: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """A row a layer: redundancy, the best pair's errors, and what a ghost there does to the output."""
    rows = []
    for layer in layers:
        best = layer.pairs[0] if layer.pairs else None
        errors = {f"error_d{d}": best.errors[d] if best else None for d in (1, 3, 5, 7)}
        harm = {column: damage[column].get(layer.path) for column in COLUMNS}
        rows.append({"layer": layer.path, "maps": layer.shape[0], "redundancy": layer.redundancy, **errors, **harm})
    return rows


def agreements(rows: list[dict[str, Any]], image: str) -> list[dict[str, Any]]:
    """Kendall's tau of redundancy with each measure of harm."""
    found = []
    for column in COLUMNS:
        both = [(r["redundancy"], r[column]) for r in rows if None not in (r["redundancy"], r[column])]
        tau, p = kendalltau(*zip(*both, strict=True))
        found.append({"image": image, "against": column, "tau": float(tau), "p": float(p), "layers": len(both)})
    return found


def main() -> None:
    """Draw, rank and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    from PIL import Image
    from sklearn.datasets import load_sample_image

    loaded = load_model(MODEL, weights=WEIGHTS)
    table = read_candidates(options.study)
    ghosts = table[(table["kind"] == "site") & (table["choice"] == REFERENCE_CHOICE)]
    damage = {column: dict(zip(ghosts["name"], ghosts[column], strict=True)) for column in COLUMNS}
    tables, ranks, galleries = [], [], []
    for name in IMAGES:
        picture = open_image(None) if name == IMAGES[0] else Image.fromarray(load_sample_image(name))
        layers = list(similar_maps(loaded.module, image_tensor(picture, replace(loaded.input, size=SIZE))))
        rows = rows_of(layers, damage)
        tables.append(ResultTable(f"Layers on {name} at {SIZE}×{SIZE} pixels", rows))
        ranks += agreements(rows, name)
        galleries.append(layers)
    shown = ", ".join(f"{r['tau']:+.2f} ({r['image']})" for r in ranks if r["against"] == COLUMNS[0])
    page = ResultPage(
        name="gallery",
        title="Ghosts in a trained ResNet-20, and where ghost convolutions harm least",
        claim="Rank correlation (Kendall) of a layer's redundancy with the output error of a ghost there; -1 agrees",
        figure=shown,
        command=script_command(),
        device=processor(),
        tables=[ResultTable("Does redundancy predict harm?", ranks), *tables],
        notes=(
            "redundancy: share of the feature maps' variance that each map's best other map explains through a 3×3 "
            "filter; error_d: variance left when the most similar pair's target is made by a d×d filter.",
            f"divergence: the candidate table's figure for {REFERENCE_CHOICE} at that site alone, "
            "with closed-form weights, on CIFAR-10 (JPEG).",
            f"The candidate table is that of: {SEARCH}",
        ),
        pictures={"gallery.png": partial(draw_gallery, MODEL, galleries[0])},
    )
    for path in publish(page, options.out):
        print(path)


if __name__ == "__main__":
    main()
