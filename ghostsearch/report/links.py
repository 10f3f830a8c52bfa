"""Links to a study's own files: relative, existing, and never outside its directory."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

DESCRIPTIONS = {
    "run.yaml": "everything needed to run it again: ghostsearch search --config run.yaml",
    "front.csv": "the front",
    "trials.csv": "every trial, one row each",
    "trials.parquet": "every trial, for pandas",
    "study.db": "the Optuna study, opens in optuna-dashboard",
    "report.md": "this report for a pull request",
    "front.png": "picture of the front",
    "layers.png": "picture of what each layer became",
    "latency.png": "picture of each layer's latency, before and after",
}


class Link(TypedDict):
    """A file beside the page."""

    href: str
    name: str
    what: str
    size_bytes: int


def study_links(directory: Path, candidates: str = "") -> list[Link]:
    """Links to the study's tables and files that exist."""
    names = dict(DESCRIPTIONS)
    if candidates:
        names[candidates] = "the candidate table: every site × choice alone"
    return [link for name, what in names.items() if (link := _link(directory, name, what))]


def model_links(directory: Path, digest: str) -> list[Link]:
    """Links to a model's files under models/DIGEST, largest last."""
    folder = directory / "models" / digest
    if not digest.isalnum() or not folder.is_dir():
        return []
    found = [_link(directory, f"models/{digest}/{p.name}", "") for p in sorted(folder.iterdir()) if p.is_file()]
    return sorted((link for link in found if link), key=lambda link: link["size_bytes"])


def _link(directory: Path, name: str, what: str) -> Link | None:
    """None for what does not exist or, by `..` or a symbolic link, lies outside the directory."""
    root, path = directory.resolve(), (directory / name).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        return None
    return Link(href=quote(Path(name).as_posix()), name=name, what=what, size_bytes=path.stat().st_size)
