from pathlib import Path

import pytest

from benchmarks.result_page import ResultTable, write_index, write_page
from benchmarks.scoreboard import PAGES, scoreboard, verdict
from tests.benchmarks.test_result_page import make_page

RESULTS = Path(__file__).parents[2] / "results"
LEADS = [
    {"at": "half of the MACs", "epochs": 3, "ours": "we", "best rival": "they", "points ahead": -1.5,
     "standard error": 0.5, "separable": "yes"},
    {"at": "half of the MACs", "epochs": 10, "ours": "we", "best rival": "they", "points ahead": 0.9,
     "standard error": 0.5, "separable": "no"},
]  # fmt: skip
ACCURACIES = [
    {"tool": "we", "3 epochs": 80.0, "10 epochs": 86.4},
    {"tool": "they", "3 epochs": 81.5, "10 epochs": 85.5},
]


@pytest.mark.parametrize(
    ("ahead", "error", "text"),
    [(1.1, 0.5, "+1.1 points"), (-1.1, 0.5, "-1.1 points"), (0.9, 0.5, "+0.9, not separable")],
)
def test_a_lead_needs_two_standard_errors(ahead, error, text):
    assert verdict(ahead, error) == text


def test_losses_stand_beside_wins(tmp_path):
    page = make_page("long_training_toy", tables=[ResultTable("leads", LEADS), ResultTable("accuracy", ACCURACIES)])
    write_page(page, tmp_path)
    link = "[long_training_toy](long_training_toy.md) |"
    assert scoreboard(tmp_path)[-3:-1] == [
        f"| toy | half of the MACs, 3 epochs | test accuracy % | 80 we | 81.5 they | -1.5 points | {link}",
        f"| toy | half of the MACs, 10 epochs | test accuracy % | 86.4 we | 85.5 they | +0.9, not separable | {link}",
    ]
    text = write_index(tmp_path).read_text()
    assert text.index("## Scoreboard") < text.index("not separable") < text.index("## Every page")


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
