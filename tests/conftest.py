"""What holds for every test; before any of them imports torch."""

import os

import pytest

# Several workers on few cores: threads that spin while they wait for one another would take most of the time.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# Ray's workers would stand behind every other test.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session", autouse=True)
def _locks_of_its_own(tmp_path_factory):
    """Timings of other processes on this machine do not pause the tests, nor the tests them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("locks")))
        yield
