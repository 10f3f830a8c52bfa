"""Where Ray cannot be imported, what needs it says so in one line, and the rest does not notice."""

import sys

import pytest

import ghostsearch
from ghostsearch.errors import GhostsearchError
from ghostsearch.study.config import RunConfig
from tests.processes import Started


def ask_for_ray(out):
    assert "ray" not in sys.modules, "what a search imports needs no Ray"
    sys.modules["ray"] = None
    with pytest.raises(GhostsearchError, match=r"ghostsearch.tune needs ray\[tune\], which cannot be imported here"):
        _ = ghostsearch.tune
    with pytest.raises(GhostsearchError, match=r"engine ray needs ray\[tune\], which cannot"):
        ghostsearch.search(RunConfig(model="ghostsearch:digits_cnn", data="digits", out=out, engine="ray"))
    assert all(getattr(ghostsearch, name) for name in ghostsearch.__all__)


def test_without_ray(tmp_path):
    process = Started(tmp_path / "said", ask_for_ray, str(tmp_path / "run"))
    assert process.wait() == 0, process.said()
    assert not (tmp_path / "run").exists()
