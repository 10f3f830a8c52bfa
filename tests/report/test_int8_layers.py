"""Which layer should stay float: what is said of it where, and when."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ghostsearch.records import Int8Model, KeptLayer, Record, Score, StudyView, packed
from ghostsearch.report.headline import sentences
from ghostsearch.report.int8_layers import float_islands, gain, int8_table
from ghostsearch.report.page import render_page
from ghostsearch.report.summary import render_markdown

IMAGES = 400


def scored(right: int) -> Score:
    """So many images right, the first ones."""
    value = right / IMAGES
    answers = packed(np.arange(IMAGES) < right)
    return Score(metric="accuracy", value=value, split="validation", epochs=0, images=IMAGES, seed=0, right=answers)


@pytest.fixture
def study(view: StudyView):
    """A study whose baseline has 300 images right in int8; give it how many are right with each layer in float."""

    def made(*right: int, in_float: tuple[str, ...] = ()) -> StudyView:
        baseline = Record(number=0, digest="baseline", origin="baseline", state="complete", scores=(scored(300),))
        layers = [
            KeptLayer(layer=f"body.{i}", snr_db=12.3, latency_ratio=1.04, ratio_interval=(1.02, 1.06), score=scored(n))
            for i, n in enumerate(right)
        ]
        model = Int8Model(digest="baseline", device="onnxruntime:cpu:int8", in_float=in_float, noisiest=tuple(layers))
        config = {**view.config, "keep_float": ["stem"]}
        return view.model_copy(update={"finalists": (baseline,), "int8_layers": (model,), "config": config})

    return made


def test_a_proven_gain_is_one_sentence_with_the_command(study) -> None:
    assert gain(study(300, 320, 310)) == (
        "Model baseline scores better with body.1 in float: 80.0 ± 2.0 % validation accuracy instead of 75.0 ± 2.2 %, "
        "at 104 % of its int8 latency: ghostsearch export results/mine/models/baseline --int8 --keep-float stem "
        "--keep-float body.1"
    )
    header, rows = int8_table(study(300, 320, 280))
    assert [row[-1] for row in rows] == ["", "better in float", "worse in float"]
    assert rows[0][:4] == ["baseline", "body.0", "12 dB", "104 %\u2009[102.0–106.0]"]
    assert len(header) == len(rows[0])


def test_the_terminal_says_it_after_the_headline(study) -> None:
    assert sentences(study(320))[-1] == gain(study(320))
    assert not any("in float" in text for text in sentences(study(300)))


def test_what_chance_explains_is_no_gain_the_less_so_the_more_layers_were_tried(study) -> None:
    """Six images right and none wrong have p = 0.03: proven for one layer tried, not for two."""
    assert gain(study(306))
    assert gain(study(306, 300)) == ""
    assert gain(study()) == ""


def test_where_the_error_of_a_score_is_not_known_nothing_is_proven(study) -> None:
    shown = study(320)
    bare = {"metric": "mIoU", "right": None, "stderr": None}
    baseline = shown.finalists[0].model_copy(update={"scores": (scored(300).model_copy(update=bare),)})
    layer = shown.int8_layers[0].noisiest[0]
    layer = layer.model_copy(update={"score": layer.score.model_copy(update=bare)})
    model = shown.int8_layers[0].model_copy(update={"noisiest": (layer,)})
    assert gain(shown.model_copy(update={"finalists": (baseline,), "int8_layers": (model,)})) == ""


def test_page_and_markdown_show_the_layers_and_what_is_left_in_float(study, tmp_path: Path) -> None:
    found = study(300, 320, in_float=("<b>.sigmoid (Sigmoid)", "head (Gemm)"))
    html, text = render_page(found, tmp_path), render_markdown(found)
    section = html[html.index('id="int8"') :].partition("</section>")[0]
    for shown in (
        "body.1",
        "12 dB",
        "better in float",
        "--keep-float stem",
        "&lt;b&gt;.sigmoid (Sigmoid), head (Gemm)",
    ):
        assert shown in section
    for shown in ("body.1", "12 dB", "better in float", "baseline: &lt;b&gt;.sigmoid (Sigmoid), head (Gemm)"):
        assert shown in text
    assert float_islands(study()) == [["baseline", "nothing"]]


def test_without_rows_there_is_no_section(study, tmp_path: Path) -> None:
    older = study().model_copy(update={"int8_layers": ()})
    assert 'id="int8"' not in render_page(older, tmp_path)
    assert "Layers in int8" not in render_markdown(older)
    whole = study(in_float=("head (Gemm)",))
    assert "head (Gemm)" in render_page(whole, tmp_path)
    assert "signal-to-noise" not in render_markdown(whole)
