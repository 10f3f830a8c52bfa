"""Every command in the documents parses, those marked `<!-- run -->` are run, and the Python is executed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from ghostsearch.cli.main import app
from ghostsearch.presets import parse_preset

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?P<run><!-- run -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


def commands(page: Path, *, marked: bool) -> list[list[str]]:
    """The ghostsearch commands of a page's shell blocks (of the marked ones alone), as argument lists."""
    found = []
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["kind"] not in ("console", "bash") or (marked and not block["run"]):
            continue
        for line in block["text"].replace("\\\n", " ").splitlines():
            for command in line.removeprefix("$ ").split("&&"):
                words = shlex.split(command, comments=True)
                if words and Path(words[0]).name == "ghostsearch":
                    found.append(words[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_parse(page: Path) -> None:
    group = typer.main.get_command(app)
    for words in commands(page, marked=False):
        if not words or words[0].startswith("--"):
            continue
        assert words[0] in group.commands, f"{page.name}: no command is called {words[0]}"
        with group.commands[words[0]].make_context(words[0], words[1:]):
            pass


def test_marked_commands_run(tmp_path: Path) -> None:
    """In order, in one empty directory, each by a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = 0
    for page in PAGES:
        for words in commands(page, marked=True):
            done = subprocess.run(
                [sys.executable, "-m", "ghostsearch", *words], cwd=tmp_path, env=environment, capture_output=True,
                text=True, timeout=240,
            )  # fmt: skip
            assert done.returncode == 0, f"{page.name}: {shlex.join(words)}\n{done.stderr}"
            assert done.stdout.strip()
            if "--json" in words:
                assert json.loads(done.stdout)
            ran += 1
    assert ran >= 5
    assert (tmp_path / "converted" / "weights.safetensors").is_file()
    assert list((tmp_path / "converted").glob("digits_cnn_ghost@*.pt2"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_runs_and_presets_load(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["kind"] == "python":
            exec(compile(block["text"], str(page), "exec"), {"__name__": page.stem})
        if block["kind"] == "yaml":
            assert parse_preset(yaml.safe_load(block["text"]), str(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
