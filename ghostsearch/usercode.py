"""The user's own code, which is trusted and run: `package.module:object`, and what installed packages bring along."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ghostsearch.errors import GhostsearchError, in_a_line

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_object_name(text: str) -> bool:
    """Whether a text has the form `package.module:object`."""
    return _NAME.fullmatch(text) is not None


def leave_for(model: str) -> str:
    """The option, behind a space, that later commands need for what was made from this model; empty if none."""
    own = is_object_name(model) and model.partition(":")[0] not in ("torchvision", "timm", "ghostsearch")
    return " --allow-code" * own


def import_object(name: str, what: str) -> Any:
    """The object that `package.module:object` names; importing the module runs its code.

    The working directory is searched too, as `python -m` does. `what` says in errors what the object is for.
    Raises GhostsearchError when the name does not parse, the module fails to import or has no such object.
    """
    if not is_object_name(name):
        raise GhostsearchError(f"{what} {name!r} does not parse; write it like 'package.module:object'")
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise GhostsearchError(
            f"{what} {name!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise GhostsearchError(f"{what} {name!r}: module {module_name} has no {attribute!r}")
        found = getattr(found, part)
    return found


@lru_cache
def _installed(group: str, path: tuple[str, ...]) -> tuple[importlib.metadata.EntryPoint, ...]:  # noqa: ARG001
    # All distributions on the path are read, some hundredths of a second.
    return tuple(importlib.metadata.entry_points(group=group))


def entry_points(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """The entry points of a group that the packages on the import path have."""
    return _installed(group, tuple(sys.path))


def brought_along(group: str, name: str, what: str, make: Callable[[Any], Any] = lambda found: found) -> Any:
    """What another package brings by the entry point of a name in a group, as `make` makes it; None where none does.

    `what` says in errors what it is for. Raises GhostsearchError where it cannot be loaded.
    """
    for point in entry_points(group):
        if point.name == name:
            try:
                return make(point.load())
            # Another package's code may fail in any way on import.
            except Exception as error:
                shown = in_a_line(error)
                raise GhostsearchError(f"{what} {name!r} ({point.value}) cannot be loaded ({shown})") from error
    return None
