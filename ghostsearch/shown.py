"""How results and work show themselves: tables of a page's width, the same in HTML in a notebook, a progress bar."""

from __future__ import annotations

import io
import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib.util import find_spec
from itertools import accumulate
from operator import itemgetter
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
    from rich.table import Column

    # What is wide is cut, so that count and time left stay.
    wide, narrow = Column(no_wrap=True, overflow="ellipsis", ratio=1), Column(no_wrap=True)
    columns = (
        progress.SpinnerColumn(), progress.TextColumn("{task.description}", markup=False, table_column=wide),
        progress.BarColumn(bar_width=12), progress.MofNCompleteColumn(table_column=narrow),
        progress.TextColumn("{task.fields[left]}", table_column=narrow.copy()),
    )  # fmt: skip
    left = TimeLeft()
    with progress.Progress(*columns, console=console, transient=True, expand=True) as shown:
        task = shown.add_task("starting", total=None, left="")
        yield lambda done, total, text: shown.update(
            task, completed=done, total=total or None, description=text[:90], left=left.told(done, total)
        )


def percent_done(works: Iterable[float]) -> list[int]:
    """Percent of all the work that is done after each step, of steps that are not alike."""
    done = [*accumulate(works)]
    return [round(100 * x / done[-1]) for x in done]


class TimeLeft:
    """What a stage will still take on this machine, by its latest steps."""

    def __init__(self) -> None:
        self.total = -1
        self.seen: list[tuple[float, int]] = []
        """When the stage had how many steps: at its beginning, then after each."""

    def told(self, done: int, total: int) -> str:
        """Time left and memory, such as "about 2 min left, 1.50 GB of memory"; before it is known the memory alone."""
        seconds = self.after(done, total)
        memory = f"{with_prefix(peak_memory(), 'B')} of memory"
        return memory if seconds is None else f"about {duration(seconds)} left, {memory}"

    def after(self, done: int, total: int) -> float | None:
        """Seconds left, by the later half of the steps so far; None before the second one has ended.

        The first step also makes what the others share, and a search's first trial is the baseline, which is ready.
        """
        now = time.monotonic()
        if total != self.total or done < self.seen[-1][1]:
            self.total, self.seen = total, [(now, done)]
        elif done > self.seen[-1][1]:
            self.seen.append((now, done))
        if len(self.seen) < 3 or done >= total:
            return None
        half = bisect_right(self.seen, (self.seen[0][1] + done) / 2, key=itemgetter(1)) - 1
        since, before = self.seen[max(1, half)]
        return (now - since) / (done - before) * (total - done)


def lines(console: Console) -> Progress:
    """Progress where no bar can be drawn: a line at each tenth of the work, and as soon as the time left is known."""
    left, last = TimeLeft(), (-1, -1, False)

    def report(done: int, total: int, text: str) -> None:
        nonlocal last
        told = left.told(done, total)
        now = total, 10 * done // total if total else 0, "left" in told
        if now != last:
            console.print(f"{done}/{total} {text}, {told}", markup=False, highlight=False, soft_wrap=True)
        last = now

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


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """A library's logger says nothing within: what it tells its developers is not for our users."""
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
