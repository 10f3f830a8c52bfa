"""Where a study's trials live, and the one lock that its processes share: SQLite, a journal file, a database server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock

from ghostsearch.errors import GhostsearchError, MissingExtraError, first_line
from ghostsearch.files import held

DATABASE = "study.db"
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
"""Database servers and the driver of the extra that is used unless the URL names another."""
EXTRAS = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}
BUSY_S = 60.0
"""How long a write waits for another process' in SQLite."""
PATIENCE_S = 3600
LOCK_SUFFIX = ".lock"

Exclusive = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Storage:
    """Optuna's storage, and a lock that one process on any machine holds at a time and that dies with its holder."""

    backend: Any
    exclusive: Exclusive


def open_storage(storage: str | None, folder: Path) -> Storage:
    """The storage of a run: the study directory's SQLite file, `journal:FILE`, or a database's URL.

    Raises GhostsearchError when it cannot be opened.
    """
    if storage is not None and storage.startswith("journal:"):
        return _journal(Path(storage.removeprefix("journal:")))
    url = _file_url(folder / DATABASE) if storage is None else storage
    with storage_errors(f"storage {shown_url(url)!r} cannot be opened", RuntimeError, ValueError, ImportError):
        return _database(url)


def other_studies(storage: Storage, base: str, name: str) -> list[str]:
    """Names of the studies in a storage that belong to a study as `name` does, which ran with other axes."""
    known = optuna.get_all_study_names(storage.backend)
    return [other for other in known if other != name and (other == base or other.startswith(f"{base} ["))]


def shown_url(url: str) -> str:
    """A database's URL without its password, as run.yaml and messages have it."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError:
        return url.split("@")[-1]
    # `set(password=None)` would leave it. The drivers take one among the parameters behind the question mark too.
    shown = parsed._replace(password=None).difference_update_query(("password", "passwd"))
    return url if shown == parsed else shown.render_as_string()


@contextmanager
def storage_errors(what: str, *further: type[Exception]) -> Iterator[None]:
    """Turn what a storage raises, such as for a full disk or a server that went away, into one line; also `further`.

    Within, Optuna logs errors alone.
    """
    from sqlalchemy.exc import SQLAlchemyError

    kinds: tuple[type[Exception], ...] = (OSError, optuna.exceptions.OptunaError, SQLAlchemyError, *further)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    except kinds as error:
        if isinstance(error, GhostsearchError):
            raise
        # Optuna wraps the driver's words, which say more.
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = first_line(cause or error)
        raise GhostsearchError(f"{what}: {reason}; fix it and rerun the same command to resume") from None
    finally:
        optuna.logging.set_verbosity(before)


def _journal(file: Path) -> Storage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    with storage_errors(f"journal {str(file)!r} cannot be opened", ValueError):
        file.parent.mkdir(parents=True, exist_ok=True)
        return Storage(JournalStorage(JournalFileBackend(str(file))), _file_lock(file))


def _file_lock(file: Path) -> Exclusive:
    lock = FileLock(file.with_name(f".{file.name}{LOCK_SUFFIX}"))
    return lambda: held(lock)


def _file_url(file: Path) -> str:
    """The URL of an SQLite file, whose path may hold what else means something in a URL, such as a question mark."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(file)).render_as_string()


def _database(url: str) -> Storage:
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise GhostsearchError(f"storage {url!r} names no file; write sqlite:///study.db")
        options = {"connect_args": {"timeout": BUSY_S}}
        return Storage(optuna.storages.RDBStorage(url, engine_kwargs=options), _file_lock(Path(parsed.database)))
    if kind not in DRIVERS:
        raise GhostsearchError(f"storage {shown_url(url)!r}: choose sqlite, journal:FILE, postgresql or mysql")
    if parsed.drivername == kind:
        if find_spec(DRIVERS[kind]) is None:
            raise MissingExtraError(f"{DRIVERS[kind]}, the driver of {kind}", EXTRAS[kind])
        parsed = parsed.set(drivername=f"{kind}+{DRIVERS[kind]}")
    backend = optuna.storages.RDBStorage(
        parsed.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True}
    )
    return Storage(backend, _server_lock(backend.engine, kind))


def _server_lock(engine: Any, kind: str) -> Exclusive:
    """A lock of the server's own, which it frees when the connection of a dead holder breaks."""
    from sqlalchemy import text

    name = "ghostsearch"
    if kind == "postgresql":
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)

        @contextmanager
        def exclusive() -> Iterator[None]:
            with engine.begin() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
                yield

        return exclusive

    @contextmanager
    def named() -> Iterator[None]:
        with engine.connect() as connection:
            got = connection.execute(text("SELECT GET_LOCK(:name, :wait)"), {"name": name, "wait": PATIENCE_S})
            if got.scalar() != 1:
                raise GhostsearchError("another process has held the study's lock for an hour; stop it")
            try:
                yield
            finally:
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name})

    return named
