"""Writes files so that a reader, or a kill at any moment, finds the old file or the new one, never half."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from ghostsearch.errors import GhostsearchError

MAX_JSON_BYTES = 8 * 2**20


def home_expanded(path: Path) -> Path:
    """The path with a leading `~` written out; as it is where there is no such user."""
    with suppress(RuntimeError):
        return path.expanduser()
    return path


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all; raises GhostsearchError when it cannot be written."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises GhostsearchError when it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_small(path: Path, most_bytes: int) -> str:
    """The text of a UTF-8 file; raises GhostsearchError when missing or larger, ValueError when not UTF-8."""
    try:
        if path.stat().st_size > most_bytes:
            raise GhostsearchError(f"{path}: larger than {most_bytes} bytes, not a ghostsearch file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise GhostsearchError(f"{path}: cannot be read ({error.strerror})") from None


def read_json(path: Path) -> object:
    """The content of a small JSON file; raises GhostsearchError when it is missing, too large or not JSON."""
    try:
        return json.loads(read_small(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError):
        raise GhostsearchError(f"{path}: not valid JSON, or a truncated file") from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path for a writer that wants a file name; it becomes `path` when the block ends well.

    Folders on the way are made. The content reaches the disk before the name does (write, fsync, rename).
    When the block raises, `path` stays as it was and the temporary file goes. The block should do nothing but
    write.
    Raises GhostsearchError for a full disk, a read-only directory and other refusals of the system.
    """
    path = Path(path)
    # Hidden, so that no glob over the directory takes it for a result; the suffix stays, because some writers
    # choose the format by it.
    temporary = path.with_name(f".{path.stem[:80]}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        # A writer may have put a file of its own there, readable by its owner alone.
        temporary.chmod(mode)
        _publish(temporary, path)
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def cannot_write(path: Path, reason: str) -> GhostsearchError:
    """The one line for a file that the system refuses to take."""
    return GhostsearchError(f"{path}: cannot be written ({reason}); free space or choose another place")


@contextmanager
def held(lock: FileLock) -> Iterator[None]:
    """Hold a lock file; raises GhostsearchError where it cannot be made."""
    try:
        lock.acquire()
    except OSError as error:
        raise cannot_write(Path(lock.lock_file), error.strerror or str(error)) from None
    try:
        yield
    finally:
        lock.release()


def check_writable(directory: Path) -> None:
    """Refuse before long work what could not be written after it: raise GhostsearchError unless files can be made.

    Nothing is left behind, and a directory that is not there yet is not made.
    """
    place = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        raise cannot_write(directory, error.strerror or str(error)) from None


def dated_directory(model: str, holds: Callable[[Path], bool] = lambda _: False, *, what: str = "") -> Path:
    """A directory here named after a model, `what` was done and today, such as `resnet18-converted-2026-11-26`.

    The newest one of the name that `holds` says holds the same work already, else one that does not exist.
    """
    name = re.sub(r"[^\w.]+", "-", Path(model.rpartition(":")[2]).name) + what
    known = next((folder for folder in sorted(Path().glob(f"{name}-20*/"), reverse=True) if holds(folder)), None)
    today = f"{name}-{datetime.now(UTC).date()}"
    names = (today, *(f"{today}.{n}" for n in range(2, 1000)))
    return known or next(Path(n) for n in names if not Path(n).exists())


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder in the system's temporary directory for libraries that write files only; it goes with the block.

    Raises GhostsearchError, naming that directory, when its disk is full or takes no files.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="ghostsearch-") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise GhostsearchError(
            f"the temporary directory {tempfile.gettempdir()} takes no more files ({error.strerror}); free space "
            "or set TMPDIR"
        ) from None


def _publish(temporary: Path, path: Path) -> None:
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":
        # The rename itself lives in the directory.
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
