"""The database of the service: SQLite or PostgreSQL, with one writing thread that commits in groups."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, TypeVar, final

from worldline.errors import ConfigError, MissingExtraError, UnavailableError

try:
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
    from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "serve") from error

ENVIRONMENT: Final = "WORLDLINE_DATABASE"
"""The environment variable with the URL of the database."""

REVISIONS: Final = "worldline_revision"
"""The table with the revision of the tables."""

WAIT_S: Final = 10.0
"""Seconds to wait for a lock or for a free connection."""

STATEMENT_S: Final = 30.0
"""Longest duration of a statement in PostgreSQL, in seconds."""

ATTEMPTS: Final = 5
"""How often a transaction of PostgreSQL begins again after a conflict with another one."""

_LOCK: Final = 0x776F726C646C696E
"""The advisory lock of writers in PostgreSQL."""

_CONFLICTS: Final = ("40001", "40P01")
"""SQLSTATE of serialization failures and deadlocks, after which PostgreSQL has rolled back."""

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_PAUSE_S: Final = 0.02
_ALEMBIC: Final = threading.Lock()  # Alembic keeps the running migration in its modules
_logger = logging.getLogger(__name__)

T = TypeVar("T")


def default_url() -> str:
    """The URL in `WORLDLINE_DATABASE`, else the path of `service.sqlite` in the folder of the catalog."""
    from worldline.catalog.versions import default_folder

    return os.environ.get(ENVIRONMENT) or str(default_folder() / "service.sqlite")


@dataclass(frozen=True, kw_only=True)
class _Write(Generic[T]):
    """A function that waits for the writing thread."""

    function: Callable[[Connection], T]
    future: Future[T]

    def run(self, connection: Connection) -> Callable[[], None]:
        """Runs the function in a savepoint. Returns a function that resolves the future; call it after the commit.

        Raises:
            SQLAlchemyError: the transaction may have ended, so the whole group must begin again. SQLite ends it without
                a notice when the disk is full; then the savepoint is missing.
        """
        try:
            with connection.begin_nested():
                result = self.function(connection)
        except Exception as error:
            if isinstance(error, SQLAlchemyError) and not isinstance(error, IntegrityError):
                raise
            failed = error
            return lambda: self.future.set_exception(failed)
        return lambda: self.future.set_result(result)


@final
class Database:
    """The database; upgrades its tables when it is opened. Several processes can use it at once.

    SQLite runs in WAL mode and flushes every commit to disk. In PostgreSQL, writers take an advisory lock. So writing
    functions see what others wrote, and run one after the other, also those of other processes.

    Args:
        url: path of an SQLite file, `sqlite:///PATH` or `postgresql://USER@HOST/NAME`. A new file has mode 0600.
        queue: writes that wait at most.
        readers: reading connections at most.

    Raises:
        ConfigError: the URL is not one of these, or a later version of worldline wrote the database.
        MissingExtraError: the driver of PostgreSQL is not installed.
        UnavailableError: the database cannot be reached.
    """

    def __init__(self, url: str | Path, *, queue: int = 1000, readers: int = 8) -> None:
        parsed = _parse(str(url))
        self._password = parsed.password
        self._queue, self._waiting, self._closed = queue, deque[_Write[Any]](), False
        self._changed = threading.Condition()
        self._writer = _engine(parsed, writes=True, connections=1)
        self._reader = _engine(parsed, writes=False, connections=readers)
        try:
            with self._translated(), self._writer.begin() as connection:
                _upgrade(connection)
        except BaseException:
            self._dispose()
            raise
        self._thread = threading.Thread(target=self._write_groups, name="worldline-database", daemon=True)
        self._thread.start()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, function: Callable[[Connection], T]) -> Future[T]:
        """Runs the function in the writing thread; the future resolves after its changes are on disk.

        The functions that wait are committed together. One that raises loses only its own changes.

        Args:
            function: gets the connection of the transaction. It may run more than once, so it changes nothing else.

        Raises:
            UnavailableError: too many writes wait, or the database is closed. The future raises it too, if the
                database fails.
        """
        future = Future[T]()
        with self._changed:
            if self._closed:
                raise UnavailableError("the database is closed. Open it again.")
            if len(self._waiting) >= self._queue:
                raise UnavailableError(f"{self._queue} writes wait for the database. Try again later.")
            self._waiting.append(_Write(function=function, future=future))
            self._changed.notify()
        return future

    async def write_async(self, function: Callable[[Connection], T]) -> T:
        """As `write`, for coroutines: returns the result."""
        return await asyncio.wrap_future(self.write(function))

    def read(self, function: Callable[[Connection], T]) -> T:
        """Runs the function on a consistent snapshot, in this thread. It cannot change anything.

        Raises:
            UnavailableError: the database fails, or no connection becomes free.
        """
        with self._translated(), self._reader.connect() as connection:
            return function(connection)

    def close(self) -> None:
        """Completes the writes that wait, and closes the connections."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._dispose()

    def _dispose(self) -> None:
        self._reader.dispose()
        self._writer.dispose()

    def _write_groups(self) -> None:
        """The writing thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                group = list(self._waiting)
                self._waiting.clear()
            if not group:
                return
            self._commit([one for one in group if one.future.set_running_or_notify_cancel()], ATTEMPTS)

    def _commit(self, group: Sequence[_Write[Any]], attempts: int) -> None:
        """Runs the functions in one transaction, and resolves their futures after the commit."""
        began = complete = False
        try:
            with self._writer.begin() as connection:
                began = True
                resolutions = [one.run(connection) for one in group]
                complete = True
        except BaseException as error:  # noqa: BLE001 (a function may raise anything, and the thread goes on)
            conflict = getattr(getattr(error, "orig", None), "sqlstate", None) in _CONFLICTS
            lost = isinstance(error, DBAPIError) and error.connection_invalidated
            alone = began and not complete and not lost and len(group) > 1  # one function may have spoilt the group
            if attempts and (conflict or alone):
                for one in group:
                    time.sleep(random.uniform(0, _PAUSE_S) if conflict else 0)
                    self._commit([one], attempts - 1)
            else:
                for one in group:
                    one.future.set_exception(self._public(error))
            return
        for resolve in resolutions:
            resolve()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raises failures of the database as `UnavailableError`."""
        try:
            yield
        except SQLAlchemyError as error:
            raise self._public(error) from None  # the cause has SQL in its message

    def _public(self, error: BaseException) -> BaseException:
        """An `UnavailableError` if the database failed, whose reason is logged; else the error itself."""
        failed = isinstance(error, DBAPIError | PoolTimeoutError) and not isinstance(error, IntegrityError | DataError)
        if not failed:
            return error
        reason = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        _logger.error("database: %s", reason.replace(self._password, "***") if self._password else reason)
        return UnavailableError("the database cannot be used. The log has the reason. Try again later.")


def _parse(text: str) -> URL:
    """The URL with its driver. Messages never contain the text, which may have a password."""
    if "://" not in text:
        return URL.create("sqlite", database=text)
    known = "Give the path of a file, sqlite:///PATH or postgresql://USER@HOST/NAME."
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"the URL of the database cannot be parsed. {known}") from error
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite":
        raise ConfigError(f"{url.drivername!r} is not a supported database. {known}")
    if url.database in (None, "", ":memory:"):
        raise ConfigError(f"the database has no file, so connections cannot share it. {known}")
    return URL.create("sqlite", database=url.database)


def _engine(url: URL, *, writes: bool, connections: int) -> Engine:
    """An engine whose transactions all write, or all read."""
    make = _sqlite if url.get_backend_name() == "sqlite" else _postgresql
    try:
        return make(
            url,
            writes,
            {"pool_size": connections, "max_overflow": 0, "pool_timeout": WAIT_S, "hide_parameters": True},
        )
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error


def _sqlite(url: URL, writes: bool, options: dict[str, Any]) -> Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    # SQLite gives its further files the mode of this one.
    os.close(os.open(str(url.database), os.O_RDWR | os.O_CREAT, 0o600))
    engine = create_engine(url, connect_args={"timeout": WAIT_S}, **options)

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # else the driver begins transactions by itself, and too late
        pragmas = ("journal_mode = WAL", "synchronous = FULL") if writes else ("query_only = ON",)
        for pragma in (*pragmas, "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL, writes: bool, options: dict[str, Any]) -> Engine:
    settings = {
        "statement_timeout": int(1000 * STATEMENT_S),
        "lock_timeout": int(1000 * WAIT_S),
        "idle_in_transaction_session_timeout": int(1000 * STATEMENT_S),
        "synchronous_commit": "on",
        "default_transaction_read_only": "off" if writes else "on",
    }
    chosen = url.query.get("options", "")
    words = [chosen if isinstance(chosen, str) else " ".join(chosen), *(f"-c {k}={v}" for k, v in settings.items())]
    engine = create_engine(
        url,
        connect_args={"connect_timeout": int(WAIT_S), "options": " ".join(words)},
        isolation_level="READ COMMITTED" if writes else "REPEATABLE READ",
        pool_pre_ping=True,
        **options,
    )
    if writes:

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")

    return engine


def _upgrade(connection: Connection) -> None:
    """Brings the tables to the newest revision; the transaction excludes other processes."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=REVISIONS)
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    with _ALEMBIC:
        current = MigrationContext.configure(connection, opts={"version_table": REVISIONS}).get_current_revision()
        if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
            raise ConfigError(
                f"the database has revision {current}, and this version of worldline knows those up to {head}. "
                "Install the version that wrote it, or a later one."
            )
        if current != head:
            command.upgrade(config, "head")
