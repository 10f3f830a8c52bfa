"""report.md: the study for a pull request, with static pictures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ghostsearch.files import write_text
from ghostsearch.records import StudyView
from ghostsearch.report.classes import class_table
from ghostsearch.report.figures import front_figure, layer_figures, strips_figure
from ghostsearch.report.headline import cautions, headline
from ghostsearch.report.int8_layers import float_islands, gain, int8_caption, int8_table
from ghostsearch.report.outcome import cost_axes
from ghostsearch.report.pictures import draw
from ghostsearch.report.points import STAGES, kinds, make_panel, stages
from ghostsearch.report.tables import SORTED, failed_choice_rows, front_rows, measured_rows
from ghostsearch.units import markdown_table, plain_text

MAX_STRIPS = 12


def write_markdown(view: StudyView, directory: Path) -> Path:
    """Write report.md and its pictures into a directory; returns the Markdown file's path."""
    pictures = draw_pictures(view, directory)
    path = directory / "report.md"
    write_text(path, render_markdown(view, pictures))
    return path


def draw_pictures(view: StudyView, directory: Path) -> list[str]:
    """Draw front.png, layers.png and, where layers were timed, latency.png; returns the names of those there are.

    The front is drawn against the study's first cost: the trials as searched and, once trained, the finalists beside,
    on the validation split that the choice rests on.
    """
    drawn, costs = [], cost_axes(view)
    wanted = [s for s in ("searched", "finished") if s in stages(view) and (view.records or s == "finished")]
    panels = [make_panel(view, costs[0], stage) for stage in wanted] if costs else []
    if panels:
        figures = [front_figure(panel, view) for panel in panels]
        drawn.append(draw(figures, directory / "front.png", titles=[STAGES[stage] for stage in wanted]))
    strips = [r for d in dict.fromkeys(["baseline", view.chosen, *view.front]) if (r := view.record(d))]
    if strips and view.anatomy.get("sites"):
        figure = strips_figure(view, strips[:MAX_STRIPS], kinds(view, panels[-1] if panels else None))
        drawn.append(draw([figure], directory / "layers.png", height=1.4 + 0.4 * min(len(strips), MAX_STRIPS)))
    timed = next(iter(layer_figures(view).values()), {}).get(view.chosen)
    (directory / "latency.png").unlink(missing_ok=True)
    if timed:
        drawn.append(draw([timed], directory / "latency.png", titles=[timed.layout.meta["caption"]], height=3.6))
    return [path.name for path in drawn]


def render_markdown(view: StudyView, pictures: Sequence[str] = ()) -> str:
    """The report's text; every name from outside is escaped. `pictures`: names of those that stand beside it."""
    parts = [f"# {plain_text(view.name)}", plain_text(headline(view)), *map(plain_text, cautions(view))]
    if view.missed:
        names = ", ".join(map(plain_text, view.missed))
        parts.append(f"**Missed a limit when measured at the end:** {names} (see the remarks).")
    parts += ["![Score against cost](front.png)"] * ("front.png" in pictures)
    note = (
        f"{SORTED[0].upper()}{SORTED[1:]}; ± standard error; in brackets the share of the baseline's [95 % interval]."
    )
    parts += [markdown_table(*front_rows(view)), plain_text(note)]
    if classes := class_table(view):
        parts += ["## Change on each class", markdown_table(classes.header, classes.rows), plain_text(classes.note)]
    if "layers.png" in pictures:
        parts += ["## What each layer became", "![Layers](layers.png)"]
    parts += ["![Latency of each layer before and after](latency.png)"] * ("latency.png" in pictures)
    if view.int8_layers:
        islands = [f"- {plain_text(f'{model}: {left}')}" for model, left in float_islands(view)]
        table = int8_table(view)
        parts += ["## Layers in int8", *filter(None, [plain_text(gain(view))])]
        parts += [markdown_table(*table), plain_text(int8_caption(view))] * bool(table[1])
        parts += ["In float within the int8 file:", "\n".join(islands)]
    if failed := [list(row.values()) for row in failed_choice_rows(view)]:
        parts += ["## Choices that failed", markdown_table(["site", "choice", "reason"], failed)]
    parts += ["## How it was measured"]
    parts.append("\n".join(f"- {plain_text(name)}: {plain_text(text)}" for name, text in measured_rows(view)))
    parts += [plain_text(note) for note in view.notes]
    return "\n\n".join(parts) + "\n"
