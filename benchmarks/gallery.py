"""Figure 1 of the paper for a trained ResNet-20, and whether redundant layers are those that ghost convolutions suit.

    python benchmarks/gallery.py --data folder:cifar10-jpeg --validation-list cifar10-jpeg-val.txt \\
        --weights cifar_resnet20_jpeg.safetensors

Writes results/gallery.*.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from benchmarks.networks import compute_device
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.report.gallery import (
    LayerMaps,
    draw_gallery,
    image_tensor,
    open_image,
    similar_maps,
)
from ghostsearch.study.candidates import build_candidates
from ghostsearch.study.config import RunConfig
from ghostsearch.study.setup import Setup, open_setup

MODEL, SIZE = "ghostsearch:resnet20", 64
REFERENCE_CHOICE = "ghost(ratio=2, kernel=3)"
IMAGES = ("china.jpg", "flower.jpg")


def rows_of(layers: list[LayerMaps], damage: dict[str, float]) -> list[dict[str, Any]]:
    """A row a layer: redundancy, the best pair's errors, and what a ghost there does to the output."""
    rows = []
    for layer in layers:
        best = layer.pairs[0] if layer.pairs else None
        errors = {f"error_d{d}": best.errors[d] if best else None for d in (1, 3, 5, 7)}
        rows.append(
            {"layer": layer.path, "maps": layer.shape[0], "redundancy": layer.redundancy, **errors,
             "divergence": damage.get(layer.path)}
        )  # fmt: skip
    return rows


def agreement(rows: list[dict[str, Any]], image: str) -> dict[str, Any]:
    """Kendall's tau of redundancy with the harm that a ghost does."""
    both = [(r["redundancy"], r["divergence"]) for r in rows if None not in (r["redundancy"], r["divergence"])]
    tau, p = kendalltau(*zip(*both, strict=True))
    return {"image": image, "tau": float(tau), "p": float(p), "layers": len(both)}


def ghost_damage(setup: Setup) -> dict[str, float]:
    """The candidate table's divergence of the reference ghost at each site alone."""
    sites = {path: ("keep", REFERENCE_CHOICE) for path, o in setup.space.sites.items() if REFERENCE_CHOICE in o}
    with tempfile.TemporaryDirectory() as folder:
        table = build_candidates(replace(setup, space=replace(setup.space, sites=sites, groups={})), Path(folder))
    ghosts = table[(table["kind"] == "site") & (table["choice"] == REFERENCE_CHOICE)]
    return dict(zip(ghosts["name"], ghosts["divergence"], strict=True))


def main() -> None:
    """Draw, rank and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--validation-list")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--calibration-images", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    from PIL import Image
    from sklearn.datasets import load_sample_image

    setup = open_setup(
        RunConfig(
            model=MODEL, weights=options.weights, data=options.data, validation_list=options.validation_list,
            space="ghost", calibration_images=options.calibration_images, out="gallery",
        )
    )  # fmt: skip
    loaded, damage = setup.baseline, ghost_damage(setup)
    tables, ranks, galleries = [], [], []
    for name in IMAGES:
        picture = open_image(None) if name == IMAGES[0] else Image.fromarray(load_sample_image(name))
        layers = list(similar_maps(loaded.module, image_tensor(picture, replace(loaded.input, size=SIZE))))
        rows = rows_of(layers, damage)
        tables.append(ResultTable(f"Layers on {name} at {SIZE}×{SIZE} pixels", rows))
        ranks.append(agreement(rows, name))
        galleries.append(layers)
    shown = ", ".join(f"{r['tau']:+.2f} ({r['image']})" for r in ranks)
    page = ResultPage(
        name="gallery",
        title="Ghosts in a trained ResNet-20, and where ghost convolutions harm least",
        claim="Rank correlation (Kendall) of a layer's redundancy with the output error of a ghost there; -1 agrees",
        figure=shown,
        command=script_command(),
        device=compute_device(),
        tables=[ResultTable("Does redundancy predict harm?", ranks), *tables],
        notes=(
            "redundancy: share of the feature maps' variance that each map's best other map explains through a 3×3 "
            "filter; error_d: variance left when the most similar pair's target is made by a d×d filter.",
            f"divergence: the candidate table's figure for {REFERENCE_CHOICE} at that site alone, "
            "with closed-form weights, on CIFAR-10 (JPEG).",
        ),
        pictures={"gallery.png": partial(draw_gallery, MODEL, galleries[0])},
    )
    for path in publish(page, options.out):
        print(path)


if __name__ == "__main__":
    main()
