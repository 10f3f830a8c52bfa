"""The command that takes one model from a study's front and writes the file to deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import say, say_json, show_table, typed
from ghostsearch.export.options import Exporting
from ghostsearch.space.limits import Limits

LIMITS, EXPORTING = Limits(), Exporting()


def choose(
    study: Annotated[Path, typer.Argument(help="A study directory.", show_default=False)],
    limits: Limits = LIMITS,
    wanted: Exporting = EXPORTING,
    export: Annotated[bool, typer.Option(help="Export the model.")] = True,
    allow_code: o.AllowCode = False,
    shown: o.Printed = o.PRINTED,
) -> None:
    """Choose the cheapest measured model of a study that meets your limits, and export it.

    Only models that were trained and measured to the end are offered. A limit of the search applies unless it is
    overridden here. Exit code 2 if no model meets them; the nearest is named.

    Example: [bold]ghostsearch choose results/mine --max-latency 60% --max-drop 1%[/bold]
    """
    from ghostsearch.export.export_directory import export_directory
    from ghostsearch.study.pick import pick_from

    found = pick_from(study, limits)
    record, baseline = found.record, found.baseline
    folder = study / "models" / record.digest
    written = export_directory(found.directory(study), wanted, allow_code=allow_code)["path"] if export else None
    if shown.as_json:
        figures = {axis.name: axis.value(record) for axis in found.axes}
        beside = {axis.name: axis.value(baseline) for axis in found.axes} if baseline else None
        say_json(
            {"digest": record.digest, "model": str(folder), "file": written, "figures": figures, "baseline": beside}
        )
        return
    rows = [
        (
            axis.label,
            axis.text(axis.value(record)),
            axis.text(axis.value(baseline)) if baseline else "",
            "" if axis.limit is None else f"{axis.limit:.4g} × baseline" if axis.relative else axis.text(axis.limit),
        )
        for axis in found.axes
    ]
    show_table(f"{study}: {record.digest}", ["", "model", "baseline", "limit"], rows)
    if written:
        say(f"wrote {written}")
    made = typed(folder) + " --allow-code" * allow_code
    say(f"next: ghostsearch measure {made}   or   ghostsearch finetune {made} --data … --out DIR")
