"""The command that sets compact networks beside yours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import out, progress_bar, say, say_json, typed
from ghostsearch.measure.setting import Setting

SETTING = Setting(time_limit=60.0)


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Names (resnet50, timm:ghostnet_100), directories or studies; the first is the reference.",
            autocompletion=o.complete_model,
            show_default=False,
        ),
    ],
    device: o.Device = o.DEVICE,
    size: o.Size = None,
    setting: Setting = SETTING,
    mark_in: Annotated[
        Path | None, typer.Option(help="A study directory: its report page then shows these networks too.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Write the table there as a page: compare.md, compare.csv."),
    ] = None,
    allow_code: o.AllowCode = False,
    shown: o.Output = o.OUTPUT,
) -> None:
    """Compare compact networks with yours: params, MACs, measured latency, published accuracy, kinds of layers.

    Example: [bold]ghostsearch compare resnet50 results/mine mobilenet_v3_large shufflenet_v2_x1_0 efficientnet_b0
    ghostnet_100 --device onnxruntime:cpu[/bold]
    """
    from ghostsearch.report.compact import compact_table, compare_models, write_compact, write_tables

    with progress_bar(shown.silent) as progress:
        rows = compare_models(
            models, device=device, setting=setting, size=size, allow_code=allow_code, progress=progress, mark_in=mark_in
        )
    if mark_in:
        write_compact(rows, mark_in)
    if page:
        write_tables(rows, page)
    if shown.as_json:
        say_json([row.model_dump(mode="json") for row in rows])
        return
    out.print(compact_table(rows))
    if page:
        say(f"wrote {page / 'compare.md'}")
    say(
        f"next: ghostsearch report {typed(mark_in)}   shows them beside the front"
        if mark_in
        else "next: the same with --mark-in STUDY shows them beside a study's front"
    )
