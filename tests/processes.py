"""Processes of their own that start at once: forked from one that has imported what a search needs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["ghostsearch.study.run", "ghostsearch.report.page", "lightning.fabric"])


class Started:
    """A function at work in a process of its own, which ends with its exception or exit code; asked like a Popen."""

    def __init__(self, log: Path, function: Callable[..., Any], *arguments: Any) -> None:
        self.log = log
        self.process = FORKS.Process(target=_run, args=(log, function, *arguments))
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float = 200) -> int | None:
        """Its exit code; None where it still works after so many seconds."""
        self.process.join(timeout)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """Sends it a signal; a process that has just ended gets none, as with a Popen."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def said(self) -> str:
        """What it wrote to both streams until now."""
        return self.log.read_text() if self.log.exists() else ""


def _run(log: Path, function: Callable[..., Any], *arguments: Any) -> None:
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    function(*arguments)
