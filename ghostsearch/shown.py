"""How results and work show themselves: tables of a page's width, the same in HTML in a notebook, a progress bar."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ghostsearch.machine import peak_memory
from ghostsearch.units import duration, with_prefix

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 96
"""Characters in a line of `str(study)`."""
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A title, a header and rows of texts."""
Progress = Callable[[int, int, str], None]
"""How work reports its progress: done, total, and a text such as the best so far."""


@contextmanager
def bar(console: Console) -> Iterator[Progress]:
    """A progress bar with the time left, which goes when the block ends; in a notebook rich's widget."""
    from rich import progress

    columns = (
        progress.SpinnerColumn(), progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
        progress.MofNCompleteColumn(), progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[memory]}"),
    )  # fmt: skip
    with progress.Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("starting", total=None, memory="")
        yield lambda done, total, text: shown.update(
            task, completed=done, total=total or None, description=text[:90], memory=memory_so_far()
        )


def memory_so_far() -> str:
    """The most that the process has taken, which the first step of a stage nearly always sets."""
    return f"{with_prefix(peak_memory(), 'B')} of memory"


def lines(console: Console) -> Progress:
    """Progress where no bar can be drawn: a line at each tenth of the work and after its first step.

    From that step on with the time left by the steps so far, and with the process's memory.
    """
    began, start, total, last = 0.0, 0, -1, (-1, False)

    def report(done: int, of: int, text: str) -> None:
        nonlocal began, start, total, last
        if of != total:
            began, start, total, last = time.monotonic(), done, of, (-1, False)
        now = 10 * done // of if of else 0, done > start
        if now == last:
            return
        last, left = now, ""
        if start < done < of:
            seconds = (time.monotonic() - began) / (done - start) * (of - done)
            left = f", about {duration(seconds)} left, {memory_so_far()}"
        console.print(f"{done}/{of} {text}{left}", markup=False, highlight=False, soft_wrap=True)

    return report


@contextmanager
def notebook_bar(progress: Progress | None) -> Iterator[Progress | None]:
    """The given callback; without one, a progress bar in a notebook (lines without ipywidgets) and none elsewhere."""
    from rich import get_console

    if progress is not None or not get_console().is_jupyter:
        yield progress
        return
    # rich would print a warning in the place of each step of its bar.
    if find_spec("ipywidgets") is None:
        yield lines(get_console())
        return
    with bar(get_console()) as report:
        yield report


class Shown:
    """Something that is one table; a subclass says which."""

    def table(self) -> Table:
        """Title, header and rows."""
        raise NotImplementedError

    def __str__(self) -> str:
        return text_table(*self.table())

    def _repr_html_(self) -> str:
        return html_table(*self.table())


def text_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as text in lines of at most WIDTH characters; what is longer goes on in the next line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), show_header=any(header))
    for name in header:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    page = Console(file=io.StringIO(), width=WIDTH, color_system=None, emoji=False)
    page.print(Text(title), table, sep="\n")
    lines = page.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as HTML; every text is escaped."""
    lines = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in
             [("th", header), *(("td", row) for row in rows)]]  # fmt: skip
    return f"<table><caption>{escape(title)}</caption>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
