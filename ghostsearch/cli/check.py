"""The gate for CI: whether a model keeps its limits, with exit codes of its own."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import progress_bar, say_json, show_table
from ghostsearch.files import write_bytes
from ghostsearch.study.config import Gate

if TYPE_CHECKING:
    from ghostsearch.study.gate import Verdict

GATE = Gate()
MISSED, NOT_DECIDED = 3, 4
"""Exit codes: a limit is missed; none is missed, but an interval holds one."""
JUNIT = {"failure": "missed", "error": "not decided"}
"""Elements of a JUnit file by the verdict that they stand for."""


@o.without("train_images")
def check(
    model: o.Subject,
    gate: Gate = GATE,
    junit: Annotated[Path | None, typer.Option(help="Write the verdicts as a JUnit file too.")] = None,
    allow_code: o.AllowCode = False,
    shown: o.Output = o.OUTPUT,
) -> None:
    """Check a model against limits; for CI. Exit code 0: all met, 3: one is missed, 4: not decided, 2: an error.

    Latencies and scores are decided by their 95 % intervals: met if the whole interval meets the limit, missed if none
    of it does, otherwise not decided (raise --time-limit or give more images). Costs are exact.

    Example: [bold]ghostsearch check model.onnx --device onnxruntime:cpu --max-latency 12ms --junit check.xml[/bold]
    """
    from ghostsearch.study.gate import check as verdicts_of

    with progress_bar(shown.silent) as progress:
        verdicts = verdicts_of(model, gate, allow_code=allow_code, progress=progress)
    if junit:
        write_bytes(junit, _junit(model, verdicts))
    states = [v.state for v in verdicts]
    if shown.as_json:
        say_json([dataclasses.asdict(v) for v in verdicts])
    else:
        show_table(model, ["limit", "asked", "found", ""], [(v.limit, v.asked, v.found, v.state) for v in verdicts])
    if "missed" in states:
        raise typer.Exit(MISSED)
    if "not decided" in states:
        raise typer.Exit(NOT_DECIDED)


def _junit(model: str, verdicts: Sequence[Verdict]) -> bytes:
    """The verdicts as JUnit XML: a test case per limit, a failure where it is missed, an error where not decided."""
    count = {kind: str(sum(v.state == state for v in verdicts)) for kind, state in JUNIT.items()}
    suite = ET.Element("testsuite", name="ghostsearch check", tests=str(len(verdicts)),
                       failures=count["failure"], errors=count["error"])  # fmt: skip
    for verdict in verdicts:
        case = ET.SubElement(suite, "testcase", classname=model, name=f"{verdict.limit} {verdict.asked}")
        for kind, state in JUNIT.items():
            if verdict.state == state:
                ET.SubElement(case, kind, message=f"{state}: {verdict.found}")
    tree = ET.ElementTree(suite)
    ET.indent(tree)
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True))
