"""What finished trainings came to, so that a stopped run of the same command goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text

KEPT_FILE = "paper_rows.jsonl"


class KeptRows:
    """Rows by everything that decides them; on disk where there is a path, one JSON object [key, row] a line."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises GhostsearchError for a file that is not ours."""
        self.path = path
        self._rows: dict[str, dict[str, Any]] = {}
        if path is None or not path.is_file():
            return
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                key, row = json.loads(line)
                self._rows[_text(key)] = dict(row)
        except (ValueError, TypeError) as error:
            raise GhostsearchError(f"{path}: not rows of finished trainings ({error}); move it away") from None

    def get(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The row of a key, if it was kept."""
        return self._rows.get(_text(key))

    def add(self, key: dict[str, Any], row: dict[str, Any]) -> None:
        """Keep a row; the file is written whole."""
        self._rows[_text(key)] = row
        if self.path:
            write_text(self.path, "".join(f"[{key}, {json.dumps(row)}]\n" for key, row in self._rows.items()))


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
