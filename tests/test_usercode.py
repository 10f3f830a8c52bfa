"""Names of the user's own objects."""

from __future__ import annotations

import os
import sys

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.usercode import import_object, is_object_name


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("package.module:function", True), ("module:Class.method", True), ("_m:_f", True), ("digits", False),
        ("folder:/tmp/x", False), ("a:b:c", False), ("1a:b", False), (":b", False), ("a:", False), ("a b:c", False),
        ("../x:y", False), ("", False),
    ],
)  # fmt: skip
def test_form_of_a_name(text, holds):
    assert is_object_name(text) is holds


def test_an_object_is_found_by_name():
    assert import_object("os.path:join", "thing") is os.path.join
    assert import_object("collections:OrderedDict.fromkeys", "thing")("a")


def test_modules_in_the_working_directory_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "users_own_module.py").write_text("answer = 42\n")
    assert import_object("users_own_module:answer", "thing") == 42


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("os:no_such_thing", "has no 'no_such_thing'"),
        ("no_such_module:x", "ModuleNotFoundError"),
        ("nonsense", "does not parse"),
    ],
)
def test_what_is_not_there_gets_one_line(name, said):
    with pytest.raises(GhostsearchError, match=said) as caught:
        import_object(name, "thing")
    assert "thing" in str(caught.value)


def test_a_module_that_raises_is_the_users_to_mend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "users_broken_module.py").write_text("1 / 0\n")
    with pytest.raises(GhostsearchError, match="ZeroDivisionError"):
        import_object("users_broken_module:x", "model")
