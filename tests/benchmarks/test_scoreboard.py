from pathlib import Path

import pytest

from benchmarks.comparison import verdict
from benchmarks.result_page import ResultTable, write_index, write_page
from benchmarks.scoreboard import PAGES, scoreboard
from tests.benchmarks.test_result_page import make_page

RESULTS = Path(__file__).parents[2] / "results"
LEADS = [
    {"at": "half of the MACs", "epochs": 1, "ours": "we", "best rival": "they", "points ahead": -1.5,
     "standard error": 0.5, "separable": "yes", "seeds": 1, "images an epoch": 45_000,
     "ours %": 80.0, "best rival %": 81.5},
    {"at": "half of the MACs", "epochs": 10, "ours": "we", "best rival": "they", "points ahead": 0.9,
     "standard error": 0.5, "separable": "no", "seeds": 3, "images an epoch": 45_000,
     "ours %": 86.4, "best rival %": 85.5},
]  # fmt: skip


@pytest.mark.parametrize(
    ("ahead", "error", "text"),
    [(1.1, 0.5, "+1.1 points"), (-1.1, 0.5, "-1.1 points"), (0.9, 0.5, "+0.9, not separable")],
)
def test_a_lead_needs_two_standard_errors(ahead, error, text):
    assert verdict(ahead, error) == text


def test_losses_stand_beside_wins(tmp_path):
    models = [
        {"tool": name, "1 epoch": one, "10 epochs": ten}
        for name, one, ten in (("we", "", 86.4), ("baseline", "", 88), ("uniform width", 80, ""), ("L1", 82, ""))
    ]
    page = make_page("long_training_toy", tables=[ResultTable("leads", LEADS), ResultTable("at half", models)])
    write_page(page, tmp_path)
    half, link = "| toy | half of the MACs", "[long_training_toy](long_training_toy.md) |"
    assert scoreboard(tmp_path)[-5:-3] == [
        f"{half}, 1 epoch of 45,000 images, one seed | test accuracy % | 80 we | 81.5 they | -1.5 points in one seed "
        f"| {link}",
        f"{half}, 10 epochs of 45,000 images, 3 seeds | test accuracy % | 86.4 we | 85.5 they | +0.9, not separable "
        f"| {link}",
    ]
    assert scoreboard(tmp_path)[-3:-1] == [
        f"{half}, equal widths, 1 epoch of 45,000 images, one seed | test accuracy % "
        f"| 80 our own uniform width, fitted | 82 L1 | -2.0 points in one seed | {link}",
        f"{half}, baseline trained as long, 10 epochs of 45,000 images, 3 seeds | test accuracy % | 86.4 we "
        f"| 88 baseline | -1.6 points | {link}",
    ]
    text = write_index(tmp_path).read_text()
    assert text.index("## Scoreboard") < text.index("not separable") < text.index("## Every page")


@pytest.mark.parametrize(("error", "text"), [(0.002, "in 5 of 5 seeds, +0.0050 ± 0.0020"),
                                             (0.003, "in 5 of 5 seeds, +0.0050 ± 0.0030, not separable")])  # fmt: skip
def test_a_search_leads_where_its_seeds_say_so(tmp_path, error, text):
    volumes = [{"variant": name, "after 8 trials": value} for name, value in
               (("table", 0.9), ("solver only", 0.895), ("tpe, no seeds", 0.7))]  # fmt: skip
    duels = [{"against": name, "after 8 trials": "5 of 5", "lead in the mean": 0.005, "standard error": error}
             for name in ("solver only", "tpe, no seeds")]  # fmt: skip
    tables = [ResultTable(str(i), rows) for i, rows in enumerate((volumes, volumes, duels, duels))]
    write_page(make_page("search_ablation_toy", tables=tables), tmp_path)
    lines = scoreboard(tmp_path)
    assert len([line for line in lines if "| toy |" in line]) == 4
    assert any(f"| 0.895 solver only | {text} |" in line for line in lines)


def test_int8_alone_is_compared_where_it_is_faster_and_better(tmp_path):
    def row(tool, budget, macs, accuracy, time, int8, int8_time):
        return {
            "tool": tool, "budget": budget, "weights": "", "MACs %": macs, "top-1 % as given": accuracy,
            "top-1 % reset": accuracy, "int8 top-1 % as given": int8, "int8 top-1 % reset": int8,
            "float time": f"{time} [0.1, 1.0]", "int8 time": f"{int8_time} [0.1, 1.0]", "float MB": 1.0,
        }  # fmt: skip

    rows = [
        row("baseline", 100, 100, 90, 1.0, 89, 0.4), row("ours, solver's mix", 50, 50, 85, 0.7, 84, 0.5),
        row("FastNAS", 50, 50, 70, 0.6, 69, 0.3),
    ]  # fmt: skip
    write_page(make_page("label_free_rivals_toy", tables=[ResultTable("rows", rows)]), tmp_path)
    lines = [line.split(" | ")[1:6] for line in scoreboard(tmp_path) if "| toy |" in line]
    assert ["0.700 of the time, no label", "top-1 %", "85", "75.0 others, between models", "+10.0 points"] in lines
    assert ["int8, 50 % of the MACs, 0.500 of the float time", "top-1 %", "84", "89 int8 alone, at 0.400",
            "-5.0 points"] in lines  # fmt: skip
    # Above the mix to the baseline's cost, and of the rival; the baseline's own corner has no width.
    assert ["0.50 to 1 of the MACs, all models, no label", "hypervolume, test images", "0.850",
            "0.700 the other tools together", "+0.150"] in lines  # fmt: skip


@pytest.mark.parametrize("variants", [["table"], ["solver only"], ["table", "tpe, no seeds"]])
def test_what_a_small_run_left_out_is_not_compared(tmp_path, variants):
    volumes = [{"variant": name, "after 8 trials": 0.9} for name in variants]
    duels = [{"against": name, "after 8 trials": "0 of 1"} for name in variants[1:]]
    tables = [ResultTable(str(i), rows) for i, rows in enumerate((volumes, volumes, *([duels] * 2 if duels else [])))]
    write_page(make_page("search_ablation_toy", tables=tables), tmp_path)
    assert len([line for line in scoreboard(tmp_path) if "| toy |" in line]) == 2 * len(duels)


def test_of_a_stopped_tool_no_more_is_told_than_is_known(tmp_path):
    found = (("ghostsearch", 10.0, 70), ("ghostsearch", 50.0, 50), ("rival", 30.0, ""))
    rows = [
        {"network": "toy", "tool": tool, "model": "", "CPU s so far": seconds, "MACs %": share, "top-1 %": ""}
        for tool, seconds, share in found
    ]
    write_page(make_page("tool_speed_toy", tables=[ResultTable("rows", rows)]), tmp_path)
    (line,) = [line for line in scoreboard(tmp_path) if "| toy (random weights) |" in line]
    assert "a first model | CPU seconds | 10 | more than 30 rival | more than 3.0 times as fast |" in line


def test_the_published_pages_have_their_rows():
    lines = scoreboard(RESULTS)
    pages = [path.stem for pattern in PAGES for path in RESULTS.glob(f"{pattern}.md")]
    assert len(pages) > 5
    assert not [page for page in pages if not any(f"({page}.md)" in line for line in lines)]
    assert "\n".join(lines) in (RESULTS / "README.md").read_text()


def test_no_comparison_no_scoreboard(tmp_path):
    write_page(make_page(), tmp_path)
    assert scoreboard(tmp_path) == []
    assert "Scoreboard" not in write_index(tmp_path).read_text()


def test_a_fitted_start_is_compared_with_others_of_its_structure(tmp_path):
    found = (("mix, fitted", 87.2), ("mix, copied", 86.0), ("width, fitted", 83.0), ("width, L1", 85.0))
    rows = [{"start": start, "epochs": 1, "test %": score, "images": 45_000} for start, score in found]
    write_page(make_page("start_rates_toy", tables=[ResultTable("starts", rows)]), tmp_path)
    lines = [line.split(" | ")[1:6] for line in scoreboard(tmp_path) if "| toy |" in line]
    length = "1 epoch of 45,000 images, one seed"
    assert lines == [
        [f"half of the MACs, mix, {length}", "test accuracy %", "87.2 fitted", "86 copied", "+1.2 points in one seed"],
        [f"half of the MACs, width, {length}", "test accuracy %", "83 fitted", "85 L1", "-2.0 points in one seed"],
    ]
