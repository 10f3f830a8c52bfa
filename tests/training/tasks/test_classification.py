"""Losses, scores and outputs of every shape that models have."""

from __future__ import annotations

import sys

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ghostsearch.errors import GhostsearchError
from ghostsearch.training.tasks.base import AUXILIARY_WEIGHT, Task, main_output, split_output
from ghostsearch.training.tasks.classification import Classification
from ghostsearch.training.tasks.table import load_task

LOGITS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 1, 2, 2])


def test_cross_entropy_and_smoothing_are_torchs():
    assert Classification().loss(LOGITS, LABELS) == F.cross_entropy(LOGITS, LABELS)
    smoothed = F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    assert Classification(label_smoothing=0.1).loss(LOGITS, LABELS) == smoothed


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1), min_size=1, max_size=5))
def test_accuracy_over_batches_is_the_share_of_right_answers(batches):
    meter = Classification().meter()
    for batch in batches:
        said, true = (torch.tensor(v) for v in zip(*batch, strict=True))
        meter.update(F.one_hot(said, 4).float(), true)
    pairs = [pair for batch in batches for pair in batch]
    assert meter.compute() == sum(a == b for a, b in pairs) / len(pairs)


def test_accuracy_of_nothing_is_an_error():
    with pytest.raises(GhostsearchError, match="no images"):
        Classification().meter().compute()


def test_distillation_is_zero_at_the_teacher_and_is_hintons():
    task = Classification(temperature=2.0)
    assert float(task.distillation_loss(LOGITS, LOGITS)) == pytest.approx(0, abs=1e-6)
    other = LOGITS.flip(0)
    p, q = F.softmax(other / 2, 1), F.softmax(LOGITS / 2, 1)
    by_hand = 4 * (p * (p / q).log()).sum(1).mean()
    assert float(task.distillation_loss(LOGITS, other)) == pytest.approx(float(by_hand), rel=1e-5)


def test_distilling_any_task_defaults_to_the_squared_error():
    class Regression(Task):
        metric = "mse"

        def loss(self, output, target):
            return F.mse_loss(output, target)

        def meter(self):
            raise NotImplementedError

    assert Regression().distillation_loss(LOGITS, LOGITS + 2) == 4


def test_googlenets_auxiliary_heads_count_in_training():
    net = torchvision.models.googlenet(num_classes=4, init_weights=False, aux_logits=True).train()
    images, labels = torch.randn(2, 3, 64, 64), torch.tensor([0, 3])
    output = net(images)
    main, auxiliary = split_output(output)
    assert len(auxiliary) == 2
    by_hand = sum((AUXILIARY_WEIGHT * F.cross_entropy(a, labels) for a in auxiliary), F.cross_entropy(main, labels))
    torch.testing.assert_close(Classification().loss(output, labels), by_hand)
    assert torch.equal(main_output(net.eval()(images)), net(images))


def test_segmentation_models_output_by_name():
    out, aux = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
    assert split_output({"aux": aux, "out": out}) == (out, (aux,))
    assert split_output({"logits": out}) == (out, ())
    assert split_output({"prediction": out}) == (out, ())
    assert split_output([out, None, aux]) == (out, (aux,))


@pytest.mark.parametrize("output", [None, "text", {}, ()])
def test_an_output_that_cannot_be_read_gets_one_line(output):
    with pytest.raises(GhostsearchError, match="cannot read a model output"):
        split_output(output)


def test_classification_refuses_maps():
    with pytest.raises(GhostsearchError, match=r"logits \(N, classes\)"):
        Classification().loss(torch.zeros(1, 4, 8, 8), LABELS[:1])


@pytest.mark.parametrize("options", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"temperature": 0}])
def test_bad_options_get_one_line(options):
    with pytest.raises(GhostsearchError):
        Classification(**options)


USERS = """
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.tasks.classification import Classification
task = Classification(0.1)
class Own(Classification):
    metric = "own"
class Nameless(Task):
    def loss(self, output, target): ...
    def meter(self): ...
def made(): return Own()
text = "x"
"""


@pytest.fixture
def users_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "users_tasks.py").write_text(USERS)
    yield "users_tasks"
    sys.modules.pop("users_tasks", None)


def test_tasks_by_name(users_module):
    assert isinstance(load_task(), Classification)
    assert load_task("classification").metric == "accuracy"
    assert load_task(f"{users_module}:task").label_smoothing == 0.1
    assert load_task(f"{users_module}:Own").metric == "own"
    assert load_task(f"{users_module}:made").metric == "own"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text", "subclass ghostsearch.training.tasks.base.Task"),
        ("Nameless", "names no metric"),
        ("absent", "has no 'absent'"),
    ],
)
def test_what_is_no_task_gets_one_line(users_module, name, said):
    with pytest.raises(GhostsearchError, match=said):
        load_task(f"{users_module}:{name}")
