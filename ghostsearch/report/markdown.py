"""report.md: the study for a pull request, with static pictures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ghostsearch.files import write_text
from ghostsearch.records import StudyView
from ghostsearch.report.conditions import measured
from ghostsearch.report.headline import headline
from ghostsearch.report.pictures import draw_front, draw_layer_times, draw_layers
from ghostsearch.report.tables import front_rows


def write_markdown(view: StudyView, directory: Path) -> Path:
    """Write report.md and its pictures into a directory; returns the Markdown file's path."""
    draw_front(view, directory / "front.png")
    draw_layers(view, directory / "layers.png")
    timed = draw_layer_times(view, directory / "latency.png")
    path = directory / "report.md"
    write_text(path, render_markdown(view, timed=timed is not None))
    return path


def render_markdown(view: StudyView, *, timed: bool = False) -> str:
    """The report's text; every name from outside is escaped. `timed`: latency.png stands beside it."""
    parts = [f"# {plain_text(view.name)}", plain_text(headline(view))]
    if view.missed:
        names = ", ".join(map(plain_text, view.missed))
        parts.append(f"**Missed a limit when measured at the end:** {names} (see the remarks).")
    parts += ["![Front](front.png)", markdown_table(*front_rows(view))]
    parts += ["## What each layer became", "![Layers](layers.png)"]
    parts += ["![Latency of each layer before and after](latency.png)"] * timed
    parts += ["## How it was measured"]
    parts.append("\n".join(f"- {plain_text(name)}: {plain_text(text)}" for name, text in measured(view)))
    parts += [plain_text(note) for note in view.notes]
    return "\n\n".join(parts) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; the first column is aligned left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    cells = [[plain_text(c) for c in header], lines[1], *([plain_text(c) for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def plain_text(text: str) -> str:
    """Text that Markdown shows as it stands: no markup, no HTML, no line break, no table cell of its own."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in " ".join(str(text).split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
