"""Saves and loads every converted builder of coverage.py; outputs must be bit-equal. Writes results/round_trip.md.

    python benchmarks/round_trip.py                    # all, about ten minutes on one core; goes on where it stopped
    python benchmarks/round_trip.py --only '*resnet*'

Every site takes one of ghost.yaml's choices in turn, and all statistics and biases are shifted, so that forgetting
one would show.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import warnings
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.coverage import Case, timm_cases, torchvision_cases
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rows import read_rows
from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import call, tensors
from ghostsearch.machine import processor
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import LoadedModel
from ghostsearch.space.preset import load_preset
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.saved import load, save
from ghostsearch.surgery.sites import find_sites

COLUMNS = ("model", "family", "sites", "bit_equal", "size_bytes", "save_s", "load_s", "note")


def round_trip(case: Case, folder: Path, most_params: int) -> dict[str, Any]:
    """One builder, saved and loaded."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"model": case.name, "family": case.family}
    model = case.build().eval()
    params = sum(p.numel() for p in model.parameters())
    if params > most_params:
        return row | {"note": f"left out: {params / 1e6:.0f} M parameters"}
    try:
        space = load_preset("ghost").resolve(find_sites(model, case.example, widths=False))
    except GhostsearchError as error:
        return row | {"note": f"no site: {error}"}
    architecture = space.architecture({p: o[1 + i % (len(o) - 1)] for i, (p, o) in enumerate(space.sites.items())})
    module = shifted(convert(model, architecture, example=case.example).eval())
    start = time.perf_counter()
    save(module, folder, source=LoadedModel(model, "", InputSpec(64)), architecture=architecture)
    saved = time.perf_counter()
    again = load(folder, model=model, example=case.example)
    done = time.perf_counter()
    return row | {
        "sites": len(architecture.sites),
        "bit_equal": same_outputs(module, again, case.example),
        "size_bytes": sum(f.stat().st_size for f in folder.iterdir()),
        "save_s": round(saved - start, 3),
        "load_s": round(done - saved, 3),
    }


def shifted(module: nn.Module) -> nn.Module:
    """The module with its statistics and biases away from what a fresh one has."""
    generator = torch.Generator().manual_seed(0)
    for key, value in module.state_dict().items():
        if key.endswith(("running_mean", "running_var", "bias")) and value.is_floating_point():
            value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return module


def same_outputs(first: nn.Module, second: nn.Module, example: Any) -> bool:
    """Whether both give the same bits; what draws random numbers draws the same ones."""
    outputs = []
    for module in (first, second):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(list(tensors(call(module, example))))
    # NaN where an untrained detector has it is the same NaN twice.
    return len(outputs[0]) == len(outputs[1]) > 0 and all(
        torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in zip(*outputs, strict=True)
    )


def publish_table(rows: list[dict[str, Any]], out: Path) -> None:
    """All rows as a page of results/."""
    ordered = sorted(rows, key=lambda row: (row["family"], row["model"]))
    equal = Counter(str(row["bit_equal"]) for row in ordered)
    page = ResultPage(
        name="round_trip",
        title="Converted, saved, loaded: every builder",
        claim="Converted builders of torchvision and timm whose outputs are bit-equal after architecture.json and "
        "weights.safetensors were written and read",
        figure=f"{equal['True']} of {equal['True'] + equal['False']}; the others have no site or are left out for size",
        command=script_command(),
        device=f"{processor()}, one thread",
        tables=[ResultTable("every builder", ordered)],
        notes=("Inputs are those of the coverage page.",),
    )
    publish(page, out)


def main() -> None:
    """Run the builders that have no row and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="glob of builders, as in timm:resnet*")
    parser.add_argument("--most-params", type=int, default=150, metavar="M", help="leave out builders beyond M million")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no builder after this time")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    file, started = options.out / "round_trip.csv", time.perf_counter()
    rows: list[dict[str, Any]] = [*read_rows(file)]
    done = {row["model"] for row in rows}
    for case in (*torchvision_cases(), *timm_cases()):
        late = time.perf_counter() - started > options.seconds
        if case.name in done or late or not fnmatchcase(case.name, options.only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(round_trip(case, Path(folder), options.most_params * 10**6))
        print(*rows[-1].values(), flush=True)
        publish_table(rows, options.out)
        gc.collect()
    publish_table(rows, options.out)
    sys.exit(any(str(row["bit_equal"]) == "False" for row in rows))


if __name__ == "__main__":
    main()
