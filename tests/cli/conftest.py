"""The command line as a user runs it, in this process: an interpreter each would take seconds."""

import contextlib
import io
import json
import sys
from dataclasses import dataclass

import pytest

from ghostsearch.cli.main import main


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def data(self):
        """Standard output as JSON."""
        return json.loads(self.out)


@pytest.fixture(scope="module", autouse=True)
def quick(hasty):
    """No test here is about how well a latency is known."""


@pytest.fixture(scope="session")
def ghostsearch():
    """Run `ghostsearch ARGUMENTS…`; returns exit code and both streams."""

    def run(*arguments, cwd="."):
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd):
            patch.setattr(sys, "argv", ["ghostsearch", *map(str, arguments)])
            patch.setenv("COLUMNS", "200")
            patch.setenv("NO_COLOR", "1")
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                    code = 0
                except SystemExit as stop:
                    code = int(stop.code or 0)
        return Outcome(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def refused(ghostsearch):
    """Run a command that must be refused: exit code 2, one line on standard error that says `told`, no traceback."""

    def run(told, *arguments, **options):
        outcome = ghostsearch(*arguments, **options)
        assert outcome.code == 2, outcome
        assert told in outcome.err
        lines = [line for line in outcome.err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, outcome.err
        return outcome

    return run
