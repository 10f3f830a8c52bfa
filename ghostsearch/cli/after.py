"""Commands beside the search: finetune, train, compare, paper."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
