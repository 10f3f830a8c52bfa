"""The table of classes: losses first, shares and errors from the counts, on the page and in report.md."""

import pytest

from ghostsearch.records import Score
from ghostsearch.report.classes import SHOWN, class_table
from ghostsearch.report.page import render_page
from ghostsearch.report.summary import render_markdown
from ghostsearch.study.scores import score_of
from ghostsearch.training.tasks.classification import Accuracy


def with_counts(view, baseline, chosen):
    """The study with counts of each class in the test scores of the baselines and the chosen model."""

    def counted(record):
        counts = chosen if record.digest == view.chosen else baseline if record.architecture.is_baseline else {}
        scores = tuple(s.model_copy(update={"by_class": counts}) if s.split == "test" else s for s in record.scores)
        return record.model_copy(update={"scores": scores})

    return view.model_copy(update={"finalists": tuple(map(counted, view.finalists))})


def test_the_largest_loss_comes_first_with_its_error(view, tmp_path):
    seen = with_counts(
        view, {"cat": (90, 100), "dog": (8, 10), "<b>": (5, 10)}, {"cat": (91, 100), "dog": (4, 10), "<b>": (5, 10)}
    )
    table = class_table(seen)
    assert table.rows[0][:4] == ("dog", "10", "80.0 %", "40.0 %")
    p, q = 9 / 12, 5 / 12
    assert table.rows[0][4] == f"-40.0 ± {100 * ((p * (1 - p) + q * (1 - q)) / 10) ** 0.5:.1f} points"
    assert table.rows[-1][0] == "cat"
    assert "Balanced accuracy: 60.3 %, baseline 73.3 %. 1 of 3 classes lose, 1 gain" in table.note
    assert "Change on each class" in render_markdown(seen)
    page = render_page(seen, tmp_path)
    assert "Change on each class" in page
    assert "&lt;b&gt;" in page


def test_of_many_classes_those_that_lose_most_are_shown(view):
    many = {f"c{i}": (9, 10) for i in range(50)}
    worse = many | {f"c{i}": (i // 5, 10) for i in range(20, 45)}
    table = class_table(with_counts(view, many, worse))
    assert len(table.rows) == SHOWN
    assert table.rows[0][0] == "c20"
    assert "the largest losses are shown" in table.note


def test_without_counts_there_is_no_table(view):
    assert class_table(view) is None
    assert "Change on each class" not in render_markdown(view)


@pytest.mark.parametrize(("split", "counts"), [("test", {"cat": (1, 2), "1": (1, 1)}), ("validation", {})])
def test_counts_are_kept_of_the_test_split_by_name(split, counts):
    import torch

    meter = Accuracy()
    meter.update(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 0, 1]))
    score = score_of(meter, "accuracy", split=split, epochs=0, images=3, seed=0, classes=("cat",))
    assert score.by_class == counts
    assert Score.model_validate_json(score.model_dump_json()) == score
