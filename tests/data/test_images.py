"""From a picture of any mode and shape to the bytes a model takes."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ghostsearch.data.images import MAX_PIXELS, BrokenImageError, fit, open_file
from ghostsearch.models.input import InputSpec

GREY, COLOUR = (InputSpec(32, c, (0.5,) * c, (0.5,) * c) for c in (1, 3))


@given(width=st.integers(1, 300), height=st.integers(1, 300), size=st.sampled_from([1, 7, 32, 96, 224]))
def test_every_shape_fits(width, height, size):
    image = Image.new("RGB", (width, height), (10, 20, 30))
    array = fit(image, InputSpec(size, 3))
    assert array.shape == (3, size, size)
    assert array.dtype == np.uint8
    assert array.reshape(3, -1).max(axis=1).tolist() == [10, 20, 30]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_every_mode_becomes_grey_or_colour(mode):
    image = Image.new(mode, (40, 30))
    assert fit(image, GREY).shape == (1, 32, 32)
    assert fit(image, COLOUR).shape == (3, 32, 32)


def test_an_image_of_the_right_size_is_not_touched():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (fit(Image.fromarray(pixels), COLOUR) == pixels.transpose(2, 0, 1)).all()


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    assert (fit(Image.fromarray(ramp), GREY)[0] == ramp >> 8).all()


def test_the_crop_is_central_as_torchvisions():
    from torchvision.transforms import v2

    photograph = Image.fromarray(skimage.data.astronaut()).crop((0, 0, 512, 400))
    ours = fit(photograph, InputSpec(224))
    theirs = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(photograph)
    assert InputSpec(224).shorter_side == 256
    assert (ours == np.asarray(theirs).transpose(2, 0, 1)).all()


def test_a_photograph_on_its_side_is_put_upright(tmp_path):
    photograph = Image.fromarray(skimage.data.coffee())
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright = open_file(str(tmp_path / "turned.png"), COLOUR)
    assert (np.asarray(upright) == np.asarray(photograph)).all()


def test_a_decompression_bomb_is_broken(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    with pytest.raises(BrokenImageError, match="pixels"):
        open_file(str(tmp_path / "bomb.png"), COLOUR)
