import pytest
import timm
import torch

from benchmarks.paper.printed import MILLION, agrees
from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.ghost_module import GhostBottleneck, GhostModule, Row, make_divisible
from ghostsearch.models.ghostnet import ROWS, ghostnet
from ghostsearch.models.load import OWN_MODELS
from ghostsearch.surgery.sites import find_sites

IMAGE = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def randomise(model):
    """Weights and BN statistics that no layer can hide behind."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.1).add_(1.0 if name.endswith("weight") else 0.0)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("ghostnet_050", "ghostnet_050"),
        ("ghostnet_100", "ghostnet"),
        ("ghostnet_130", "ghostnet_130"),
        ("ghostnetv2_100", "ghostnetv2"),
    ],
)
def test_same_names_and_logits_as_the_released_layout(theirs, ours):
    theirs, ours = timm.create_model(theirs, pretrained=False).eval(), OWN_MODELS[ours][0]().eval()
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        expected, logits = theirs(IMAGE), ours(IMAGE)
    assert expected.std() > 0.01
    assert torch.allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_cost_of_ghostnet():
    cost = measure_cost(ghostnet(), IMAGE)
    assert (cost.params, cost.macs) == (5_182_508, 141_150_512)


@pytest.mark.parametrize(
    ("name", "params", "macs", "same"),
    [("ghostnet_050", "2.6", "42", True), ("ghostnet", "5.2", "141", True), ("ghostnet_130", "7.3", "226", False)],
)
def test_presets_beside_the_papers_print(name, params, macs, same):
    """GhostNet 1.3× in the released layout counts 227.0 M, one more than the paper prints."""
    cost = measure_cost(OWN_MODELS[name][0](), IMAGE)
    assert agrees(params, cost.params, MILLION)
    assert agrees(macs, cost.macs, MILLION) is same


@pytest.mark.parametrize(("ratio", "kernel"), [(2, 3), (3, 1), (4, 5), (5, 3)])
@pytest.mark.parametrize("channels", [24, 25])
def test_module_counts_as_its_formula(ratio, kernel, channels):
    module, m = GhostModule(12, channels, 1, ratio, kernel).eval(), -(-channels // ratio)
    cost = measure_cost(module, torch.zeros(1, 12, 6, 6))
    assert module(torch.zeros(1, 12, 6, 6)).shape == (1, channels, 6, 6)
    assert cost.macs == (m * 12 * 1 * 1 + (ratio - 1) * m * kernel * kernel) * 6 * 6


def test_the_ghosts_are_of_the_activated_maps():
    module = GhostModule(3, 8, 1, 2, 3).eval()
    x = torch.randn(2, 3, 5, 5)
    y = module(x)
    intrinsic = torch.relu(module.primary_conv[1](module.primary_conv[0](x)))
    assert torch.equal(y[:, :4], intrinsic)
    assert torch.equal(y[:, 4:], module.cheap_operation(intrinsic))


def make_bottleneck(channels, row):
    project = GhostModule(row.expansion, row.out, relu=False)
    return GhostBottleneck(channels, row, GhostModule(channels, row.expansion), project)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("squeeze", [False, True])
def test_bottleneck_shapes(stride, squeeze):
    block = make_bottleneck(16, Row(0, 5, 48, 24, squeeze, stride))
    y = block(torch.randn(2, 16, 8, 8))
    assert y.shape == (2, 24, 8 // stride, 8 // stride)
    assert y.min() < 0, "the projecting module has no ReLU"


def test_identity_shortcut_where_shapes_allow():
    assert len(make_bottleneck(24, Row(0, 3, 72, 24, False, 1)).shortcut) == 0


@pytest.mark.parametrize("field", ["ratios", "kernels", "expansions", "squeezes"])
def test_lists_change_only_their_bottleneck(field):
    default = {"ratios": 2, "kernels": 3, "expansions": 1.0, "squeezes": False}[field]
    other = {"ratios": 4, "kernels": 5, "expansions": 0.5, "squeezes": True}[field]
    values = [default] * len(ROWS)
    values[7] = other
    baseline = {k: v.shape for k, v in ghostnet(10, **{field: default}).state_dict().items()}
    changed = {k: v.shape for k, v in ghostnet(10, **{field: values}).state_dict().items()}
    different = {k for k in baseline.keys() | changed.keys() if baseline.get(k) != changed.get(k)}
    assert different
    assert all(k.startswith("blocks.6.1.") for k in different), different


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ratios": [2, 2]}, "ratios takes one value or 16"),
        ({"ratios": 1}, "ratio must be a whole number of at least 2"),
        ({"kernels": 4}, "kernel must be an odd whole number"),
        ({"width": 0}, "above 0"),
        ({"expansions": -1.0}, "above 0"),
    ],
)
def test_bad_lists_are_refused(options, told):
    with pytest.raises(GhostsearchError, match=told):
        ghostnet(**options)


def test_small_images():
    assert OWN_MODELS["ghostnet_cifar"][0]()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_its_convolutions_are_sites():
    """GhostNet is a network like any other: its 1×1 and depthwise convolutions are told apart."""
    anatomy = find_sites(ghostnet(stem_stride=1).eval(), torch.randn(1, 3, 32, 32))
    assert "blocks.6.3.ghost1.primary_conv.0" in {s.path for s in anatomy.sites}
    assert "blocks.6.3.ghost1.cheap_operation.0" in {s.path for s in anatomy.skipped}


@pytest.mark.parametrize(("channels", "expected"), [(1, 4), (16, 16), (18, 20), (20.8, 20), (5, 8)])
def test_make_divisible(channels, expected):
    assert make_divisible(channels) == expected
