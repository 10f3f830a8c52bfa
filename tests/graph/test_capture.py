"""Copies and forwards that leave the model alone."""

import copy

import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import batch_size, call, copied, forward_copy, light_copy, meta_copy, moved, tensors
from ghostsearch.measure.cost import count_operators


class Recorder(nn.Module):
    def forward(self, *args, **kwargs):
        return args, kwargs


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (1, ((1,), {})),
        ((1, 2), ((1, 2), {})),
        ({"x": 1}, ((), {"x": 1})),
        ([1, 2], (([1, 2],), {})),
    ],
)
def test_how_an_example_becomes_arguments(example, expected):
    assert call(Recorder(), example) == expected


@pytest.mark.parametrize(
    ("example", "images"),
    [
        (torch.zeros(3, 1, 4, 4), 3),
        ((torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)), 2),
        ([torch.zeros(3, 8, 8)], 1),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 6, 6)], 2),
        ({"x": torch.zeros(5, 3, 8)}, 5),
    ],
)
def test_images_in_an_example(example, images):
    assert batch_size(example) == images


def test_tensors_and_moving_go_through_every_nesting():
    nested = {"a": [torch.zeros(1), (torch.ones(2), "text")], "b": 3}
    assert [t.numel() for t in tensors(nested)] == [1, 2]
    there = moved(nested, "meta")
    assert all(t.is_meta for t in tensors(there))
    assert there["a"][1][1] == "text"


def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    net[2].weight.requires_grad_(False)
    return net


def test_a_meta_copy_has_the_structure_and_no_data():
    net = model()
    there = meta_copy(net)
    assert all(t.is_meta for t in (*there.parameters(), *there.buffers()))
    assert {k: v.shape for k, v in there.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    assert [p.requires_grad for p in there.parameters()] == [p.requires_grad for p in net.parameters()]
    assert not any(t.is_meta for t in (*net.parameters(), *net.buffers()))


def test_a_light_copy_shares_data_but_not_structure():
    net = model()
    light = light_copy(net)
    light[0].weight = nn.Parameter(torch.zeros(1))
    assert net[0].weight.shape == (4, 3, 3, 3)
    assert light[2].weight.data_ptr() == net[2].weight.data_ptr()


def test_computed_weights_of_old_style_hooks_are_copied():
    net = model()
    nn.utils.weight_norm(net[0])
    net(torch.zeros(1, 3, 8, 8))
    with pytest.raises(RuntimeError):
        copy.deepcopy(net)
    x = torch.randn(1, 3, 8, 8)
    net.eval()
    assert torch.equal(copied(net)(x), net(x))
    assert meta_copy(net)(x.to("meta")).shape == (1, 4, 4, 4)


def test_what_cannot_be_copied_is_named():
    net = model()
    net.lock = (i for i in range(3))
    with pytest.raises(GhostsearchError, match="cannot be copied"):
        copied(net)


def test_a_forward_is_tried_on_meta_then_on_the_cpu():
    seen = []

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            seen.append(x.device.type)
            return x if x.sum() > 0 else -x

    forward_copy(Branching(), torch.ones(1, 2), lambda _: None)
    assert seen == ["meta", "cpu"]


class TwoInputs(nn.Module):
    def forward(self, image, depth):
        return image + depth


@pytest.mark.parametrize(
    ("net", "way_out"),
    [
        (nn.Conv2d(3, 4, 3).half(), r"parameters are float16: .* model\.float\(\)"),
        (nn.Conv2d(3, 4, 3).double(), r"parameters are float64: .* model\.float\(\)"),
        (TwoInputs(), "several inputs needs an example"),
        (nn.Conv2d(5, 4, 3), r"channels instead\)$"),
    ],
)
@pytest.mark.parametrize("run", [lambda *given: forward_copy(*given, lambda _: None), count_operators])
def test_a_forward_that_fails_names_the_way_out(net, way_out, run):
    with pytest.raises(GhostsearchError, match=way_out) as caught:
        run(net, torch.zeros(1, 3, 8, 8))
    assert "\n" not in str(caught.value)


def test_a_model_without_data_is_only_tried_on_meta():
    with torch.device("meta"):
        net = nn.Conv2d(3, 4, 3)
    with pytest.raises(GhostsearchError, match="fails on the example"):
        forward_copy(net, torch.zeros(1, 5, 8, 8), lambda _: None)
