"""What machine.py promises of this process's memory."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import psutil
from ghostsearch.machine import memory_kept

def resident():
    return psutil.Process().memory_info().rss >> 20

def use():
    block = bytearray(b"x" * (128 << 20))
    del block

use()
begun = resident()
with memory_kept():
    with memory_kept():
        use()
    inside = resident()
print(inside - begun, resident() - begun)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library's malloc is told")
def test_freed_memory_stays_within_and_is_given_back_after() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    inside, after = map(int, done.stdout.split())
    assert inside > 100
    assert after < 30
