"""`search --watch`: serves the growing report on 127.0.0.1, read only, while the search runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = "127.0.0.1"
REFRESH_S = 15
"""How often an open page is loaded again."""
PAGE = "report.html"
TYPES = {".html": "text/html; charset=utf-8", ".png": "image/png", ".csv": "text/csv; charset=utf-8",
         ".md": "text/markdown; charset=utf-8"}  # fmt: skip
SERVED = (PAGE, "report.md", "front.png", "layers.png", "latency.png", "front.csv", "trials.csv")
"""All that is served: no other file, and no list of files."""
WAITING = b"<!doctype html><title>ghostsearch</title><p>The report appears here after the first trial.</p>"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a study's report to this machine alone until the block ends; yields the address."""
    with ThreadingHTTPServer((HERE, 0), partial(_Reader, folder)) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{HERE}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class _Reader(BaseHTTPRequestHandler):
    """Answers GET for the report's files; the base class refuses every other method."""

    def __init__(self, folder: Path, *arguments: Any) -> None:
        self.folder = folder
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Send a file of the report."""
        port = self.connection.getsockname()[1]
        # A name that another site resolves to this address is not ours.
        if self.headers.get("Host") not in (f"{HERE}:{port}", f"localhost:{port}"):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        name = self.path.partition("?")[0].removeprefix("/") or PAGE
        file = self.folder / name
        if name not in SERVED or not (file.is_file() or name == PAGE):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content = file.read_bytes() if file.is_file() else WAITING
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", TYPES[Path(name).suffix])
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if name == PAGE:
            self.send_header("Refresh", str(REFRESH_S))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the terminal shows the search."""
