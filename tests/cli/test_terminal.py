"""What the terminal shows: no bars in logs, figures with their units, one line for a mistake."""

import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ghostsearch import shown
from ghostsearch.cli import terminal


@pytest.fixture
def screen(monkeypatch):
    """Standard output and error as text, on a terminal of 60 columns or into a file."""

    def make(*, watched):
        out, err = io.StringIO(), io.StringIO()
        options = {"width": 60, "force_terminal": watched, "no_color": True}
        monkeypatch.setattr(terminal, "out", terminal.screen(file=out, **options))
        monkeypatch.setattr(terminal, "err", terminal.screen(file=err, **options))
        return out, err

    return make


def test_a_log_gets_a_line_a_tenth_and_no_bar(screen, monkeypatch):
    monkeypatch.setattr(shown, "peak_memory", lambda: 1_500_000_000)
    out, err = screen(watched=False)
    with terminal.progress_bar() as report:
        report(0, 1000, "begun")
        for done in range(1000):
            report(done, 1000, f"best {done}")
    lines = err.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0] == "0/1000 begun, 1.50 GB of memory"
    assert re.fullmatch(r"2/1000 best 2, about \d+ s left, 1\.50 GB of memory", lines[1])
    assert lines[4].startswith("300/1000 best 300, about ")
    assert "\x1b" not in err.getvalue()
    assert out.getvalue() == ""


def test_the_time_left_is_of_the_latest_steps_of_its_own_stage(screen, monkeypatch):
    _, err = screen(watched=False)
    clock = iter([0, 100, 110, 120, 160, 500, 600, 602])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with terminal.progress_bar() as report:
        for done in range(5):
            report(done, 8, "trials")
        for done in range(3, 6):
            report(done, 8, "goes on")
    left = [line.partition("about ")[2].partition(" left")[0] for line in err.getvalue().splitlines()]
    assert left[:2] == ["", ""], "the first step tells nothing: it makes what the others share"
    assert left[2] == "60 s", "6 steps of 10 s"
    assert left[4] == "2 min", "4 steps of 25 s, as the later half took"
    assert left[-1] == "6 s", "3 steps of 2 s: neither the stage before nor what was done before counts"


def test_a_person_sees_count_time_left_and_the_best_so_far(screen):
    _, err = screen(watched=True)
    with terminal.progress_bar() as report:
        report(1, 4, "best 51% of the MACs")
        report(2, 4, "best 49% of the MACs")
    shown = err.getvalue()
    assert "best 49% of the MACs" in shown
    assert "2/4" in shown
    assert "of memory" in shown


def test_a_long_text_leaves_room_for_the_count(screen):
    _, err = screen(watched=True)
    with terminal.progress_bar() as report:
        report(17, 110, "candidate table: " + "a.long.name." * 9)
    assert "17/110" in err.getvalue()
    assert "of memory" in err.getvalue()


def test_quiet_is_quiet(screen):
    out, err = screen(watched=True)
    with terminal.progress_bar(quiet=True) as report:
        assert report is None
    assert (out.getvalue(), err.getvalue()) == ("", "")


def test_a_table_keeps_units_beside_figures_and_brackets_as_they_are(screen):
    out, _ = screen(watched=False)
    long = "a name of some length that has to be broken somewhere in a narrow terminal"
    terminal.show_table("latency_s[torch:cpu]", ["what", "time"], [(long, "12.5 ms")] * 2, note="[bold]")
    text = out.getvalue()
    assert text.startswith("latency_s[torch:cpu]\n")
    assert text.count("12.5\u00a0ms") == 2
    assert "[bold]" in text


def test_names_stay_what_they_are(screen):
    out, err = screen(watched=False)
    terminal.say("wrote folder:one: and a [new] one")
    terminal.note("folder:one: [new]")
    terminal.show_table("my:fire:", [":one:"], [[":one:"]])
    assert out.getvalue().startswith("wrote folder:one: and a [new] one\nmy:fire:\n:one:")
    assert err.getvalue() == "note: folder:one: [new]\n"


def test_a_mistake_is_one_line_whatever_it_says(screen):
    _, err = screen(watched=False)
    terminal.say_error("first [red]line\nsecond   line")
    assert err.getvalue() == "error: first [red]line second line\n"


def test_a_warning_is_said_once_whatever_its_figures(screen):
    _, err = screen(watched=False)
    show = terminal.warning_printer()
    for text in ("missed by 1.2e+16 of 3 layers", "missed by 0.5 of 12 layers", "8 images of a are broken"):
        show(text, UserWarning, "file.py", 3)
    assert err.getvalue() == "note: missed by 1.2e+16 of 3 layers\nnote: 8 images of a are broken\n"


def test_ctrl_c_while_the_command_is_still_imported_ends_without_a_word():
    stopped_in_imports = """
import signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
from {} import {}
main()
"""
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    code = stopped_in_imports.format(*scripts["ghostsearch"].split(":"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
