"""Gradients at cuts: a small change's first-order effect on the loss is the same at every cut behind it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostsearch.graph.flow import find_places, fit_order, trace_graph
from ghostsearch.graph.replay import Replay
from ghostsearch.surgery.sampled_gradients import Cut, EdgeGradients, gauss_newton


class Residual(nn.Module):
    """Two residual blocks and branches that join, so that most cuts are crossed by several values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.d, self.e = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.stem(x)))
        x = x + self.b(torch.tanh(self.a(x)))
        x = x + torch.tanh(self.c(x))
        x = torch.cat([self.d(x), self.e(x)], 1)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Residual().double().eval()
    batches = [torch.randn(3, 3, 6, 6, dtype=torch.float64) for _ in range(2)]
    graph = trace_graph(model)
    return model, graph, find_places(model, graph), batches


def loss(output: Tensor, batch: int) -> Tensor:
    return F.cross_entropy(output, torch.arange(len(output)) + batch, reduction="sum")


def cut_after(net, layers):
    model, graph, places, _ = net
    return Cut(graph, places, layers, ["stem"], dict(model.named_modules()))


@pytest.mark.parametrize("reach", range(7))
def test_every_cut_carries_the_whole_effect_of_a_small_change(net, reach):
    model, graph, places, batches = net
    order = fit_order(places, ["stem"])
    cut = cut_after(net, order[: 1 + reach])
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.stem.weight += 1e-5 * torch.randn(changed.stem.weight.shape, dtype=torch.float64)
    gradients = EdgeGradients(model, graph, batches, cut.edges, loss)
    before, after = Replay(model, graph, batches), Replay(changed, graph, batches)
    for i, x in enumerate(batches):
        effect = sum(
            float((g * (after.get(node)[i] - before.get(node)[i])).sum()) for node, g in gradients.along(cut, i).items()
        )
        exact = float((loss(changed(x), i) - loss(model(x), i)).detach())
        # The gradients are rounded to 8 bits.
        assert effect == pytest.approx(exact, rel=0.02, abs=3e-8)
    assert all(p.requires_grad for p in model.parameters())


def test_the_score_is_zero_without_error_and_grows_with_its_square(net):
    model, graph, _, batches = net
    cut = cut_after(net, ["stem", "a"])
    gradients = EdgeGradients(model, graph, batches, cut.edges, loss)
    along = [gradients.along(cut, i) for i in range(2)]
    errors = [{node: torch.randn_like(g) for node, g in batch.items()} for batch in along]
    once = gauss_newton(errors, along)
    assert once > 0
    assert gauss_newton([{n: 3 * e for n, e in batch.items()} for batch in errors], along) == pytest.approx(9 * once)
    assert gauss_newton([{n: 0 * e for n, e in batch.items()} for batch in errors], along) == 0
