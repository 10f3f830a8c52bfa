"""Commands about devices and this machine: devices, profile, audit, doctor."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
