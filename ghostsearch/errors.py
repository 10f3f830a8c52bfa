"""The one exception type a user's mistake raises; the command line prints it as one line and exits with 2."""

from __future__ import annotations

from collections.abc import Sequence


class GhostsearchError(Exception):
    """Bad input: the message says the rule, the value that broke it and the way out, in one line."""


def key_of(location: Sequence[int | str]) -> str:
    """The dotted name of a place in a file that pydantic refused, in one short line: a key may hold line breaks."""
    return " ".join(".".join(map(str, location)).split())[:100]


class MissingExtraError(GhostsearchError):
    """An optional dependency is absent; the message holds the line that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: pip install 'ghostsearch[{extra}]'")


class TrainingError(GhostsearchError):
    """Training broke off, such as on a loss that is not a number; a study records the trial as failed."""
