import json

import pandas as pd
import pytest

from benchmarks.result_page import ResultPage, ResultTable, shown, write_index, write_page
from ghostsearch.errors import GhostsearchError


def make_page(name="page", **changes):
    values = {
        "name": name,
        "title": "A <b>title</b>",
        "claim": "Ghosts | are cheap",
        "figure": "1.96×",
        "command": "ghostsearch paper vgg16",
        "device": "a processor, 2 cores",
        "tables": [
            ResultTable("first", [{"net": "a|b", "params": 1234567, "ratio": 1.23456, "agrees": True, "paper": ""}]),
            ResultTable("second", [{"x": None}]),
        ],
        "seed": 3,
        "notes": ("<script>alert(1)</script>", "of `ghost(a=1, b_c) < 1` and a_b"),
    }
    return ResultPage(**(values | changes))


def test_page_has_tables_and_how_it_was_made(tmp_path):
    paths = write_page(make_page(), tmp_path)
    assert {p.name for p in paths} == {"page.csv", "page_2.csv", "page.md", "page.meta.json"}
    text = (tmp_path / "page.md").read_text()
    assert "| a\\|b | 1,234,567 | 1.235 | yes | – |" in text
    assert "ghostsearch paper vgg16" in text
    assert "Seed 3" in text
    assert "<script>" not in text
    assert "of `ghost(a=1, b_c) < 1` and a\\_b" in text
    assert "<b>" not in text
    assert pd.read_csv(tmp_path / "page.csv").loc[0, "params"] == 1234567


def test_pictures_are_drawn_beside_the_page(tmp_path):
    page = make_page(pictures={"front.svg": lambda path: path.write_text("<svg/>")})
    assert tmp_path / "front.svg" in write_page(page, tmp_path)
    assert "![front.svg](front.svg)" in (tmp_path / "page.md").read_text()


def test_index_has_a_line_a_page(tmp_path):
    write_page(make_page("one"), tmp_path)
    write_page(make_page("two", figure="2.5×"), tmp_path)
    lines = write_index(tmp_path).read_text().splitlines()
    rows = [line for line in lines if line.startswith("| [")]
    assert len(rows) == 2
    assert rows[1].startswith("| [two](two.md) | Ghosts \\| are cheap | 2.5× | `ghostsearch paper vgg16` | ")
    versions = json.loads((tmp_path / "one.meta.json").read_text())["versions"]
    assert "torch" in versions


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_broken_metadata_is_named(tmp_path, content):
    (tmp_path / "bad.meta.json").write_text(content)
    with pytest.raises(GhostsearchError, match=r"bad\.meta\.json: not the metadata"):
        write_index(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), ("", "–"), (False, "no"), (1000, "1,000"), (0.123456, "0.1235"), ("7.7", "7.7")]
)
def test_shown(value, text):
    assert shown(value) == text
