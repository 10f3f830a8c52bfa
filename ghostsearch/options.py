"""Groups of options: one frozen model for a function's arguments, a command's options, run.yaml and the docs."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ghostsearch.errors import GhostsearchError, key_of

PHRASES = {
    "Value error, ": "",
    "Input should be": "must be",
    "Extra inputs are not permitted": "is no known field",
    "a valid integer, unable to parse string as an integer": "a whole number",
    "a valid number, unable to parse string as a number": "a number",
    "a valid integer, got a number with a fractional part": "a whole number",
}


def in_words(message: str) -> str:
    """What pydantic says, as this package's errors say it."""
    for theirs, ours in PHRASES.items():
        message = message.replace(theirs, ours)
    return message


class OptionError(GhostsearchError):
    """A value that an option refuses; `option` is the option's name, empty where several do not go together."""

    def __init__(self, error: ValidationError) -> None:
        first = error.errors()[0]
        self.option = key_of(first["loc"])
        message = in_words(first["msg"])
        value = f", got {reprlib.repr(first['input'])[:80]}" if self.option and "got " not in message else ""
        super().__init__(f"{self.option + ': ' if self.option else ''}{message}{value}")


def without_effect(name: str, needed: str) -> GhostsearchError:
    """The error for an option that was given without the one that it belongs to."""
    option = f"--{name.replace('_', '-')}"
    return GhostsearchError(f"{option} is for {needed}; add it, or leave {option} out")


@contextmanager
def refused() -> Iterator[None]:
    """Within, a GhostsearchError is raised as the ValueError by which pydantic knows a wrong value."""
    try:
        yield
    except GhostsearchError as error:
        raise ValueError(str(error)) from None


class Frozen(BaseModel):
    """What a file holds: it does not change, and a field that it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Group = TypeVar("Group", bound="Options")


class Options(Frozen):
    """Named values that belong together; a wrong one raises OptionError, in one line."""

    model_config = ConfigDict(validate_default=True, allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        # Python's callers write paths as paths; a file of options and the command line know text alone.
        told = {name: str(value) if isinstance(value, PurePath) else value for name, value in values.items()}
        try:
            super().__init__(**told)
        except ValidationError as error:
            raise OptionError(error) from None

    def part(self, kind: type[Group], **changes: Any) -> Group:
        """The options of another group that are among these, with some changed."""
        return kind(**{**{name: getattr(self, name) for name in kind.model_fields}, **changes})

    def but(self, **changes: Any) -> Self:
        """The same options with some changed, checked like new ones."""
        return type(self)(**{**dict(self), **changes})


def option(
    default: Any, text: str, *, panel: str = "Options", cli: bool = True, flags: tuple[str, ...] = (), **checks: Any
) -> Any:
    """A field of a group: its default, its help, the panel of the help it stands in, and what pydantic checks.

    `cli=False` leaves it out of the command line; `flags` are its names there, by default --FIELD-NAME.
    """
    return Field(
        default=default,
        description=text,
        json_schema_extra={"panel": panel, "cli": cli, "flags": list(flags)},
        **checks,
    )


class Seeded(Options):
    """What draws random numbers."""

    # Products of it with the numbers of layers and batches seed torch, which takes 64 bits.
    seed: int = option(0, "Seed of everything random.", panel="Output", ge=0, lt=2**31)


class Computing(Options):
    """Where tensors are worked on."""

    compute_device: str = option("auto", "Where to train and fit: cpu, cuda, cuda:1 or auto.", panel="Computing")


def _as_tuple(value: Any) -> Any:
    """A list or a comma-separated text as a tuple, so that the command line and YAML may write either."""
    if isinstance(value, str):
        value = [value]
    # Only of scalars: a nest of YAML aliases would print as gigabytes.
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
        return tuple(part.strip() for item in value for part in str(item).split(",") if part.strip())
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
"""Several values; a repeatable option on the command line."""
