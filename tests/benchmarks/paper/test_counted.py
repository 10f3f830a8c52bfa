import pytest
import torch

from benchmarks.paper.counted import (
    cheap_operation_families,
    cifar_families,
    formula_rows,
    ghosted,
    layers,
    printed_only,
    resnet50_family,
    vgg16_family,
)
from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.cifar import vgg16
from ghostsearch.space.choice import Ghost

VGG16 = [
    (15.0, 313), (7.6, 157), (7.7, 158), (7.7, 160), (7.7, 163), (5.2, 107), (4.0, 80), (3.3, 65),
]  # fmt: skip
"""Params in millions and MACs in millions as the paper prints them, in its order."""


def test_vgg16_reproduces_to_the_digit():
    rows = vgg16_family().rows
    counted = [(round(r["params, counted"] / 1e6, 1), r["MACs, counted"] // 10**6) for r in rows]
    assert counted == VGG16
    assert all(r["params agree"] and r["MACs agree"] for r in rows)


def test_ghost_vgg16_is_a_sum_of_products():
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    sides = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    s, d, macs = 3, 5, 512 * 512 + 512 * 10
    for c, n, side in zip(widths[:-1], widths[1:], sides, strict=True):
        m = -(-n // s)
        macs += (m * c * 9 + (s - 1) * m * d * d) * side * side
    example = torch.zeros(1, 3, 32, 32)
    assert measure_cost(ghosted(vgg16(), Ghost(s, d), example, include_first=True), example).macs == macs


def test_what_does_not_reproduce_stays_so():
    resnet50 = {(r["net"], r["d"]): r for r in resnet50_family().rows}
    two = resnet50["Ghost-ResNet-50 (s=2)", 3]
    assert (two["params, counted"], two["params agree"]) == (13_953_512, False)
    assert (two["MACs, counted"], two["MACs agree"]) == (2_151_023_360, True)
    cifar = [r for family in cifar_families() for r in family.rows]
    resnet56 = {(r["net"], r["d"], r["stem"]): r for r in [*cifar, *printed_only(cifar[0])]}
    assert resnet56["Ghost-ResNet-56 (s=2)", 3, "ghosted"]["MACs, counted"] == 65_139_328
    assert not resnet56["Ghost-ResNet-56 (s=2)", 3, "ghosted"]["MACs agree"]
    assert resnet56["Ghost-ResNet-56 (s=2)", 1, "ghosted"]["MACs agree"]
    assert resnet56["AMC-ResNet-56", None, None]["params, counted"] is None


@pytest.mark.parametrize("choice", [Ghost(2, 3), Ghost(4, 5)])
def test_formula_is_what_the_layers_cost(choice):
    every = layers("ghostsearch:resnet20", [choice])
    assert len(every) == 1 + 6 * 3
    for row in (row for layer in every for row in formula_rows(layer)):
        assert row["r_s counted"] == pytest.approx(row["r_s formula"])
        assert row["r_s counted"] == pytest.approx(row["r_s ours (whole maps)"])
        assert row["r_c counted"] == pytest.approx(row["r_s counted"])


def test_layers_stand_as_in_their_network():
    strided = next(x for x in layers("ghostsearch:resnet20", [Ghost(2, 3)]) if x.site.path == "layer2.0.conv1")
    assert strided.example.shape == (1, 16, 32, 32)
    for layer in (strided.conv, *strided.ghosts.values()):
        assert layer(strided.example).shape == (1, 32, 16, 16)


def test_cheap_operations_differ_in_their_few_weights_only():
    rows = {r["choice"]: r for r in cheap_operation_families()[0].rows}
    ghosts = sum((64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)) // 2
    conv, affine, wavelet = (str(Ghost(2, 3, cheap)) for cheap in ("conv", "affine", "wavelet"))
    assert rows[conv]["params"] - rows[wavelet]["params"] == ghosts * (3 * 3 - 1)
    assert rows[conv]["params"] - rows[affine]["params"] == ghosts * (3 * 3 - 2)
    assert rows["keep"]["params"] > rows[conv]["params"]
