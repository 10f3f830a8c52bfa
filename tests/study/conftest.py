"""A study small enough to be run many times: two sites, one group, one epoch for the baseline, no training after."""

import pytest

from .servers import server

SPACE = """
width_multiple: 4
include: ["block1.1.*"]
sites:
  - match: "block1.1.*"
    choices: ["ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)"]
groups:
  - match: "*"
    widths: [width(1), width(0.5)]
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Options of the tiny run as a dict; give it `out` and what a test changes."""
    space = tmp_path_factory.mktemp("space") / "tiny.yaml"
    space.write_text(SPACE)

    def options(out, **changed):
        return {
            "space": str(space), "objectives": ["score", "macs"], "trials": 8, "epochs": 0, "final_epochs": 0,
            "baseline_epochs": 1, "train_images": 128, "calibration_images": 64, "time_limit": 0.02,
            "final_time_limit": 0.1, "cell_time_limit": 0.02, "out": str(out), **changed,
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
