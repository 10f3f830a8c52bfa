import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.files import atomic_path, write_bytes, write_text


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "run.yaml"
    write_text(path, "épochs: 1\n")
    write_text(path, "épochs: 2\n")
    assert path.read_bytes() == "épochs: 2\n".encode()
    assert os.listdir(path.parent) == ["run.yaml"]


def test_the_mode_is_that_of_a_file_made_by_open(tmp_path: Path) -> None:
    (tmp_path / "opened").write_bytes(b"")
    write_bytes(tmp_path / "written", b"")
    with atomic_path(tmp_path / "replaced") as temporary:
        private = tmp_path / "private"
        private.touch(mode=0o600)
        private.replace(temporary)
    modes = {(tmp_path / name).stat().st_mode for name in ("opened", "written", "replaced")}
    assert len(modes) == 1


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "front.csv"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert temporary.suffix == ".csv"
            raise ValueError("broke")

    with pytest.raises(ValueError, match="broke"):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["front.csv"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(
        GhostsearchError, match=r"results/run\.yaml: cannot be written \(.+\); free space or choose"
    ) as told:
        write_text(tmp_path / "results" / "run.yaml", "x")
    assert "\n" not in str(told.value)


def test_a_full_device_is_told_in_one_line() -> None:
    """/dev/full answers every write with 'no space left', as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(GhostsearchError, match=os.strerror(errno.ENOSPC)),
        atomic_path(Path("/dev/shm/ghostsearch-full")),
    ):
        Path("/dev/full").write_bytes(b"x")
    assert not list(Path("/dev/shm").glob(".ghostsearch-full*"))


def test_a_disk_that_fills_while_writing(tmp_path: Path) -> None:
    """A really refused write: the process may write no file larger than 4096 bytes."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from ghostsearch.files import write_bytes; from ghostsearch.errors import GhostsearchError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "write_bytes(Path(sys.argv[1]), b'a' * 100)\n"
        "try: write_bytes(Path(sys.argv[1]), b'b' * 10000)\n"
        "except GhostsearchError as error: print(error)\n"
    )
    path = tmp_path / "study.bin"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "cannot be written (File too large)" in done.stdout
    assert path.read_bytes() == b"a" * 100
    assert os.listdir(tmp_path) == ["study.bin"]


def test_a_read_only_directory(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(GhostsearchError, match="Permission denied"):
            write_text(tmp_path / "run.yaml", "x")
    finally:
        tmp_path.chmod(0o755)


def test_a_kill_never_leaves_half_a_file(tmp_path: Path) -> None:
    """A writer that is killed at ten moments: the file is always one of the whole contents."""
    path, size = tmp_path / "weights.bin", 2_000_000
    code = (
        "import sys; from pathlib import Path; from ghostsearch.files import write_bytes\n"
        "for i in range(10**6): write_bytes(Path(sys.argv[1]), bytes([i % 256]) * int(sys.argv[2]))\n"
    )
    for delay in range(10):
        writer = subprocess.Popen([sys.executable, "-c", code, str(path), str(size)])
        give_up = time.monotonic() + 200
        before = path.stat().st_mtime_ns if path.exists() else 0
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert time.monotonic() < give_up
            time.sleep(0.002)
        time.sleep(delay * 0.003)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        content = path.read_bytes()
        assert len(content) == size
        assert content == content[:1] * size
