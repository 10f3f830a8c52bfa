"""What holds for every test; before any of them imports torch."""

import gc
import os
import signal

import pytest

# A shell's background jobs ignore Ctrl-C, and their children with them: there no test could interrupt anything.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Several workers on few cores: threads that spin while they wait for one another would take most of the time.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker for each core keeps it busy alone: a second thread made a part of the suite 1.4 times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers would stand behind every other test.
os.environ.setdefault("RAY_worker_niceness", "0")

# What the tests import stays until they end: walked again and again it would be an eighth of their time.
gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    gc.freeze()
    gc.enable()


TINY_SPACE = """
width_multiple: 4
include: ["block1.1.*"]
sites:
  - match: "block1.1.*"
    choices: ["ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)"]
groups:
  - match: "*"
    widths: [width(1), width(0.5)]
"""


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A user's cache of this session's own, for all its workers: layers are timed once, no user's read."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_space(tmp_path_factory):
    """A file of a search space of the digits network that is soon searched: two sites and a group."""
    space = tmp_path_factory.mktemp("space") / "tiny.yaml"
    space.write_text(TINY_SPACE)
    return space


@pytest.fixture(scope="module")
def hasty():
    """Latencies are taken from a few calls, where how well they are known is not what is tested."""
    from ghostsearch.measure import latency, threads

    few = {"VISIT_S": 5e-4, "MAX_CALLS": 4, "ROUNDS": 3, "WARM_UP_CALLS": 1, "MAX_BUILDS": 4}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in few.items():
            patch.setattr(latency, name, value)
        patch.setattr(threads, "PROBE_S", 0.01)
        yield
