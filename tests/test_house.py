"""The rules of the house: which way imports run, where heavy libraries may be imported, how wide a function may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "ghostsearch"
FILES = {str(p.relative_to(ROOT.parent).with_suffix("")).replace("/", ".").removesuffix(".__init__"): p
         for p in sorted(ROOT.rglob("*.py"))}  # fmt: skip
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}

WIDE_FUNCTIONS = 4
"""Functions with eight or more parameters; lower it whenever there are fewer."""
OWN_IMPORTS_INSIDE = 38
"""Imports of our own inside functions, the commands' included; lower it whenever there are fewer."""
LONGEST = 350
"""Lines of a module."""
TOO_LONG = {
    "ghostsearch.records": 480,
    "ghostsearch.study.ledger": 406,
}
"""Those that are longer, and their bound; lower it whenever they shrink."""
ORDER = [
    "errors",
    "version",
    "machine",
    "files",
    "units",
    "shown",
    "options",
    "usercode",
    "yaml_files",
    "space",
    "records",
    "pareto",
    "fits",
    "blocks",
    "graph",
    "models",
    "surgery",
    "measure",
    "data",
    "training",
    "study",
    "report",
    "export",
    "in_memory",
    "tune",
    "cli",
    "__main__",
]
"""Folders and files at the root; each imports those to its left alone."""
AGAINST_THE_ORDER = {("ghostsearch.study.run", "ghostsearch.report.page")}
"""`search` ends by writing the report."""
HOMES = {
    "ray": ("study.ray_", "study.tune"),
    "plotly": ("report.",),
    "optuna": ("study.",),
    "torch_pruning": ("graph.",),
    "onnxruntime": ("measure.onnx_graph.", "measure.devices."),
    "lightning": ("training.",),
    "fvcore": ("measure.counters",),
    "thop": ("measure.counters",),
}
"""Heavy or narrow libraries and the only modules (or, with a dot, folders) that may import them."""
OFF_AT_HELP = ("torch", "lightning", "optuna", "ray", "plotly", "onnxruntime", "torch_pruning", "pandas")


def type_checking(tree: ast.Module) -> set[int]:
    tests = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    return {id(x) for n in tests for x in ast.walk(n)}


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules that a file imports when it is imported or later, not those for type checkers alone."""
    skipped = type_checking(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and id(node) not in skipped:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def width(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    a = function.args
    names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_imports_make_no_circle():
    """As the files are imported: those inside functions run later."""
    graph = {}
    for name, tree in TREES.items():
        late = {id(x) for f in functions(tree) for x in ast.walk(f)}
        body = ast.Module([n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom | ast.Import) and id(n) not in late
                           and id(n) not in type_checking(tree)], [])  # fmt: skip
        graph[name] = {target for target in imported(body) if target in FILES and target != name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' <- '.join(error.args[1])}")


def test_imports_run_one_way():
    against = {
        (name, target)
        for name, tree in TREES.items()
        for target in imported(tree)
        if target in FILES and name.count(".") and target.count(".")
        and ORDER.index(name.split(".")[1]) < ORDER.index(target.split(".")[1])
    }  # fmt: skip
    assert against == AGAINST_THE_ORDER


def test_heavy_libraries_have_one_place():
    strangers = [
        f"{name} imports {target}"
        for name, tree in TREES.items()
        for target in imported(tree)
        for home in [HOMES.get(target.split(".")[0])]
        if home and not f"{name}.".removeprefix("ghostsearch.").startswith(home)
    ]
    assert not strangers


def test_modules_stay_short():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert not {name: n for name, n in lines.items() if n > TOO_LONG.get(name, LONGEST)}
    assert not {name for name in TOO_LONG if lines.get(name, 0) <= LONGEST}, "take it out of TOO_LONG"


def test_architecture_page_names_what_exists():
    """Every `folder/file` of its text and picture, and its table in the order of the imports."""
    text = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = "|".join(p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__")
    named = set(re.findall(rf"\b(?:{folders})/\w+(?:\.py)?", text))
    assert len(named) > 10
    assert not {n for n in named if not (ROOT / n).with_suffix(".py").is_file() and not (ROOT / n).is_dir()}
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    listed = [name.rstrip("/") for row in rows for name in re.findall(r"`([\w/]+)`", row)]
    assert listed == [name for name in ORDER if name != "__main__"]


def test_stages_are_frozen():
    """What one stage has made no later one changes; each is made by the file that bears its name."""
    for stage in ("Setup", "Baseline", "Plan", "Trial", "Outcome"):
        (kind,) = (
            n
            for n in TREES[f"ghostsearch.study.{stage.lower()}"].body
            if isinstance(n, ast.ClassDef) and n.name == stage
        )
        assert ast.unparse(kind.decorator_list[0]) == "dataclass(frozen=True)", stage


def test_what_stands_left_of_the_fits_needs_no_torch():
    early = ORDER[: ORDER.index("fits")]
    assert not [
        n for n, tree in TREES.items() if n.count(".") and n.split(".")[1] in early and "torch" in set(imported(tree))
    ]


def test_functions_stay_narrow():
    wide = [f"{name}.{f.name} ({width(f)})" for name, tree in TREES.items() for f in functions(tree) if width(f) >= 8]
    assert len(wide) <= WIDE_FUNCTIONS, f"group parameters in an Options class: {', '.join(wide)}"


def test_own_imports_stand_at_the_top():
    inside = [
        f"{name}.{f.name}"
        for name, tree in TREES.items()
        for f in functions(tree)
        for n in ast.walk(f)
        if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("ghostsearch")
    ]
    assert len(inside) <= OWN_IMPORTS_INSIDE, f"import at the top: {', '.join(inside)}"


def test_no_command_asks_anything():
    """A search in a terminal ends with its front; what a user may decide is an option."""
    asked = {"input", "prompt", "confirm", "ask"}
    for name, tree in TREES.items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            found = isinstance(call.func, ast.Name) and call.func.id in asked
            found = found or ast.unparse(call.func).startswith(
                ("typer.prompt", "typer.confirm", "click.prompt", "click.confirm", "Prompt.ask", "Confirm.ask")
            )
            assert not found, f"{name}, line {call.lineno}"


def test_no_drawers():
    assert not [name for name in FILES if name.rpartition(".")[2] in ("utils", "helpers", "misc", "common")]


def test_public_classes_and_functions_say_what_they_do():
    silent = [
        f"{name}.{node.name}"
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not silent


def test_parsing_the_command_line_imports_nothing_heavy():
    code = f"import sys, ghostsearch.cli.main; print([m for m in {OFF_AT_HELP!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
