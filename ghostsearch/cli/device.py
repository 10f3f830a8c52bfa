"""Commands about devices and this machine: devices, doctor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import say, say_json, show_table
from ghostsearch.units import milliseconds, with_prefix


def devices(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[DEVICE]...", help="Such as ssh:user@host; default: all.")
    ] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Run a small network on each, at most ten seconds.")
    ] = False,
    shown: o.Printed = o.PRINTED,
) -> None:
    """List the devices that latency can be measured on, and how to install those that are missing.

    Example: [bold]ghostsearch devices --self-test[/bold]
    """
    from ghostsearch.measure.doctor import device_rows

    rows = device_rows(names or (), self_test=self_test)
    if shown.as_json:
        say_json(rows)
        return
    table = [
        (
            r["name"],
            "yes" if r["available"] else "no",
            _where(r),
            milliseconds(r["median_s"]) if self_test else "",
        )
        for r in rows
    ]
    show_table("devices", ["device", "here", "where, or how to get it", "self-test" if self_test else ""], table)
    say("next: ghostsearch measure MODEL --device NAME")


def doctor(shown: o.Printed = o.PRINTED) -> None:
    """Show what this machine has: versions, cores, threads, memory, devices, data sets that need no download.

    Example: [bold]ghostsearch doctor[/bold]
    """
    from ghostsearch.measure.doctor import diagnosis

    found = diagnosis()
    if shown.as_json:
        say_json(found)
        return
    show_table(
        "this machine", ["", ""], [(k.removesuffix("_bytes"), _shown(k, v)) for k, v in found["machine"].items()]
    )
    show_table("versions", ["package", "version"], list(found["versions"].items()))
    show_table(
        "devices",
        ["device", "here"],
        [(d["name"], _where(d)) for d in found["devices"]],
    )
    show_table("data", ["data set", ""], list(found["data"].items()))
    say("next: ghostsearch search   (the quick start)")


def _shown(name: str, value: object) -> str:
    return with_prefix(float(str(value)), "B") if name.endswith("_bytes") else str(value)


def _where(device: Mapping[str, Any]) -> str:
    """Where a device is and what to know of it there, or why it is absent."""
    return "; ".join(filter(None, (device["place"], device["reason"])))
