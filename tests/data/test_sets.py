"""Batches from memory: normalising, shifting, mirroring, seeds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ghostsearch.data.sets import ImageSet, flipped, shifted
from ghostsearch.models.input import InputSpec

IMAGES = torch.randint(0, 256, (6, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SPEC = InputSpec((9, 7), 3, MEAN, STD)


def test_batches_are_normalised_per_channel():
    x, y = ImageSet(IMAGES, LABELS, SPEC).__getitems__([4, 1])
    wanted = (IMAGES[[4, 1]] / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    torch.testing.assert_close(x, wanted)
    assert y.tolist() == [4, 1]


def test_one_image_is_its_place_in_a_batch():
    images = ImageSet(IMAGES, LABELS, SPEC)
    assert torch.equal(images[3][0], images.__getitems__([2, 3])[0][1])
    assert len(images) == 6


@given(most=st.integers(1, 4), seed=st.integers(0, 1000))
def test_a_shift_is_a_window_of_the_padded_image(most, seed):
    torch.manual_seed(seed)
    moved = shifted(IMAGES, most)
    padded = torch.nn.functional.pad(IMAGES, (most,) * 4)
    assert moved.shape == IMAGES.shape
    for one, whole in zip(moved, padded, strict=True):
        places = [
            torch.equal(one, whole[:, top : top + 9, left : left + 7])
            for top in range(2 * most + 1)
            for left in range(2 * most + 1)
        ]
        assert any(places)


def test_shifts_differ_between_images_and_cover_all_ways():
    torch.manual_seed(0)
    point = torch.zeros(400, 1, 5, 5, dtype=torch.uint8)
    point[:, :, 2, 2] = 1
    places = {tuple(p[0].nonzero()[0].tolist()) for p in shifted(point, 1)}
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


def test_half_of_the_images_are_mirrored():
    torch.manual_seed(0)
    many = IMAGES[:1].repeat(400, 1, 1, 1)
    mirrored = sum(torch.equal(x, IMAGES[0].flip(-1)) for x in flipped(many))
    kept = sum(torch.equal(x, IMAGES[0]) for x in flipped(many))
    assert 150 < mirrored < 250
    assert kept > 150


@pytest.mark.parametrize(("shift", "flips"), [(2, False), (0, True)])
def test_augmentation_follows_the_seed_and_baseline_has_none(shift, flips):
    images = ImageSet(IMAGES, LABELS, SPEC, shift=shift, flips=flips)
    batches = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        batches.append(images.__getitems__(list(range(6)))[0])
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    baseline = ImageSet(IMAGES, LABELS, SPEC)[0][0]
    assert torch.equal(images.unaugmented()[0][0], baseline)
