"""Networks that read whole numbers (tokens, events) are fitted like those that read images."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert


class Tokens(nn.Module):
    """x: (N, L) of whole numbers below 50 -> (N, 4)"""

    def __init__(self, conditional):
        super().__init__()
        self.conditional = conditional
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(32, 4)
        self.a, self.b = nn.Conv1d(16, 32, 3, padding=1), nn.Conv1d(32, 32, 3, padding=1)

    def forward(self, x):
        if self.conditional and x.max() > 99:
            x = x - 1
        y = self.embedding(x).transpose(1, 2)
        return self.head(F.relu(self.b(F.relu(self.a(y)))).mean(2))


@pytest.mark.parametrize("choice", ["ghost(ratio=2, kernel=3)", "lowrank(rank=0.5)"])
@pytest.mark.parametrize("conditional", [False, True], ids=["traced", "untraceable"])
def test_tokens(choice, conditional):
    torch.manual_seed(0)
    model, x = Tokens(conditional).eval(), torch.randint(0, 50, (64, 20))
    made = [
        convert(model, Architecture.of({"a": choice}), example=x[:1], calibration=images, distill_steps=steps)
        for images, steps in ((None, 0), ([x], 0), ([x], 2))
    ]
    with torch.no_grad():
        errors = [float((m(x) - model(x)).square().mean()) for m in made]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.5 * errors[0]


def test_an_output_without_gradients_has_no_metric():
    class Classes(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3))

        def forward(self, x):
            return self.body(x).argmax(1)

    torch.manual_seed(0)
    model, x = Classes().eval(), torch.randn(16, 3, 8, 8)
    made = convert(model, Architecture.of({"body.2": "lowrank(rank=0.5)"}), example=x[:1], calibration=[x])
    assert (made(x) == model(x)).float().mean() > 0.3
