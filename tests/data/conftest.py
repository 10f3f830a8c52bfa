"""Image folders of real pictures: scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ghostsearch.models.input import InputSpec


@pytest.fixture(scope="session")
def digit_input() -> InputSpec:
    """The input of a small grey model."""
    return InputSpec(size=8, channels=1, mean=(0.5,), std=(0.5,))


@pytest.fixture(scope="session")
def write_digits():
    """Write digits `start` to `start + each` of some classes to `folder/classN/NNN.png`."""
    digits = load_digits()

    def write(folder, classes=range(3), each=10, start=0):
        for label in classes:
            (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
            for n, pixels in enumerate(digits.images[digits.target == label][start : start + each], start):
                Image.fromarray((pixels * 15).astype(np.uint8)).save(folder / f"class{label}" / f"{n:03}.png")
        return folder

    return write
