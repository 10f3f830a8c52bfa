"""A study small enough to be run many times: four layers, two sites, one group, no training after the baseline's."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from .servers import server


@pytest.fixture(scope="module", autouse=True)
def quick(hasty):
    """No test here is about how well a latency is known, or about the report's pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ghostsearch.report.summary.draw_pictures", lambda *_: [])
        yield


@pytest.fixture(scope="session")
def tiny(tiny_space):
    """Options of the tiny run as a dict; give it `out` and what a test changes."""

    def options(out, **changed):
        return {
            "model": "tests.small_net:SmallNet", "space": str(tiny_space), "objectives": ["score", "macs"], "trials": 6,
            "finalists": 3, "epochs": 0, "final_epochs": 0, "baseline_epochs": 4, "batch_size": 32, "train_images": 128,
            "calibration_images": 64, "time_limit": 0.02, "final_time_limit": 0.1, "cell_time_limit": 0.02,
            "out": str(out), **changed,
        }  # fmt: skip

    return options


@pytest.fixture(scope="session")
def postgresql():
    """The URL of a PostgreSQL server of this session's own."""
    with server("postgresql") as url:
        yield url


@pytest.fixture(scope="session")
def mysql():
    """The URL of a MariaDB server of this session's own."""
    with server("mysql") as url:
        yield url


@pytest.fixture
def own_digits(tmp_path):
    """`folder:` of a few digits in class folders, and a function that adds one image to each class."""
    folder, digits = tmp_path / "digits", load_digits()

    def add(number):
        for label in range(10):
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            pixels = digits.images[digits.target == label][number]
            Image.fromarray((pixels * 15).astype(np.uint8)).save(folder / str(label) / f"{number:03}.png")

    for number in range(8):
        add(number)
    return f"folder:{folder}", lambda: add(8)
