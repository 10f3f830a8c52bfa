"""Training side by side changes nothing for any of the models."""

from copy import deepcopy

import torch

from benchmarks.together import Learner, train_together
from ghostsearch.data.sets import ImageSet
from ghostsearch.models.load import load_model
from ghostsearch.training.recipe import Recipe
from ghostsearch.training.tasks.classification import Classification


def test_a_model_trains_beside_others_as_it_trains_alone():
    loaded, draw = load_model("ghostsearch:digits_cnn", seed=0), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=draw)
    images = ImageSet(pixels, torch.arange(24) % 10, loaded.input, shift=1, flips=True)
    recipe = Recipe(epochs=2, batch_size=8, seed=3)

    def trained(rates: list[float]) -> list[dict[str, torch.Tensor]]:
        models = [deepcopy(loaded.module) for _ in rates]
        learners = [Learner(model, rate) for model, rate in zip(models, rates, strict=True)]
        assert train_together(learners, images, recipe, Classification(), loaded.module) == [True] * len(rates)
        return [model.state_dict() for model in models]

    both, first, second = trained([0.05, 0.01]), trained([0.05])[0], trained([0.01])[0]
    for beside, alone in zip(both, (first, second), strict=True):
        assert all(torch.equal(beside[name], alone[name]) for name in alone)
    assert any(not torch.equal(first[name], second[name]) for name in first)
