"""The wheel works without the repository: presets, page assets and version inside."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked as pip does it."""
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(folder / built.stdout.split()[-1]) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_it_holds_every_preset_and_asset(installed: Path) -> None:
    for source, target in (
        (ROOT / "search_spaces", "search_spaces"),
        (ROOT / "ghostsearch/report/assets", "report/assets"),
    ):
        names = {path.name for path in source.iterdir()}
        assert names
        assert names == {path.name for path in (installed / "ghostsearch" / target).iterdir()}
    (metadata,) = installed.glob("*.dist-info/METADATA")
    assert "License-Expression: Apache-2.0" in metadata.read_text()
    assert list(metadata.parent.rglob("LICENSE"))


def test_a_command_runs_from_it_elsewhere(installed: Path, tmp_path: Path) -> None:
    code = (
        "import ghostsearch, sys; assert ghostsearch.__file__.startswith(sys.argv[1]), ghostsearch.__file__; "
        "from typer.testing import CliRunner; from ghostsearch.cli.main import app; "
        "done = CliRunner().invoke(app, ['inspect', 'ghostsearch:digits_cnn', '--space', 'families', '--json']); "
        "print(done.output); sys.exit(done.exit_code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(installed)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "lowrank(rank=0.5)" in done.stdout
