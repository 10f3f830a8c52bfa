"""What the images of a run, and its file of weights, are known by: a study goes on with the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostsearch.data.load import Data
from ghostsearch.errors import GhostsearchError
from ghostsearch.study.config import RunConfig


def fingerprint_of(config: RunConfig, data: Data) -> dict[str, str]:
    """What each split and the file of `--weights` are known by; nothing of loaders of the user's own."""
    if not config.weights or not Path(config.weights).is_file():
        return dict(data.fingerprint)
    with open(config.weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {**data.fingerprint, "weights": f"sha256 {digest[:16]}"}


def known_by(study: Mapping[str, Any]) -> dict[str, str]:
    """What a study's images and weights were known by when it began; empty of studies written before that was kept."""
    found = study.get("fingerprint")
    return found if isinstance(found, dict) else {}


def changed_since(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What is another one now, in words; what one of them does not know counts as equal, as in studies of before."""
    both = [what for what in now if what in before]
    return "; ".join(f"{what} {before[what]} → {now[what]}" for what in both if before[what] != now[what])


def check_fingerprint(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise GhostsearchError where a study began with other images, labels, splits or weights than these."""
    if changed := changed_since(before, now):
        raise GhostsearchError(
            f"{folder} holds another study: its images or weights have changed ({changed}); choose another --out, or "
            "put back the files that it began with"
        )
