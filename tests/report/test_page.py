"""The page as text: whole, small enough, escaped, and linking only into its own directory."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Int8Model, KeptLayer, Record, Score, StudyView
from ghostsearch.report.compact import ComparedModel, Published, write_compact
from ghostsearch.report.comparison import different_settings, figure_rows, write_comparison
from ghostsearch.report.content import MAX_MODELS_BYTES, menu, model_links, page_content, slider_ends, study_links
from ghostsearch.report.figures import layer_figures
from ghostsearch.report.headline import headline
from ghostsearch.report.outcome import cost_axes, cost_cell, score_cell
from ghostsearch.report.page import render_page, write_report
from ghostsearch.report.summary import render_markdown
from ghostsearch.report.tables import front_rows
from ghostsearch.study.recommendation import BASELINES

DEVICE = "onnxruntime:cpu"
MAX_PAGE_BYTES = 6_000_000
PICTURES = ["front.png", "latency.png", "layers.png"]
HOSTILE = "</script><img src=x onerror=alert(1)>"


def data_of(html: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found.group(1))


def test_writes_page_markdown_and_pictures(view: StudyView, tmp_path: Path) -> None:
    page = write_report(view, tmp_path / "new")
    assert sorted(p.name for p in page.parent.iterdir()) == [*PICTURES, "report.html", "report.md"]
    assert page.stat().st_size < MAX_PAGE_BYTES
    html = page.read_text(encoding="utf-8")
    assert html.count("plotly.js v") == 1
    assert data_of(html)["chosen"] == view.chosen


def test_what_a_search_without_labels_leaves_open_stands_on_page_and_in_markdown(
    view: StudyView, tmp_path: Path
) -> None:
    def unlabelled(record: Record) -> Record:
        share = 1.0 if record.digest == "baseline" else 0.01
        scores = [s.model_copy(update={"metric": "agreement", "value": share}) for s in record.scores]
        return record.model_copy(update={"scores": tuple(scores)})

    changed = {name: tuple(map(unlabelled, getattr(view, name))) for name in ("records", "finalists")}
    found = view.model_copy(update=changed)
    html = render_page(found, tmp_path)
    for text in (html, render_markdown(found)):
        assert "The images have no labels" in text
        assert "hardly usable" in text
    assert 'class="missed"' not in render_page(view.model_copy(update={"missed": ()}), tmp_path)


def test_the_report_of_a_study_whose_trials_are_gone_is_not_written_over(view: StudyView, tmp_path: Path) -> None:
    """A published study: a table of trials, and no storage."""
    (tmp_path / "trials.csv").write_text("number,digest\n0,baseline\n")
    (tmp_path / "report.html").write_text("as it was")
    with pytest.raises(GhostsearchError, match=r"trials.csv has trials whose records are not kept .*keep the report"):
        write_report(view.model_copy(update={"records": ()}), tmp_path)
    assert (tmp_path / "report.html").read_text() == "as it was"
    assert write_report(view, tmp_path).stat().st_size > 1000


def test_no_name_from_outside_becomes_markup(view: StudyView, tmp_path: Path) -> None:
    records = list(view.records)
    records[5] = records[5].model_copy(update={"reason": HOSTILE, "origin": HOSTILE})
    layer = KeptLayer(layer=HOSTILE, snr_db=3.0, latency_ratio=1.1, score=records[0].score())
    hostile = view.model_copy(
        update={
            "name": HOSTILE,
            "config": {**view.config, "model": HOSTILE},
            "environment": {HOSTILE: HOSTILE},
            "notes": (HOSTILE,),
            "records": tuple(records),
            "vetoed": ({"site": HOSTILE, "choice": HOSTILE, "device": HOSTILE, "ratio": 1.5, "interval": None},),
            "audit": ({"predictor": HOSTILE, HOSTILE: 0.5},),
            "int8_layers": (Int8Model(digest=HOSTILE, device=HOSTILE, in_float=(HOSTILE,), noisiest=(layer,)),),
        }
    )
    html = render_page(hostile, tmp_path)
    assert "<img src=x" not in html
    assert html.count("<script") == 3
    assert html.count("</script>") == render_page(view, tmp_path).count("</script>")


def test_links_exist_and_stay_inside(view: StudyView, tmp_path: Path) -> None:
    study = tmp_path / "study"
    model = study / "models" / "0123456789"
    model.mkdir(parents=True)
    (study / "trials.csv").write_text("number\n")
    (tmp_path / "secret.csv").write_text("no")
    (model / "architecture.json").write_text("{}")
    (model / "outside.json").symlink_to(tmp_path / "secret.csv")
    assert [link["name"] for link in study_links(study, "../secret.csv")] == ["trials.csv"]
    assert [link["href"] for link in model_links(study, "0123456789")] == ["models/0123456789/architecture.json"]
    assert model_links(study, "../models/0123456789") == []


def test_thousands_of_trials_stay_small_and_say_what_is_left_out(view: StudyView, tmp_path: Path) -> None:
    base = view.records[20]
    many = tuple(base.model_copy(update={"number": 100 + i, "digest": f"{i:010x}"}) for i in range(4000))
    huge = view.model_copy(update={"records": (*view.records, *many)})
    content = page_content(huge, tmp_path)
    shown = {m["id"] for m in content["models"]}
    assert {*view.front, "baseline"} <= shown
    assert 100 < len(shown) < len(huge.records)
    assert len(json.dumps(content["models"])) < MAX_MODELS_BYTES * 1.1
    assert content["left_out"] == len(huge.records) - len(shown)
    assert len(render_page(huge, tmp_path).encode()) < MAX_PAGE_BYTES


def test_a_score_that_is_no_number_does_not_break_the_page(view: StudyView, tmp_path: Path) -> None:
    broken = Score(metric="accuracy", value=float("nan"), split="validation", epochs=0, images=10, seed=0)
    record = view.records[6].model_copy(update={"scores": (broken,), "state": "failed", "reason": "loss is NaN"})
    html = render_page(view.model_copy(update={"records": (*view.records[:6], record, *view.records[7:])}), tmp_path)
    assert record.digest in {m["id"] for m in data_of(html)["models"]}
    failed = html[html.index('id="failed"') :].partition("</section>")[0]
    assert "loss is NaN" in failed


def test_an_unfinished_study_has_a_page_too(view: StudyView, tmp_path: Path) -> None:
    nothing = dict.fromkeys(("front", "finalists", "missed", "vetoed", "audit"), ())
    young = view.model_copy(update={**nothing, "records": view.records[:1], "chosen": ""})
    html = write_report(young, tmp_path).read_text(encoding="utf-8")
    assert "Only the baseline" in html


def test_the_report_does_not_depend_on_the_working_directory(view: StudyView, tmp_path: Path, monkeypatch) -> None:
    """A preset of the same name elsewhere, or none at all, changes nothing."""
    study = view.model_copy(update={"config": {**view.config, "space": "mine.yaml"}})
    pages = []
    for name, preset in (("here", "width_multiple: 8\nsites: []\n"), ("there", None)):
        (tmp_path / name).mkdir()
        if preset:
            (tmp_path / name / "mine.yaml").write_text(preset)
        monkeypatch.chdir(tmp_path / name)
        pages.append(page_content(study, tmp_path))
    assert pages[0] == pages[1]
    assert any(
        "of 16 channels" in text for trace in pages[0]["strips"]["data"] for text in trace.get("hovertext") or ()
    )


@pytest.mark.parametrize(("limit", "relative", "budget"), [(0.625, True, 62.5), (0.6, True, 60.0), (1.2, False, 80.0)])
def test_the_budget_starts_at_the_limit_as_it_is_judged(
    view: StudyView, tmp_path: Path, limit, relative, budget
) -> None:
    """A limit in seconds is a share of the baseline's first figure, however fast the machine was at the end."""
    first = cost_axes(view)[0].name
    objectives = tuple(
        a.model_copy(update={"limit": limit, "relative": relative, "baseline": 1.5}) if a.name == first else a
        for a in view.objectives
    )
    study = view.model_copy(update={"objectives": objectives})
    assert slider_ends(study, page_content(study, tmp_path))["budget"] == budget


@pytest.mark.parametrize("asked", ["30%", "0.25%", "1%"])
def test_the_drop_that_was_asked_for_is_a_place_of_its_slider(view: StudyView, tmp_path: Path, asked: str) -> None:
    study = view.model_copy(update={"config": {**view.config, "max_drop": asked}})
    ends = slider_ends(study, page_content(study, tmp_path))
    assert ends["asked"] == float(asked.rstrip("%"))
    assert ends["asked"] < ends["drop"]
    assert ends["asked"] / ends["step"] == pytest.approx(round(ends["asked"] / ends["step"]))


def test_the_sliders_line_stands_by_the_baseline_of_the_panel_that_is_shown(view: StudyView, tmp_path: Path) -> None:
    content = page_content(view, tmp_path)
    shown = content["axes"][0]["baseline"]
    assert shown["searched"] == 1e3 * view.records[0].latencies[0].median_s
    assert shown["finished"] == shown["test"] == 1e3 * view.record("baseline").latency(DEVICE).median_s
    assert shown["searched"] != shown["finished"]


@pytest.mark.parametrize("factor", [1.0, 1e-3, 3e4])
def test_the_drop_slider_of_an_error_has_places_for_its_size(view: StudyView, tmp_path: Path, factor: float) -> None:
    def in_error(record: Record) -> Record:
        scores = [s.model_copy(update={"metric": "rmse", "value": factor * (1 - s.value)}) for s in record.scores]
        return record.model_copy(update={"scores": tuple(scores)})

    score = view.objectives[0].model_copy(update={"label": "rmse", "maximize": False})
    changed = {name: tuple(map(in_error, getattr(view, name))) for name in ("records", "finalists")}
    study = view.model_copy(update={**changed, "objectives": (score, *view.objectives[1:])})
    content = page_content(study, tmp_path)
    ends, largest = slider_ends(study, content), max(o["drop"] for o in content["options"])
    assert 50 * (1 - 1e-9) <= largest / ends["step"] <= 500 * (1 + 1e-9)
    assert largest < ends["drop"] <= largest + 2.001 * ends["step"]


def test_a_models_scores_say_after_which_training(view: StudyView, tmp_path: Path) -> None:
    facts = {m["id"]: [name for name, _ in m["facts"]] for m in page_content(view, tmp_path)["models"]}
    assert facts["baseline"][:2] == ["validation", "test"]
    trained = next(r.digest for r in view.finalists if r.digest not in BASELINES)
    assert facts[trained][:3] == [
        "validation, as searched", "validation, after final training", "test, after final training"
    ]  # fmt: skip
    searched = next(r.digest for r in view.records if r.digest not in {x.digest for x in view.finalists})
    assert facts[searched][0] == "validation, as searched"


def test_a_drop_of_one_standard_error_is_kept_by_the_sliders(view: StudyView, tmp_path: Path) -> None:
    """One image of 360 lost: the drop and its standard error are the same number, which rounding must not part."""

    def scored(record: Record, right: np.ndarray) -> Record:
        bits = base64.b64encode(np.packbits(right).tobytes()).decode()
        known = {"right": bits, "images": len(right), "value": float(right.mean())}
        return record.model_copy(update={"scores": tuple(s.model_copy(update=known) for s in record.scores)})

    lost = [scored(r, np.arange(360) >= (r.digest not in BASELINES)) for r in view.finalists]
    options = page_content(view.model_copy(update={"finalists": tuple(lost)}), tmp_path)["options"]
    assert len(options) > 2
    for option in options:
        assert option["drop"] == pytest.approx(100 / 360)
        assert option["drop"] <= option["error"] + 1e-9


def test_before_the_final_training_no_model_is_offered(view: StudyView, tmp_path: Path) -> None:
    """An interrupted search has a front and a choice, but keeps no model that could be exported."""
    assert "Choose within a budget" in render_page(view, tmp_path)
    assert "Choose within a budget" not in render_page(view.model_copy(update={"finalists": ()}), tmp_path)


def test_missed_limits_are_shown_as_missed(view: StudyView, tmp_path: Path) -> None:
    assert view.missed
    html = render_page(view, tmp_path)
    row = html[html.index(f'<tr data-model="{view.missed[0]}">') :].partition("</tr>")[0]
    assert 'missed">missed: latency on onnxruntime:cpu' in row


def test_layer_times_are_those_of_the_study(view: StudyView, tmp_path: Path) -> None:
    ((_, figures),) = data_of(render_page(view, tmp_path))["layers"].items()
    assert set(figures) == {r.digest for r in view.finalists}
    before, _ = figures[view.chosen]["data"]
    assert before["x"] == [site["path"] for site in view.anatomy["sites"]]
    assert before["y"] == pytest.approx([1e6 * site["macs"] / 25e9 for site in view.anatomy["sites"]], rel=1e-4)
    untimed = render_page(view.model_copy(update={"layers": ()}), tmp_path)
    assert 'id="layer-plot"' not in untimed


def test_layers_with_numbers_for_names_have_a_bar_each(view: StudyView) -> None:
    numbered = view.model_copy(update={"layers": tuple(row | {"layer": f"1.{i}"} for i, row in enumerate(view.layers))})
    figure = layer_figures(numbered)[DEVICE][view.chosen]
    assert figure.layout.xaxis.type == "category"
    assert list(figure.data[0].x) == [f"1.{i}" for i in range(len(view.layers))]


def test_compact_networks_stand_on_the_page(view: StudyView, tmp_path: Path) -> None:
    record = view.records[0]
    shares = ({"kind": "conv 1x1", "params_share": 0.4, "macs_share": 0.6},)
    stated = Published(accuracy=0.7, dataset="ImageNet-1K", source="torchvision IMAGENET1K_V1")
    net = ComparedModel(
        name=HOSTILE, size="32×32", cost=record.cost, latency=record.latencies[0], shares=shares, published=stated
    )
    assert 'id="compact"' not in render_page(view, tmp_path)
    write_compact([net], tmp_path)
    html = render_page(view, tmp_path)
    assert "<img src=x" not in html
    assert "not measured here" in html
    (trace,) = (t for t in data_of(html)["front"]["macs"]["test"]["data"] if t.get("yaxis") == "y2")
    assert trace["x"] == [pytest.approx(record.cost.macs / 1e6, rel=1e-4)]


@pytest.mark.parametrize("other", [{"batch": 16}, {"threads": 4}, {"precision": "bfloat16"}, {"device": "torch:cpu"}])
def test_compact_networks_that_were_timed_otherwise_have_no_mark_of_latency(
    view: StudyView, tmp_path: Path, other: dict[str, object]
) -> None:
    record = view.records[0]
    for changed, marked in (({}, True), (other, False)):
        latency = record.latencies[0].model_copy(update=changed)
        write_compact([ComparedModel(name="net", size="32×32", cost=record.cost, latency=latency, shares=())], tmp_path)
        html = render_page(view, tmp_path)
        marks = [t for t in data_of(html)["front"][f"latency_s[{DEVICE}]"]["test"]["data"] if t.get("yaxis") == "y2"]
        assert (bool(marks), "The study was timed otherwise" not in html) == (marked, marked)


def test_comparison_needs_two_studies_that_share_a_cost(view: StudyView, tmp_path: Path) -> None:
    with pytest.raises(GhostsearchError, match="two or more studies"):
        write_comparison([view], tmp_path)
    assert not list(tmp_path.iterdir())


def test_comparison_figures_and_differences(view: StudyView) -> None:
    other = view.model_copy(update={"config": {**view.config, "seed": 7}, "front": view.front[:2]})
    rows = dict(figure_rows([view, other], cost_axes(view)))
    assert rows["models on the front"] == [str(len(view.front)), "2"]
    whole, part = map(float, rows["hypervolume"])
    assert whole > part > 0
    worst = view.records[0].scores[-1].model_copy(update={"value": 0.01})
    trial, int8 = (view.records[20].model_copy(update={"digest": d, "state": "complete", "scores": (worst,)})
                   for d in ("unfinished", "baselineint8"))  # fmt: skip
    more = view.model_copy(update={"records": (*view.records, trial), "finalists": (*view.finalists, int8)})
    assert dict(figure_rows([more, other], cost_axes(view)))["hypervolume"] == rows["hypervolume"]
    assert different_settings([view, other]) == [("run: seed", ["0", "7"])]


def test_a_model_in_words_says_once_that_it_is_chosen(view: StudyView, tmp_path: Path) -> None:
    notes = {m["id"]: m["note"] for m in page_content(view, tmp_path)["models"]}
    assert notes[view.chosen].count("chosen") == 1
    assert not [n for d, n in notes.items() if "chosen" in n and d != view.chosen]


def test_a_failed_trial_is_called_so_with_its_reason_once(view: StudyView, tmp_path: Path) -> None:
    broken = view.records[20].model_copy(update={"state": "failed", "reason": "boom", "scores": ()})
    records = (*view.records[:20], broken, *view.records[21:])
    failed = view.model_copy(update={"records": records, "finalists": (), "front": (), "chosen": ""})
    content = page_content(failed, tmp_path)
    notes = {m["id"]: m["note"] for m in content["models"]}
    assert notes[broken.digest] == f"failed · trial 20 · proposed by {broken.origin} · boom"
    assert broken.digest not in dict(menu(failed, content))


def test_headline_menu_table_and_strips_agree_in_split_and_divisor(view: StudyView, tmp_path: Path) -> None:
    content, record = page_content(view, tmp_path), view.record(view.chosen)
    shown, latency = score_cell(record.score("test")), cost_axes(view)[0]
    assert shown != score_cell(record.score())
    share = cost_cell(record, view.record("baseline"), latency)
    header, rows = front_rows(view)
    row = next(row for row in rows if row[0] == view.chosen)
    assert (row[header.index("test accuracy")], row[header.index(latency.label)]) == (shown, share)
    assert f"{shown} test accuracy" in headline(view)
    assert share in headline(view)
    assert dict(menu(view, content))[view.chosen].endswith(f"chosen, {shown}")
    strips = content["strips"]["layout"]["yaxis"]["ticktext"]
    assert [text for text in strips if text.startswith(view.chosen)] == [f"{view.chosen} ★  {shown}"]


def test_the_baseline_beside_itself_stands_in_the_table_with_its_interval(view: StudyView) -> None:
    header, rows = front_rows(view)
    assert re.search(r"\(a copy 10\d%\s\[98\.\d–101\.\d\]\)", rows[0][header.index("latency on onnxruntime:cpu")])
