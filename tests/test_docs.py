"""The documents are run: their commands in one directory, their Python, their files, the tour as a doctest."""

import ast
import csv
import doctest
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from ghostsearch.cli.main import app
from ghostsearch.errors import GhostsearchError
from ghostsearch.space.preset import parse_preset
from ghostsearch.study.candidates import COLUMNS as CANDIDATE_COLUMNS
from ghostsearch.study.trials_table import COLUMNS, DEVICE_COLUMNS

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "docs" / f"{name}.md" for name in ("convert", "search", "report", "measure", "finetune", "extending")]
"""In the order of docs/README.md: later ones go on with what earlier ones wrote."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?P<mark><!-- [^\n]* -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


def blocks(page: Path, *kinds: str) -> list[re.Match[str]]:
    return [b for b in BLOCK.finditer(page.read_text(encoding="utf-8")) if b["kind"] in kinds]


def commands(block: re.Match[str]) -> list[list[str]]:
    """The ghostsearch commands of a shell block, as argument lists."""
    found = []
    for line in block["text"].replace("\\\n", " ").splitlines():
        for command in line.removeprefix("$ ").split("&&"):
            words = shlex.split(command, comments=True)
            if words and Path(words[0]).name == "ghostsearch":
                found.append(words[1:])
    return found


@pytest.fixture
def elsewhere(hasty: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory on the import path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_parse(page: Path) -> None:
    group = typer.main.get_command(app)
    for words in (words for block in blocks(page, "console", "bash") for words in commands(block)):
        if not words or words[0].startswith("--"):
            continue
        assert words[0] in group.commands, f"{page.name}: no command is called {words[0]}"
        with group.commands[words[0]].make_context(words[0], words[1:]):
            pass


@pytest.mark.timeout(900)  # half a minute alone, minutes where many share the cores
def test_the_guides_run_in_order(elsewhere: Path) -> None:
    """Every command that is not marked `parsed:`, and every file a guide tells to save, in one directory."""
    ran = set()
    for page in GUIDES:
        for block in blocks(page, "console", "python", "yaml"):
            mark = (block["mark"] or "").removeprefix("<!-- ").partition(" -->")[0]
            if mark.startswith("file: "):
                (elsewhere / mark.removeprefix("file: ")).write_text(block["text"])
            if block["kind"] != "console" or mark.startswith("parsed:"):
                continue
            for words in commands(block):
                done = CliRunner().invoke(app, words)
                said = f"{page.name}: {shlex.join(words)}\n{done.output}"
                assert done.exit_code == 0, f"{said}\n{done.exception!r}"
                assert done.stdout.strip() or "--quiet" in words, said
                ran.add(words[0])
    told = {"inspect", "convert", "search", "solve", "report", "compare", "measure", "devices", "profile", "finetune",
            "check"}  # fmt: skip
    assert ran >= told | {"export"}
    assert list((elsewhere / "tuned").glob("digits_cnn_ghost@*_int8.onnx"))
    assert (elsewhere / "study" / "compare.html").is_file()
    assert "compact" in (elsewhere / "study" / "compact.json").name


def test_the_tour_is_a_doctest(elsewhere: Path) -> None:
    failed, tried = doctest.testfile(str(ROOT / "docs" / "tour.md"), module_relative=False, encoding="utf-8")
    assert tried > 20
    assert not failed


def test_a_device_of_ones_own_measures(elsewhere: Path) -> None:
    """The guide's device, as an object."""
    import torch

    from ghostsearch.measure.latency import measure_latency
    from ghostsearch.measure.setting import Setting

    (block,) = (b for b in blocks(ROOT / "docs" / "extending.md", "python") if "my_device" in (b["mark"] or ""))
    names: dict = {"__name__": "my_device"}
    exec(compile(block["text"], "my_device.py", "exec"), names)
    net = torch.nn.Conv2d(3, 4, 3)
    device = names["TracedCpu"]()
    setting = Setting(time_limit=0.1)
    latency = measure_latency({"net": net}, torch.randn(1, 3, 8, 8), device=device, setting=setting)["net"]
    assert latency.device == "traced:cpu"
    assert min(latency.times_s) > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_runs_and_presets_load(page: Path, elsewhere: Path) -> None:
    for block in blocks(page, "python"):
        exec(compile(block["text"], str(page), "exec"), {"__name__": page.stem})
    for block in blocks(page, "yaml"):
        assert parse_preset(yaml.safe_load(block["text"]), str(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_what_shown_python_imports_is_there(page: Path) -> None:
    """Of the blocks that are not run."""
    for block in blocks(page, "py"):
        imports = [n for n in ast.parse(block["text"]).body if isinstance(n, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), str(page), "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_first_table_of_the_readme_is_measured() -> None:
    """Each row is one of the results page, FastNAS's, which was not timed, one of the page that has it."""
    with (ROOT / "results" / "label_free_rivals_lite0.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = [
        (float(row[score]), float(row[f"{kind} ms"]), float(row[f"{kind} time"].split()[0]), float(row[f"{kind} MB"]))
        for row in rows
        for score, kind in (
            ("top-1 % as given", "float"),
            ("top-1 % reset", "float"),
            ("int8 top-1 % as given", "int8"),
        )
    ]
    with (ROOT / "results" / "tool_speed_efficientnet-lite0.csv").open() as file:
        untimed = {row["model"]: float(row["top-1 %"]) for row in csv.DictReader(file)}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [line.replace("*", "").strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    shown = [cells for cells in shown[1 : shown.index(["situation", "advice"])] if len(cells) == 5]
    assert len(shown) >= 8
    for name, score, *figures in shown:
        accuracy = float(score.removesuffix(" %"))
        if figures == ["–"] * 3:
            assert untimed[name.removesuffix(", BatchNorm reset")] == accuracy
            continue
        wanted = (accuracy, *map(float, figures))
        assert any(wanted == pytest.approx(values, abs=0.0095) for values in measured), name


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("trials", {**COLUMNS, **{f"{k}[DEVICE]": f"{v}, a column per device" for k, v in DEVICE_COLUMNS.items()}}),
        ("candidates", CANDIDATE_COLUMNS),
    ],
)
def test_the_columns_in_the_documents_are_those_of_the_files(name: str, columns: dict[str, str]) -> None:
    text = (ROOT / "docs" / "file-formats.md").read_text(encoding="utf-8")
    table = text.partition(f"<!-- columns: {name} -->\n")[2].partition("<!-- end -->")[0]
    wanted = "".join(f"| `{column}` | {what} |\n" for column, what in columns.items())
    assert table == f"| column | content |\n|---|---|\n{wanted}"


def test_an_unknown_name_is_not_taken_for_an_example() -> None:
    """The runner above tells failures from successes."""
    done = CliRunner().invoke(app, ["inspect", "nosuchnet"])
    assert done.exit_code != 0
    assert isinstance(done.exception, GhostsearchError)
