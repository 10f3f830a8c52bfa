"""A loader's batches as a model's inputs: every form that people calibrate with, and what is none."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.batches import image_batches
from ghostsearch.graph.capture import tensors
from ghostsearch.measure.inputs import batched

X, Y = torch.rand(4, 3, 8, 8), torch.arange(4)
DEPTH = torch.rand(4, 1, 8, 8)


class Pair(NamedTuple):
    image: torch.Tensor
    depth: torch.Tensor


@pytest.mark.parametrize(
    "loader",
    [
        X, [X], [X.numpy()], [(X, Y)], [(X, Y, "more")], [[X, Y]], [(X.numpy(), Y)], [{"image": X, "label": Y}],
        TensorDataset(X, Y), DataLoader(TensorDataset(X, Y), 4), np.asarray(X),
    ],
)  # fmt: skip
def test_one_input(loader):
    (images,) = image_batches(loader, X[:1])
    assert torch.equal(images, X)


@pytest.mark.parametrize(
    "loader",
    [
        [(X, DEPTH)], [((X, DEPTH), Y)], [(X, DEPTH, Y)], [[[X, DEPTH], Y]], [Pair(X, DEPTH)],
        DataLoader(TensorDataset(X, DEPTH), 4), DataLoader(TensorDataset(X, DEPTH, Y), 4),
    ],
)  # fmt: skip
def test_two_inputs_by_position(loader):
    (images,) = image_batches(loader, (X[:1], DEPTH[:1]))
    assert isinstance(images, tuple)
    assert all(torch.equal(a, b) for a, b in zip(images, (X, DEPTH), strict=True))


@pytest.mark.parametrize(
    "batch", [{"depth": DEPTH, "left": X}, {"depth": DEPTH, "left": X, "label": Y}, ({"left": X, "depth": DEPTH}, Y)]
)
def test_two_inputs_by_name(batch):
    (images,) = image_batches([batch], {"left": X[:1], "depth": DEPTH[:1]})
    assert set(images) == {"left", "depth"}
    assert images["left"] is X


@pytest.mark.parametrize("target", [(), (Y,)])
@pytest.mark.parametrize("kind", [list, tuple])
def test_maps_of_several_sizes_in_a_list(kind, target):
    small = X[:, :, ::2, ::2]
    example, inputs = (kind([X[:1], small[:1]]), DEPTH[:1]), (kind([X, small]), DEPTH)
    for batch in ((*inputs, *target), (inputs, *target) if target else inputs):
        (images,) = image_batches([batch], example)
        assert isinstance(images, tuple)
        assert isinstance(images[0], kind)
        assert [t.shape for t in tensors(images)] == [X.shape, small.shape, DEPTH.shape]
    assert [t.shape for t in tensors(batched(example, 2))] == [t[:2].shape for t in tensors(inputs)]


@pytest.mark.parametrize("batch", [[X, DEPTH], ([X, DEPTH], Y), [[X, DEPTH], Y]])
def test_a_list_of_batches_is_no_list_of_images(batch):
    example = [X[:1], DEPTH[:1]]
    (inputs,) = image_batches([batch], example)
    assert isinstance(inputs, list)
    assert torch.equal(inputs[0], X)
    assert torch.equal(inputs[1], DEPTH)
    assert [t.shape for t in batched(example, 2)] == [X[:2].shape, DEPTH[:2].shape]


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ((X * 255).byte(), r"uint8; the example is \(1, 3, 8, 8\) float32: .* normalised"),
        (DEPTH, r"\(4, 1, 8, 8\) float32; the example is \(1, 3, 8, 8\)"),
        (X[0], r"\(3, 8, 8\)"),
        (X / 0 * 0, "not finite"),
        ({"picture": "a.png"}, "of type dict; the model takes 1"),
        (["a.png"], "of type str"),
    ],
)
def test_what_is_not_like_the_example_is_refused(batch, told):
    with pytest.raises(GhostsearchError, match=told) as caught:
        list(image_batches([batch], X[:1]))
    assert "\n" not in str(caught.value)


def test_a_list_of_volumes_is_a_list_of_images():
    volume = torch.rand(2, 6, 6, 6)
    assert len(batched([volume], 3)) == 3
    (inputs,) = image_batches([([volume, volume, volume], [{}, {}, {}])], [volume, volume])
    assert len(inputs) == 3


@pytest.mark.parametrize("batch", [({"a": X, "b": DEPTH, "c": Y}, Y), {"a": X, "b": DEPTH, "c": Y}])
def test_inputs_by_name_stand_among_others(batch):
    (inputs,) = image_batches([batch], {"a": X[:1], "b": DEPTH[:1]})
    assert set(inputs) == {"a", "b"}


def test_arrays_are_taken_for_several_inputs():
    (inputs,) = image_batches([(X.numpy(), DEPTH.numpy(), Y)], (X[:1], DEPTH[:1]))
    assert torch.equal(inputs[0], X)
    assert torch.equal(inputs[1], DEPTH)
