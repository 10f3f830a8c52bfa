"""The real command line, as a user runs it: a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def data(self):
        """Standard output as JSON."""
        return json.loads(self.out)


@pytest.fixture(scope="session")
def ghostsearch():
    """Run `ghostsearch ARGUMENTS…`; returns exit code and both streams."""

    def run(*arguments, cwd=None, timeout=240):
        done = subprocess.run(
            [sys.executable, "-m", "ghostsearch", *map(str, arguments)],
            capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def refused(ghostsearch):
    """Run a command that must be refused: exit code 2, one line on standard error that says `told`, no traceback."""

    def run(told, *arguments, **options):
        outcome = ghostsearch(*arguments, **options)
        assert outcome.code == 2, outcome
        assert "Traceback" not in outcome.err
        assert told in outcome.err
        lines = [line for line in outcome.err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, outcome.err
        return outcome

    return run
