"""What the terminal shows: tables, progress bars, one-line errors, JSON. Nothing else in the package prints."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ghostsearch.shown import Progress, bar, lines


def screen(**options: Any) -> Console:
    """A console that shows names as they are: numbers without colour, `folder:one:` without an emoji."""
    return Console(highlight=False, emoji=False, **options)


out, err = screen(), screen(stderr=True)


def say(text: str, style: str = "") -> None:
    """Print a line for people, on standard output; brackets in it are no markup."""
    out.print(text, style=style or None, markup=False, soft_wrap=True)


def typed(value: object) -> str:
    """A path or name as one types it into a shell."""
    return shlex.quote(str(value))


def say_error(text: str) -> None:
    """Print one line on standard error; line breaks inside become spaces."""
    err.print("[red]error:[/red]", end=" ")
    err.print(" ".join(text.split()), markup=False, soft_wrap=True)


def warning_printer() -> Callable[..., None]:
    """A `warnings.showwarning` that prints one line without the place in code; texts that differ in figures once."""
    seen: set[str] = set()

    def show(message: Warning | str, *about: Any, **more: Any) -> None:  # noqa: ARG001
        words = re.sub(r"\d[\d.,e+-]*", "#", str(message))
        if words not in seen:
            seen.add(words)
            note(str(message))

    return show


def note(text: str) -> None:
    """Print a note on standard error; standard output is for results."""
    err.print("[yellow]note:[/yellow]", end=" ")
    err.print(" ".join(text.split()), markup=False, soft_wrap=True)


def say_json(data: object) -> None:
    """Print data as JSON on standard output."""
    typer.echo(json.dumps(data, indent=2, default=str, allow_nan=False))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
    """Print a table; numbers are aligned right. Brackets stay what they are: `latency_s[DEVICE]` is no markup."""
    table = Table(
        header_style="bold", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), show_header=any(columns)
    )
    for number, column in enumerate(columns):
        numeric = any(isinstance(row[number], int | float) or str(row[number])[:1].isdigit() for row in rows)
        table.add_column(escape(column), justify="right" if numeric and number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_together(escape(str(cell))) for cell in row))
    # Beside the table and not inside, where rich would wrap them to its width.
    say(title, "bold")
    out.print(table)
    if note:
        out.print(f"[dim]{escape(note)}[/dim]")
    out.print()


def _together(text: str) -> str:
    """A figure keeps its unit beside it, so that a narrow terminal does not break the line between them."""
    return re.sub(r"(?<=\d) (?=\S{1,5}$)", "\u00a0", text)


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress | None]:
    """A progress bar with the time left on standard error; a line at each tenth where that is no terminal.

    Yields None where `quiet`.
    """
    if quiet or not err.is_terminal:
        yield None if quiet else lines(err)
        return
    with bar(err) as report:
        yield report
