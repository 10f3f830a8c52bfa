"""Where compact networks and a ghosted ResNet-50 have their params, MACs and latency: `ghostsearch compare` as a page.

python benchmarks/compare.py [--device onnxruntime:cpu] [--time-limit 60] [--out results]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.export.convert_directory import convert_and_save
from ghostsearch.machine import processor_name
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import load_model
from ghostsearch.report.compact import compact_rows, compare_models, conditions, table_note
from ghostsearch.surgery.options import Conversion
from ghostsearch.units import share_text

BASELINE, CHOICE = "resnet50", "ghost(ratio=2, kernel=3)"
COMPACT = ("mobilenet_v3_large", "shufflenet_v2_x1_0", "efficientnet_b0", "ghostnet_100")


def main() -> None:
    """Convert, measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="onnxruntime:cpu")
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    setting = Setting(time_limit=options.time_limit)
    with TemporaryDirectory() as folder:
        mine = Path(folder) / "converted"
        convert_and_save(load_model(f"torchvision:{BASELINE}"), mine, Conversion(choice=CHOICE))
        models = compare_models([BASELINE, str(mine), *COMPACT], device=options.device, setting=setting)
    models[1] = models[1].model_copy(update={"name": f"{BASELINE}, ghosts"})
    header, rows = compact_rows(models)
    shares = [
        ", ".join(f"{m.name} {share_text(m.share('conv 1x1'))}" for m in side) for side in (models[2:], models[:1])
    ]
    page = ResultPage(
        name="compare", title=f"Compact networks beside {BASELINE}", figure="; ".join(shares),
        claim="Networks made of depthwise-separable convolutions spend their MACs in 1×1 convolutions",
        command=script_command(), device=f"{processor_name()}; {conditions(models)}", seed=setting.seed,
        tables=[ResultTable(conditions(models), [dict(zip(header, row, strict=True)) for row in rows])],
        notes=[
            f"{table_note(models)} The first network's ratio is its own second timing: its distance from 1 is the "
            "measurement's own error."
        ],
    )  # fmt: skip
    for path in publish(page, options.out):
        print(path)


if __name__ == "__main__":
    main()
