"""Each task: its targets in the forms that people give, its score against a reference, its distance from a teacher."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, jaccard_score
from torch import nn

from ghostsearch.errors import GhostsearchError, TrainingError
from ghostsearch.study.scores import score_of
from ghostsearch.training.evaluate import evaluate
from ghostsearch.training.tasks.agreement import Agreement
from ghostsearch.training.tasks.base import per_image, score_value
from ghostsearch.training.tasks.classification import Accuracy, Classification, class_labels
from ghostsearch.training.tasks.table import TASKS, load_task, task_for

LOGITS = {
    "classification": torch.randn(12, 4, generator=torch.Generator().manual_seed(0)),
    "multilabel": torch.randn(12, 4, generator=torch.Generator().manual_seed(0)),
    "segmentation": torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)),
    "regression": torch.randn(12, 2, generator=torch.Generator().manual_seed(0)),
    "restoration": torch.rand(3, 1, 5, 6, generator=torch.Generator().manual_seed(0)),
    "signals": torch.randn(12, 4, generator=torch.Generator().manual_seed(0)),
}


def scored(name, output, target):
    meter = load_task(name).meter()
    half = len(target) // 2
    for part in (slice(None, half), slice(half, None)):
        meter.update(output[part], load_task(name).target(None, target[part]))
    return meter


@pytest.mark.parametrize("name", LOGITS)
def test_the_distance_is_zero_at_the_teacher_and_above_elsewhere(name):
    task, output = load_task(name), LOGITS[name]
    assert float(task.distillation_loss(output, output)) == pytest.approx(0, abs=1e-6)
    assert float(task.distillation_loss(output.flip(0), output)) > 1e-3


@pytest.mark.parametrize("name", LOGITS)
def test_without_labels_the_baseline_agrees_with_itself_and_a_stranger_less(name):
    baseline = nn.Identity()
    task = task_for(name, labelled=False, baseline=baseline)
    own, other = task.meter(), task.meter()
    target = task.target(LOGITS[name], None)
    own.update(LOGITS[name], target)
    other.update(LOGITS[name].flip(0), target)
    better = score_value(own) > score_value(other)
    assert better if task.maximize else score_value(own) < score_value(other)
    assert float(task.loss(LOGITS[name], target)) == pytest.approx(0, abs=1e-6)
    assert float(task.loss(LOGITS[name].flip(0), target)) > 1e-3
    assert task.metric == "agreement" or task.metric.endswith("against the baseline")


@pytest.mark.parametrize("name", TASKS)
def test_labels_are_never_made_up(name):
    with pytest.raises(GhostsearchError, match="have no labels"):
        load_task(name).target(torch.zeros(2, 3, 8, 8), None)


def test_agreement_trains_nothing_of_the_baseline():
    baseline = nn.Linear(4, 3)
    task = task_for("classification", labelled=False, baseline=baseline)
    student = nn.Linear(4, 3)
    x = torch.randn(8, 4)
    task.loss(student(x), task.target(x, None)).backward()
    assert student.weight.grad is not None
    assert all(p.grad is None for p in (*baseline.parameters(), *task.baseline.parameters()))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=4, max_size=30))
def test_accuracies_are_scikit_learns_and_their_errors_the_binomials(pairs):
    said, true = (torch.tensor(v) for v in zip(*pairs, strict=True))
    logits = nn.functional.one_hot(said, 4).float()
    meter, balanced = scored("classification", logits, true), scored("signals", logits, true)
    wanted = pytest.approx(balanced_accuracy_score(true, said))
    assert score_value(balanced) == wanted
    assert balanced.class_counts() == meter.class_counts()
    assert per_image(meter).tolist() == (said == true).tolist()
    p, n = score_value(meter), len(pairs)
    score = score_of(meter, "accuracy", split="test", epochs=0, images=n, seed=0)
    assert score.stderr == pytest.approx((p * (1 - p) / (n - 1)) ** 0.5)


def test_right_answers_are_counted_for_each_class():
    logits = nn.functional.one_hot(torch.tensor([0, 0, 1, 1, 1]), 3).float()
    assert scored("classification", logits, torch.tensor([0, 1, 1, 1, 2])).class_counts() == {
        0: (1, 1),
        1: (2, 3),
        2: (0, 1),
    }


@pytest.mark.parametrize(
    "form",
    [
        lambda y: y.float(), lambda y: y.to(torch.uint8), lambda y: y[:, None], lambda y: nn.functional.one_hot(y, 4),
        lambda y: nn.functional.one_hot(y, 4).float(), lambda y: y.double()[:, None],
    ],
)  # fmt: skip
def test_labels_in_every_usual_form(form):
    labels = torch.tensor([0, 3, 1, 1])
    assert torch.equal(class_labels(form(labels)), labels)


def test_soft_labels_stay_and_are_scored_by_their_largest():
    soft = torch.tensor([[0.7, 0.3], [0.2, 0.8]])
    assert torch.equal(class_labels(soft), soft)
    meter = Accuracy()
    meter.update(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), soft)
    assert score_value(meter) == 0.5
    assert float(Classification().loss(torch.zeros(2, 2), soft)) == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([0.5]), "whole numbers, got 0.5"), (torch.tensor([-1]), "count from 0"),
        (torch.tensor([[1, 1]]), "multilabel"), (["cat"], "got a list"), (torch.zeros(2, 2, 2), r"\(2, 2, 2\)"),
        (torch.zeros(0, 0), r"\(0, 0\)"),
    ],
)  # fmt: skip
def test_what_is_no_label_gets_one_line(labels, said):
    with pytest.raises(GhostsearchError, match=said):
        class_labels(labels)


def test_mean_average_precision_is_scikit_learns():
    marks = (LOGITS["multilabel"].flip(0) > 0.3).long()
    wanted = average_precision_score(marks, LOGITS["multilabel"].sigmoid(), average="macro")
    assert score_value(scored("multilabel", LOGITS["multilabel"], marks)) == pytest.approx(float(wanted), abs=1e-6)


def test_mean_iou_is_scikit_learns_and_leaves_255_out():
    masks = LOGITS["segmentation"].argmax(1).roll(1, 0)
    masks[0, 0, 0] = 255
    said, true = LOGITS["segmentation"].argmax(1).flatten(), masks.flatten()
    wanted = jaccard_score(true[true != 255], said[true != 255], average="macro")
    assert score_value(scored("segmentation", LOGITS["segmentation"], masks[:, None])) == pytest.approx(float(wanted))


def test_regression_is_the_mean_absolute_error():
    meter = scored("regression", torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 4.0, 4.0]))
    assert per_image(meter).tolist() == [0, 2, 1]
    assert score_value(meter) == 1
    with pytest.raises(GhostsearchError, match="gives 2 values per image, the data have 1; add --classes 1"):
        load_task("regression").loss(torch.zeros(3, 2), torch.zeros(3, 1))


def test_psnr_is_ten_times_the_logarithm_of_the_error():
    wanted = torch.zeros(2, 1, 4, 4)
    meter = scored("restoration", torch.stack([torch.full((1, 4, 4), 0.1), torch.zeros(1, 4, 4)]), wanted)
    assert per_image(meter).tolist() == pytest.approx([20, 100])


@pytest.mark.parametrize("name", ["classification", "segmentation", "multilabel", "regression", "restoration"])
def test_a_score_of_nothing_is_an_error(name):
    with pytest.raises(GhostsearchError, match="of no"):
        load_task(name).meter().compute()


def test_an_unknown_task_gets_one_line():
    with pytest.raises(GhostsearchError, match="no task 'classify'; write classification, "):
        load_task("classify")


@pytest.mark.parametrize(
    ("name", "shape", "target"),
    [
        ("classification", (4, 3), torch.zeros(4, dtype=torch.long)),
        ("multilabel", (4, 3), torch.ones(4, 3)),
        ("segmentation", (4, 3, 5, 5), torch.zeros(4, 5, 5, dtype=torch.long)),
    ],
)
def test_outputs_that_are_no_numbers_are_no_answers(name, shape, target):
    with pytest.raises(TrainingError, match="not a number"):
        load_task(name).meter().update(torch.full(shape, float("nan")), target)


def test_a_baseline_that_asks_for_a_view_judges_a_model_that_does_not():
    """The images stand in the judged model's memory order."""
    maps = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    judged = nn.Sequential(*maps, nn.Flatten(), nn.Linear(8 * 64, 5))

    class Viewed(nn.Module):
        def forward(self, x):
            return judged[3](judged[:2](x).view(len(x), -1))

    loader = [(torch.randn(6, 3, 8, 8), torch.zeros(6)) for _ in range(2)]
    assert evaluate(judged, loader, Agreement(Classification(), Viewed())) == 1


@pytest.mark.parametrize("label", [-1, 3])
def test_a_mask_with_a_label_that_is_no_class_is_one_line(label):
    maps, mask = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    mask[1, 2, 2] = label
    task = load_task("segmentation")
    for judge in (task.loss, task.meter().update):
        with pytest.raises(GhostsearchError, match=f"a mask has label {label} with a model of 3 classes"):
            judge(maps, mask)
    mask[1, 2, 2] = 255
    assert task.loss(maps, mask).isfinite()


def test_labels_of_a_confident_network_are_ranked_too():
    logits = torch.tensor([[20.0], [30.0], [18.0], [-2.0]])
    assert score_value(scored("multilabel", logits, torch.tensor([[0], [1], [0], [0]]))) == 1.0
