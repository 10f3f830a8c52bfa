"""Numbers as people read them, the terminal table, the Markdown report and the pictures."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from ghostsearch.records import StudyView
from ghostsearch.report.colours import choice_colours
from ghostsearch.report.figures import DARK, LIGHT
from ghostsearch.report.outcome import export_command
from ghostsearch.report.summary import draw_pictures, render_markdown
from ghostsearch.report.tables import front_rows, front_table, measured_rows, vetoed_rows
from ghostsearch.space.choice_text import parse_choice
from ghostsearch.study.candidates import write_candidates
from ghostsearch.units import markdown_table, milliseconds, plain_text, score_text, share_text, with_prefix


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (with_prefix(40_555_000), "40.6 M"),
        (with_prefix(1_814_073_344), "1.81 G"),
        (with_prefix(999), "999"),
        (with_prefix(1_079_208, "B"), "1.08 MB"),
        (with_prefix(None), "–"),
        (milliseconds(0.0021549), "2.15 ms"),
        (milliseconds(0.1234), "123 ms"),
        (milliseconds(2.134e-05), "0.0213 ms"),
        (milliseconds(0.00037), "0.370 ms"),
        (score_text(0.87649, "accuracy"), "87.6 %"),
        (score_text(0.87649, "accuracy", 0.0041), "87.6 ± 0.4 %"),
        (score_text(0.123456, "rmse", 0.0123), "0.1235 ± 0.012"),
        (score_text(0.123456, "rmse"), "0.1235"),
        (share_text(0.614), "61 %"),
        (share_text(0.0614), "6.1 %"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text == expected


def test_front_table_shows_every_model_once_with_its_remark(view: StudyView) -> None:
    header, rows = front_rows(view)
    assert header[:3] == ["model", "validation accuracy", "test accuracy"]
    assert [r[0] for r in rows] == ["baseline", *(d for d in view.front if d != "baseline")]
    aside = view.model_copy(update={"front": view.front[::-1][:2]})
    scores = [float(row[1].split()[0]) for row in front_rows(aside)[1][1:]]
    assert len(scores) >= 3
    assert scores == sorted(scores, reverse=True)
    remarks = {r[0]: r[-1] for r in rows}
    assert remarks[view.chosen].startswith("chosen")
    assert remarks[view.missed[0]].startswith("missed: latency on onnxruntime:cpu")
    screen = io.StringIO()
    Console(file=screen, width=160).print(front_table(view))
    assert all(digest in screen.getvalue() for digest in view.front)


def test_forwards_are_counted_before_five_figures_stand_for_them(view: StudyView) -> None:
    kept = view.finalists[-1].summarised().summarised()
    uncounted = tuple(x.model_copy(update={"runs": None}) for x in kept.latencies)
    for record, told in ((kept, "30 forwards"), (kept.model_copy(update={"latencies": uncounted}), "of forwards")):
        rows = dict(measured_rows(view.model_copy(update={"finalists": (*view.finalists[:-1], record)})))
        assert told in rows["device onnxruntime:cpu"]


def test_names_do_not_become_terminal_markup(view: StudyView) -> None:
    screen = io.StringIO()
    Console(file=screen, width=160).print(front_table(view.model_copy(update={"name": "[red]x[/red]"})))
    assert "[red]x[/red]" in screen.getvalue()


def test_markdown_holds_headline_pictures_and_front(view: StudyView) -> None:
    text = render_markdown(view, ["front.png", "layers.png"])
    for part in ("![Score against cost](front.png)", "![Layers](layers.png)", "**Missed a limit", *view.front):
        assert part in text
    assert "<made up>" not in text
    assert "&lt;made up&gt;" in text


def test_markdown_cells_stay_in_their_cell() -> None:
    assert plain_text("a|b\n*c* `d` [e](f) <g>") == r"a\|b \*c\* \`d\` \[e\](f) &lt;g&gt;"
    lines = markdown_table(["a", "b"], [["x|y", "1"]]).splitlines()
    assert lines == ["| a | b |", "| --- | ---: |", r"| x\|y | 1 |"]


def test_pictures_are_png_of_a_readable_size(view: StudyView, tmp_path) -> None:
    from PIL import Image

    names = draw_pictures(view, tmp_path)
    assert names == ["front.png", "layers.png", "latency.png"]
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"
            assert picture.width >= 1000
            # More than a blank sheet: the drawing itself has many colours.
            assert len(set(picture.convert("RGB").resize((200, 100)).getdata())) > 20


def test_each_choice_has_its_own_colour_and_keep_comes_first() -> None:
    ghosts = ["ghost(ratio=2, kernel=1)", "ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)"]
    ordered = ["keep", *ghosts, "lowrank(rank=0.5)"]
    colours = choice_colours(reversed(ordered))
    assert list(colours) == ordered
    assert len(set(colours.values())) == len(ordered)
    assert [parse_choice(t).look.short for t in colours] == ["", "g2·1", "g2·3", "g4·3", "r0.5"]


KINDS = [
    "keep", "ghost(ratio=2, kernel=3)", "ghost(ratio=3, kernel=3)", "ghost(ratio=4, kernel=3)",
    "ghost(ratio=5, kernel=3)", "ghost(ratio=2, kernel=3, cheap=affine)", "ghost(ratio=2, kernel=3, cheap=wavelet)",
    "lowrank(rank=0.5)", "separable(multiplier=1)", "crop(kernel=1)", "drop", "skip",
]  # fmt: skip


def test_the_colours_of_all_kinds_lie_apart_and_what_is_removed_stands_out_on_white() -> None:
    colours = choice_colours(KINDS)
    for one, other in combinations(map(channels, colours.values()), 2):
        assert np.linalg.norm(one - other) > 0.14
    for text in ("drop", "skip"):
        assert contrast(colours[text], LIGHT["paper"]) >= 3


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_marks_stand_out_on_paper(palette: dict[str, str]) -> None:
    for name in ("ink", "soft", "accent", "warn", "other", "uniform", "ring"):
        assert contrast(palette[name], palette["paper"]) >= 3, name


def channels(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it, from 1 to 21."""
    parts = map(channels, (one, other))
    linear = [np.where(p <= 0.04045, p / 12.92, ((p + 0.055) / 1.055) ** 2.4) for p in parts]
    darker, lighter = sorted(float(p @ [0.2126, 0.7152, 0.0722]) + 0.05 for p in linear)
    return lighter / darker


def test_a_choice_that_failed_in_the_candidate_table_is_named_with_its_reason(view: StudyView, tmp_path) -> None:
    rows = [
        {"kind": "site", "name": "layer1.0.conv1", "choice": "ghost(ratio=2, kernel=3)", "failed": "ValueError: no"},
        {"kind": "site", "name": "layer1.0.conv2", "choice": "ghost(ratio=2, kernel=3)", "failed": ""},
    ]
    write_candidates(tmp_path, pd.DataFrame(rows))
    view = view.model_copy(update={"directory": str(tmp_path)})
    failed = [row for row in vetoed_rows(view) if row["reason"] == "ValueError: no"]
    assert [(row["site"], row["choice"]) for row in failed] == [("layer1.0.conv1", "ghost(ratio=2, kernel=3)")]
    text = render_markdown(view)
    assert "## Choices that failed" in text
    assert "ValueError: no" in text


@pytest.mark.parametrize(
    ("devices", "file"),
    [
        (["onnxruntime:cpu"], "--format onnx"),
        (["onnxruntime:cpu", "onnxruntime:cpu:int8"], "--format onnx --int8"),
        (["executorch:xnnpack:int8"], "--format executorch --int8"),
    ],
)
def test_the_file_to_export_is_in_the_precision_that_was_searched(view, devices, file):
    changed = view.model_copy(update={"config": {**view.config, "device": devices}})
    assert export_command(changed, "0123456789").endswith(f"/models/0123456789 {file}")
