"""Database servers that a test starts for itself, where they are installed."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(p).parent for p in [shutil.which("initdb")] if p]


@contextmanager
def server(kind: str) -> Iterator[str]:
    """The URL of a fresh server; skips the test where the server or its driver is not installed."""
    pytest.importorskip({"postgresql": "psycopg", "mysql": "pymysql"}[kind])
    # Not in pytest's folders: the server's own account must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
    process = None
    try:
        start, url = {"postgresql": _postgresql, "mysql": _mysql}[kind](folder)
        process = start()
        _wait(url, process)
        yield url
    finally:
        if process:
            # To PostgreSQL this means: do not wait for clients.
            process.send_signal(signal.SIGINT if kind == "postgresql" else signal.SIGTERM)
            process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _account(name, folder):
    """Servers refuse to run as root: options that run a process as their own account."""
    if os.geteuid():
        return {}
    shutil.chown(folder, name, name)
    return {"user": name, "group": name}


def _postgresql(folder):
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    account, data = _account("postgres", folder), folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **account}
    subprocess.run(
        [POSTGRES[-1] / "initdb", "-D", data, "-A", "trust", "-U", "ghost", "--no-sync"], check=True, **quiet
    )
    command = [POSTGRES[-1] / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
    return lambda: subprocess.Popen(command, **quiet), f"postgresql://ghost@/postgres?host={folder}"


def _mysql(folder):
    if not shutil.which("mariadbd") or not shutil.which("mariadb-install-db"):
        pytest.skip("MariaDB is not installed (Debian: apt-get install mariadb-server)")
    account, data, socket = _account("mysql", folder), folder / "data", folder / "socket"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **account}
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
    subprocess.run([*install, "--skip-test-db"], check=True, **quiet)
    command = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={socket}", "--skip-networking"]
    return lambda: subprocess.Popen(command, **quiet), f"mysql://root@localhost/mysql?unix_socket={socket}"


def _wait(url, process):
    from ghostsearch.errors import GhostsearchError
    from ghostsearch.study.store import open_storage

    until = time.monotonic() + 60
    while True:
        try:
            open_storage(url, Path())
            return
        except GhostsearchError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < until
            time.sleep(0.2)
