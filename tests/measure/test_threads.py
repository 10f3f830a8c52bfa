"""A runtime that takes more cores than it was given is found out."""

import re
import subprocess
import sys
import threading
import time

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.machine import usable_cores
from ghostsearch.measure.devices.base import Prepared
from ghostsearch.measure.devices.torch_cpu import TorchCpu
from ghostsearch.measure.threads import WaitClock, check_threads


def burn(seconds):
    import hashlib

    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        # Hashing a large buffer runs without the interpreter's lock, so that two threads really take two cores.
        hashlib.sha256(bytes(2**20)).digest()


class Burning(Prepared):
    def __init__(self, threads):
        self.threads = threads
        self.cores = []

    def run(self):
        start, cpu = time.perf_counter(), time.process_time()
        helpers = [threading.Thread(target=burn, args=(0.05,)) for _ in range(self.threads - 1)]
        for helper in helpers:
            helper.start()
        burn(0.05)
        for helper in helpers:
            helper.join()
        self.cores.append((time.process_time() - cpu) / (time.perf_counter() - start))

    def outputs(self):
        return ()


def test_one_core_is_one_core():
    assert check_threads(TorchCpu(), [Burning(1)], 1) <= 1.35


@pytest.mark.skipif(usable_cores() < 2, reason="one core cannot be overstepped")
def test_two_cores_for_one_thread_are_refused():
    greedy = Burning(3)
    least, refusal = None, None
    try:
        least = check_threads(TorchCpu(), [greedy], 1)
    except GhostsearchError as error:
        refusal = str(error)
    if refusal is None:
        # On a machine that others load, three threads get one core now and then: then it must have read just that.
        assert least == pytest.approx(min(greedy.cores), abs=0.3)
        assert min(greedy.cores) < 1.6
        pytest.skip("other processes held this machine's second core")
    assert re.search(r"torch:cpu keeps \d\.\d cores busy although threads=1", refusal)


CROWDED = """
import os, subprocess, sys, time
from ghostsearch.measure.threads import WaitClock
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = subprocess.Popen([sys.executable, "-c", "print(flush=True)\\nwhile True: pass"], stdout=subprocess.PIPE)
other.stdout.readline()
def work():
    end = time.thread_time() + 0.2
    while time.thread_time() < end:
        pass
clock = WaitClock.of_thread_busy_in(work)
# A machine below this one may hold the core too, which no clock here tells: then once more.
for _ in range(5):
    start, cpu, waited = time.perf_counter(), time.thread_time(), clock.seconds()
    work()
    wall, cpu, waited = time.perf_counter() - start, time.thread_time() - cpu, clock.seconds() - waited
    if wall > 1.2 * cpu and 0.7 * (wall - cpu) < waited <= 1.05 * (wall - cpu):
        break
print(wall, cpu, waited)
clock.close()
other.kill()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what a thread waits")
def test_waiting_for_a_core_is_told_from_working():
    run = subprocess.run([sys.executable, "-c", CROWDED], capture_output=True, text=True, check=True)
    wall, cpu, waited = map(float, run.stdout.split())
    assert wall > 1.2 * cpu  # two processes on one core
    assert 0.7 * (wall - cpu) < waited <= 1.05 * (wall - cpu)


def test_no_clock_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr("ghostsearch.measure.threads.TASKS", tmp_path / "absent")
    assert WaitClock.of_thread_busy_in(lambda: burn(0.01)) is None


def test_no_clock_where_the_work_is_spread_over_threads(monkeypatch):
    counts = iter([{"1": 10}, {"1": 60, "2": 50}])
    monkeypatch.setattr("ghostsearch.measure.threads._on_core", lambda: next(counts))
    assert WaitClock.of_thread_busy_in(lambda: None) is None
