"""Docstrings say what is so, as far as names can tell: what is raised, and that parameters, names and options exist.

Any path to any GhostsearchError makes "raises GhostsearchError" true here. Whether it comes for the reason that is
given, and "before anything is written", is not seen: each needs a test of its own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from typer.main import get_command

from ghostsearch.cli.main import app

ROOT = Path(__file__).parents[1] / "ghostsearch"
Function = ast.FunctionDef | ast.AsyncFunctionDef
Trees = Mapping[str, ast.Module]
FOREIGN = {"torchmetrics", "Metric", "a1_in1k", "IMAGENET1K_V1", "finetune", "svg"}
"""Names in docstrings that are of other libraries, of weights or of files."""
COMMAND = get_command(app)
OPTIONS = {"--help", "--address", "--max-"}.union(
    *(p.opts + p.secondary_opts for c in (COMMAND, *COMMAND.commands.values()) for p in c.params)
)
"""Those of all commands, of click and of `ray start`, and the beginning of the limits."""


def trees() -> Trees:
    names = {str(p.relative_to(ROOT.parent).with_suffix("")).replace("/", "."): p for p in sorted(ROOT.rglob("*.py"))}
    return {n.removesuffix(".__init__"): ast.parse(p.read_text(encoding="utf-8")) for n, p in names.items()}


class Code:
    """The functions and classes of some modules, and what each may raise by way of the names in it.

    A name is what the module defines or imports; `self.x` a method of this module, `other.x` a method if only one
    has the name. A method stands for all that override it.
    """

    def __init__(self, modules: Trees) -> None:
        self.modules = modules
        self.found = [item for name, tree in modules.items() for item in self._within(tree, name, None, name)]
        self.top = {(module, d.name): (d, module) for q, d, _, module in self.found if q == f"{module}.{d.name}"}
        self.methods: dict[str, list[tuple[ast.AST, str]]] = {}
        for _, d, owner, module in self.found:
            if owner is not None and isinstance(d, Function):
                self.methods.setdefault(d.name, []).append((d, module))
        self.imported = {
            name: {a.asname or a.name: (x.module, a.name) for x in ast.walk(tree)
                   if isinstance(x, ast.ImportFrom) and x.module for a in x.names}
            for name, tree in modules.items()
        }  # fmt: skip
        self.known: dict[int, tuple[bool, list]] = {}
        self.errors = {"GhostsearchError"}
        for _, d, _, _ in self.found:
            if isinstance(d, ast.ClassDef) and self.errors.intersection(map(ast.unparse, d.bases)):
                self.errors.add(d.name)
        # `raise cannot_write(...)`: what makes an error raises it.
        self.errors |= {d.name for _, d, _, _ in self.found if isinstance(d, Function) and d.returns is not None
                        and ast.unparse(d.returns) in self.errors}  # fmt: skip

    def _within(self, node: ast.AST, prefix: str, owner: ast.ClassDef | None, module: str) -> Iterator[tuple]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function | ast.ClassDef):
                name = f"{prefix}.{child.name}"
                yield name, child, owner, module
                yield from self._within(child, name, child if isinstance(child, ast.ClassDef) else None, module)

    def raised(self, node: ast.AST) -> set[str]:
        made = (
            x.exc.func if isinstance(x.exc, ast.Call) else x.exc for x in ast.walk(node) if isinstance(x, ast.Raise)
        )
        return {ast.unparse(x).rpartition(".")[2] for x in made if x is not None} & self.errors

    def _named(self, node: ast.AST, module: str) -> Iterator[tuple[ast.AST, str]]:
        for x in ast.walk(node):
            if isinstance(x, ast.Name):
                target = self.top.get(self.imported[module].get(x.id, (module, x.id)))
                yield from [target] if target else []
            elif isinstance(x, ast.Attribute):
                own = isinstance(x.value, ast.Name) and x.value.id in ("self", "cls")
                methods = self.methods.get(x.attr, [])
                yield from (m for m in methods if len(methods) == 1 or (own and m[1] == module))

    def may_raise(self, node: ast.AST, owner: ast.ClassDef | None, module: str) -> bool:
        todo = [(node, module), *(self.methods.get(node.name, []) if owner is not None else [])]
        seen = set()
        while todo:
            current, where = todo.pop()
            if id(current) not in seen:
                seen.add(id(current))
                if id(current) not in self.known:
                    self.known[id(current)] = bool(self.raised(current)), list(self._named(current, where))
                raises, named = self.known[id(current)]
                if raises:
                    return True
                todo += named
        return False


def wrong_raises(code: Code) -> Iterator[str]:
    """Errors that are promised and cannot come, and public functions that raise one themselves and do not say so."""
    for name, d, owner, module in code.found:
        words = " ".join((ast.get_docstring(d) or "").split())
        promised = set(re.findall(r"\b[Rr]aises? (\w+)", words)) & code.errors
        if promised and not code.may_raise(d, owner, module):
            yield f"{name} raises no {', '.join(promised)}"
        public = owner is not None or (module, d.name) in code.top
        # The docstrings of commands are their help.
        if not isinstance(d, Function) or not public or "._" in name or ".cli." in name:
            continue
        if code.raised(d) and not re.search(r"raise", words, re.IGNORECASE):
            yield f"{name} does not say that it raises {', '.join(code.raised(d))}"


def wrong_parameters(code: Code) -> Iterator[str]:
    """`name: what it is` at the start of a line or sentence, where there is no such parameter or field."""
    for name, d, _, _ in code.found:
        functions = [f for f in d.body if isinstance(f, Function) and f.name == "__init__"] or [d]
        known = {"x"} if isinstance(d, ast.ClassDef) else set()
        for f in functions:
            if isinstance(f, Function):
                known |= {x.arg for x in ast.walk(f.args) if isinstance(x, ast.arg)}
        known |= {ast.unparse(x.target) for x in d.body if isinstance(x, ast.AnnAssign)}
        for listed in re.findall(
            r"(?:^ *|\. )((?:[a-z_]\w*)(?:, [a-z_]\w*)*): ", ast.get_docstring(d) or "", re.MULTILINE
        ):
            yield from (f"{name} has no {word!r}" for word in listed.split(", ") if word not in known)


def wrong_names(code: Code) -> Iterator[str]:
    """Names between backticks that stand nowhere in the code, and options that no command has."""
    known = FOREIGN | {p.stem for p in (ROOT.parent / "search_spaces").glob("*.yaml")}
    for module, tree in code.modules.items():
        known |= set(module.split("."))
        for x in ast.walk(tree):
            known |= {v for key in ("id", "attr", "arg", "name") if isinstance(v := getattr(x, key, None), str)}
            if isinstance(x, ast.alias):
                known |= set(x.name.split("."))
            if isinstance(x, ast.Constant) and isinstance(x.value, str) and x.value.isidentifier():
                known.add(x.value)
    docstrings = [(n, ast.get_docstring(d) or "") for n, d, _, _ in code.found]
    for name, text in docstrings:
        for quoted in re.findall(r"`([A-Za-z_][\w.]*_[\w.]*|\w+\(\)|[a-z]\w+\.\w+)`", text):
            if not known.issuperset(quoted.removesuffix("()").strip(".").split(".")):
                yield f"{name} names {quoted!r}, which is nowhere"
    for module, tree in code.modules.items():
        texts = [x.value for x in ast.walk(tree) if isinstance(x, ast.Constant) and isinstance(x.value, str)]
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", "\n".join(texts)))
        yield from (f"{module} names {option}, which no command has" for option in named - OPTIONS)


CHECKS = (wrong_raises, wrong_parameters, wrong_names)
CODE = Code(trees())


@pytest.mark.parametrize("check", CHECKS)
def test_docstrings_are_true(check):
    assert not list(check(CODE))


LIES = {
    "an error that nothing raises": """
def f(a):
    'It. Raises GhostsearchError for a bad a.'
    return g(a)
def g(a):
    'It.'
""",
    "an error that is not told": """
class GhostsearchError(Exception):
    'It.'
def f():
    'It.'
    raise GhostsearchError("x")
""",
    "a parameter that is not there": """
def f(images):
    'It. batches: (N, C).'
""",
    "a function that is not there": """
def f():
    'As `measure_everything` does.'
""",
    "an option that is not there": """
def f():
    'Is what --solver asks for.'
""",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(lie):
    code = Code({"ghostsearch.lying": ast.parse(LIES[lie])})
    assert any(list(check(code)) for check in CHECKS)
