"""Another number of classes, where the outputs come from in execution and not by names or order."""

import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import tensors
from ghostsearch.models.heads import set_classes

X = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.other = nn.Linear(8, 10), nn.Linear(8, 10)
        self.body, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

    def pooled(self, x):
        y = self.body(x)
        return (y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()).mean((2, 3))

    def forward(self, x):
        return self.head(self.pooled(x)).log_softmax(1)


class Averaged(Net):
    def forward(self, x):
        y = self.pooled(x)
        both = self.head(y), self.other(y)
        return both if self.training else sum(both) / 2


class Named(Net):
    """The classifier has two names, of which the forward takes the second."""

    def __init__(self):
        super().__init__()
        self.classifier = self.head
        del self.head
        self.fc, self.head = self.classifier, self.classifier


class Embedding(Net):
    """Gives what the classifier reads, too."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 8)

    def forward(self, x):
        y = self.embed(self.pooled(x))
        return {"embedding": y, "logits": self.head(y)}


class Watched(Net):
    """A probe runs last, and nothing is made of it."""

    def forward(self, x):
        y = super().forward(x)
        self.seen = self.other(self.pooled(x)).detach()
        return y


class Reconstructing(Net):
    def __init__(self):
        super().__init__()
        self.back = nn.Linear(8, 32)

    def forward(self, x):
        y = self.pooled(x)
        return self.head(y), self.back(y)


class Maps(Net):
    """A 3x3 head without bias, enlarged, and an auxiliary one."""

    def __init__(self):
        super().__init__()
        self.head, self.aux = nn.Conv2d(8, 10, 3, bias=False), nn.Conv2d(8, 10, 1)

    def forward(self, x):
        y = self.body(x)
        big = nn.functional.interpolate(self.head(y * self.gate(y).sigmoid()), (8, 8))
        return {"out": big, "aux": nn.functional.interpolate(self.aux(y), (8, 8))} if self.training else big


@pytest.mark.parametrize(
    ("net", "training", "evaluating"),
    [
        (Net, [7], [7]),
        (Averaged, [7, 7], [7]),
        (Named, [7], [7]),
        (Embedding, [8, 7], [8, 7]),
        (Watched, [7], [7]),
        (Reconstructing, [7, 32], [7, 32]),
        (Maps, [7, 7], [7]),
    ],
)
def test_what_the_outputs_come_from_is_adapted(net, training, evaluating):
    made = net()
    gate = made.gate
    set_classes(made, 7, X)
    assert made.gate is gate
    assert [t.shape[1] for t in tensors(made.train()(X))] == training
    assert [t.shape[1] for t in tensors(made.eval()(X))] == evaluating


def test_a_classifier_that_fits_keeps_its_weights():
    made = Net()
    head = made.head
    set_classes(made, 10, X)
    assert made.head is head


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (nn.Sequential(Net(), nn.BatchNorm1d(10)), "once 0.head has 7 outputs .*num_classes"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 10)), r"does not run on \(2, 3, 8, 8\)"),
        (nn.Flatten(), "no linear layer or convolution"),
    ],
)
def test_what_cannot_be_adapted_is_one_line(net, told):
    with pytest.raises(GhostsearchError, match=told):
        set_classes(net, 7, X)


def test_a_model_that_is_its_own_classifier_is_refused():
    with pytest.raises(GhostsearchError, match="single layer"):
        set_classes(nn.Conv2d(3, 10, 3), 7, X)


def test_a_container_that_holds_itself_is_no_trouble():
    made = Net()
    made.registry = {"others": [made.other]}
    made.registry["self"] = made.registry
    set_classes(made, 7, X)
    assert made(X).shape[1] == 7
