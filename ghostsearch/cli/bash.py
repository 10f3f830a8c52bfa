"""Tab completion in bash, which takes words apart at colons: every full name of a model or a device has one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

import typer


@contextmanager
def whole_words() -> Iterator[None]:
    """Within, typer completes words as they were typed; of what it prints, bash gets the part after the last colon."""
    if os.environ.get("_GHOSTSEARCH_COMPLETE") != "complete_bash":
        yield
        return
    words, place, known = joined(os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"]))
    os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(place)}
    found = io.StringIO()
    try:
        with redirect_stdout(found):
            yield
    finally:
        for line in found.getvalue().splitlines():
            typer.echo(line.removeprefix(known))


def joined(parts: Sequence[str], at: int) -> tuple[list[str], int, str]:
    """Bash's parts as words again, the place of the word being typed, and what of that bash keeps as it is.

    at: the place of the part being typed. A part of colons belongs to both its neighbours; an empty one comes after a
    blank.
    """
    words: list[str] = []
    kept, before = "", ""
    for part in parts[: at + 1]:
        if words and part and (_colons(part) or _colons(before)):
            kept = words[-1] + part * _colons(part)
            words[-1] += part
        else:
            kept = ""
            words.append(part)
        before = part
    return words, len(words) - 1, kept


def _colons(part: str) -> bool:
    return bool(part) and not part.strip(":")
