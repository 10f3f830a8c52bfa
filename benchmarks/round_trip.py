"""Saves and loads every converted builder of torchvision's classification networks; outputs must be bit-equal.

python benchmarks/round_trip.py [--size 64] [--only GLOB] [--out results/round_trip.csv]
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import torchvision
from torchvision.models import list_models

from ghostsearch.convert.convert import convert
from ghostsearch.convert.sites import find_sites
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text
from ghostsearch.models.loading import example_input, load_model
from ghostsearch.presets import load_preset
from ghostsearch.saved import load, save
from ghostsearch.tracing import tensors

COLUMNS = ("model", "sites", "bit_equal", "size_bytes", "save_s", "load_s", "note")


def round_trip(name: str, size: int, folder: Path) -> dict[str, object]:
    """One builder: every site takes one of its choices in turn, statistics are shifted, then saved and loaded."""
    loaded = load_model(f"torchvision:{name}", size=fitting(name, size))
    example = example_input(loaded.input)
    space = load_preset("ghost").resolve(find_sites(loaded.module, example, widths=False))
    architecture = space.architecture({p: o[1 + i % (len(o) - 1)] for i, (p, o) in enumerate(space.sites.items())})
    module = convert(loaded.module, architecture, example=example).eval()
    generator = torch.Generator().manual_seed(0)
    for key, value in module.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            value.add_(torch.rand(value.shape, generator=generator))
    start = time.perf_counter()
    save(module, folder, source=loaded, architecture=architecture)
    saved = time.perf_counter()
    again = load(folder)
    done = time.perf_counter()
    with torch.no_grad():
        pairs = zip(tensors(module(example)), tensors(again(example)), strict=True)
        equal = all(torch.equal(a, b) for a, b in pairs)
    return {
        "model": name,
        "sites": len(architecture.sites),
        "bit_equal": equal,
        "size_bytes": sum(f.stat().st_size for f in folder.iterdir()),
        "save_s": round(saved - start, 3),
        "load_s": round(done - saved, 3),
        "note": "",
    }


def fitting(name: str, size: int) -> int | None:
    """The small size where the network takes it; the native one for those of fixed or deep input."""
    return None if name.startswith(("inception", "vit", "swin", "maxvit", "alexnet", "squeezenet")) else size


def main() -> None:
    """Run all builders and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--only", default="*")
    parser.add_argument("--out", type=Path, default=Path("results/round_trip.csv"))
    options = parser.parse_args()
    names = [n for n in list_models(module=torchvision.models) if fnmatchcase(n, options.only)]
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    wrong = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = round_trip(name, options.size, Path(folder))
                wrong += not row["bit_equal"]
            except GhostsearchError as error:
                row = {"model": name, "note": str(error)}
        table.writerow(row)
        print(*row.values(), flush=True)
        write_text(options.out, text.getvalue())
    print(f"{len(names)} builders, {wrong} not bit-equal")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
