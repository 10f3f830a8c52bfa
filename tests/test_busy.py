"""Work and timing on one machine: never at once, and nobody waits for the dead."""

import multiprocessing
import os
import signal
import time
from itertools import pairwise

import pytest

from ghostsearch import busy as quiet
from ghostsearch.errors import GhostsearchError

if not hasattr(os, "fork"):
    pytest.skip("this system has no flock", allow_module_level=True)
FORK = multiprocessing.get_context("fork")


def work(started, steps, until):
    """Steps of 10 ms, each noted with its begin and end, until the time has come."""
    with quiet.working():
        started.set()
        while not until.is_set():
            quiet.breathe()
            began = time.monotonic()
            time.sleep(0.01)
            steps.put((began, time.monotonic()))


def time_often(spans):
    for _ in range(5):
        with quiet.timing():
            began = time.monotonic()
            time.sleep(0.02)
            spans.put((began, time.monotonic()))


def drained(queue):
    found = []
    while not queue.empty():
        found.append(queue.get())
    return found


def test_timings_of_two_processes_overlap_neither_each_other_nor_the_work_of_two_others():
    steps, spans, over = FORK.SimpleQueue(), FORK.SimpleQueue(), FORK.Event()
    started = [FORK.Event() for _ in range(2)]
    workers = [FORK.Process(target=work, args=(event, steps, over)) for event in started]
    timers = [FORK.Process(target=time_often, args=(spans,)) for _ in range(2)]
    for process in workers:
        process.start()
    for event in started:
        assert event.wait(30)
    for process in timers:
        process.start()
    for process in timers:
        process.join(60)
    over.set()
    for process in workers:
        process.join(60)
    timed, worked = sorted(drained(spans)), drained(steps)
    assert len(timed) == 2 * 5
    assert all(a[1] <= b[0] for a, b in pairwise(timed))
    assert len(worked) > 2
    assert not [1 for s in timed for w in worked if s[0] < w[1] and w[0] < s[1]]


def hold(context, held):
    with context():
        held.set()
        time.sleep(60)


@pytest.mark.parametrize("context", [quiet.working, quiet.timing])
def test_a_killed_process_blocks_nobody(context):
    held = FORK.Event()
    process = FORK.Process(target=hold, args=(context, held))
    process.start()
    assert held.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with quiet.timing(), quiet.working():
        pass


def test_a_stopped_process_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(quiet, "STEP_S", 0.1)
    held = FORK.Event()
    process = FORK.Process(target=hold, args=(quiet.working, held))
    process.start()
    assert held.wait(30)
    os.kill(process.pid, signal.SIGSTOP)
    with quiet.timing():
        pass
    process.kill()


def test_work_times_itself_and_goes_on():
    with quiet.working(), quiet.working():
        with quiet.timing():
            assert quiet._own.floor is None
        assert quiet._own.floor is not None
        quiet.breathe()
    assert quiet._own.floor is None


def test_a_place_that_cannot_be_written_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(GhostsearchError, match="XDG_RUNTIME_DIR"), quiet.timing():
        pass
