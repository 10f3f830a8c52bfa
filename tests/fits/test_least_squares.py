"""Normal equations beside what baseline matrix products and torch's own least squares give."""

import pytest
import torch
from torch import nn

from ghostsearch.fits import least_squares
from ghostsearch.fits.few_rows import FewRows, equations_for
from ghostsearch.fits.least_squares import GRAM_BLOCK, NormalEquations, gram, patches


@pytest.mark.parametrize("features", [1, GRAM_BLOCK - 1, GRAM_BLOCK, 2 * GRAM_BLOCK + 5])
@pytest.mark.parametrize("groups", [1, 3])
def test_half_of_the_products_gives_them_all(features, groups):
    columns = torch.randn(groups, features, 40, generator=torch.Generator().manual_seed(features))
    found = gram(columns)
    torch.testing.assert_close(found, columns @ columns.mT, rtol=1e-5, atol=1e-4)
    assert torch.equal(found, found.mT)


def test_patches_are_what_the_convolution_reads():
    layer = nn.Conv2d(6, 8, 3, stride=2, groups=2, bias=False)
    x = torch.randn(3, 6, 9, 7)
    product = layer.weight.reshape(2, 4, -1) @ patches(x, layer)
    wanted = layer(x).transpose(0, 1).flatten(1).reshape(2, 4, -1)
    torch.testing.assert_close(product, wanted)


@pytest.mark.parametrize("double", [512, 8])
def test_filters_of_a_layer_are_found_again_from_its_outputs(monkeypatch, double):
    monkeypatch.setattr(least_squares, "DOUBLE_FEATURES", double)
    torch.manual_seed(0)
    layer, prior = nn.Conv2d(4, 6, 3), torch.zeros(6, 4, 3, 3)
    equations = NormalEquations(layer)
    for _ in range(2):
        x = torch.randn(8, 4, 7, 7)
        equations.add(x, layer(x).detach())
    weight, offset = equations.solve(prior, 0.0)
    torch.testing.assert_close(weight, layer.weight.detach(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(offset, layer.bias.detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("layer", [nn.Conv2d(6, 5, 3), nn.Conv1d(8, 6, 5, groups=2), nn.Linear(40, 3)])
def test_few_rows_are_solved_alike_by_their_dual(layer, intercept):
    torch.manual_seed(1)
    x = (
        torch.randn(2, 40, 7)
        if isinstance(layer, nn.Linear)
        else torch.randn(2, layer.in_channels, *[6] * (layer.weight.dim() - 2))
    )
    y = torch.randn(2, 3, 7) if isinstance(layer, nn.Linear) else torch.randn_like(layer(x))
    prior = torch.randn_like(layer.weight)
    columns = torch.randn(equations_for(layer, 1, intercept=True).groups, layer.weight[0].numel(), 3)
    found = []
    for rows, kind in ((y[:, 0].numel(), FewRows), (10_000, NormalEquations)):
        equations = equations_for(layer, rows, intercept=intercept)
        assert type(equations) is kind
        for part in (0, 1):
            equations.add(x[part : part + 1], y[part : part + 1])
        first = equations.solve(prior, 1e-2)
        equations.clear_targets()
        for part in (0, 1):
            equations.add(x[part : part + 1], 2 * y[part : part + 1], inputs=False)
        second = equations.solve(prior, 1e-2)
        found.append((*first, *second, equations.explained(prior), equations.inverse_times(columns, 1e-2)))
        found[-1] += (equations.centred().to(prior.dtype),)
    for dual, primal in zip(*found, strict=True):
        torch.testing.assert_close(dual, primal, rtol=1e-3, atol=1e-3)


def test_single_precision_is_enough_where_rows_are_few():
    """A large mean, inputs that nearly repeat each other, more rows than are solved in double precision."""
    torch.manual_seed(2)
    layer = nn.Linear(1500, 4)
    x = torch.randn(1, 40, 900).transpose(1, 2) @ torch.randn(40, 1500) + 5 + 0.05 * torch.randn(1, 900, 1500)
    x, y = x.transpose(1, 2), torch.randn(1, 4, 900)
    single, double = (equations_for(layer, 900, intercept=True) for _ in range(2))
    double.dtype = torch.float64
    found = []
    for equations in (single, double):
        equations.add(x, y)
        weight, offset = equations.solve(layer.weight.detach(), 1e-3)
        found.append(weight @ x[0] + offset[:, None])
    torch.testing.assert_close(*found, rtol=1e-2, atol=1e-2)
