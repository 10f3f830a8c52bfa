"""Where Ray cannot be imported, what needs it says so in one line, and the rest does not notice."""

import subprocess
import sys

SCRIPT = """
import sys
sys.modules["ray"] = None
import pytest
import ghostsearch, ghostsearch.study.config, ghostsearch.cli.main, ghostsearch.report.page, ghostsearch.surgery.convert
from ghostsearch.errors import GhostsearchError
with pytest.raises(GhostsearchError, match=r"ghostsearch.tune needs ray\\[tune\\], which cannot be imported here"):
    ghostsearch.tune
config = ghostsearch.study.config.RunConfig(model="ghostsearch:digits_cnn", data="digits",
                                             out=sys.argv[1], engine="ray")
with pytest.raises(GhostsearchError, match=r"engine ray needs ray\\[tune\\], which cannot"):
    ghostsearch.search(config)
assert all(getattr(ghostsearch, name) for name in ghostsearch.__all__)
"""


def test_without_ray(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    assert not (tmp_path / "run").exists()
