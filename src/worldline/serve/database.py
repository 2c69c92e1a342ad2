"""The database of the service: SQLite or PostgreSQL. Writers run one after the other, readers beside them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, final

from worldline.errors import ConfigError, MissingExtraError, UnavailableError

try:
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
    from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError

    from worldline.serve.tables import metadata
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

WRITERS: Final = 32
"""Threads that wait for their turn to write."""

READERS: Final = 8
"""Connections that read at the same time."""

_LOCK: Final = 0x776F726C646C696E
"""The advisory lock of writers in PostgreSQL."""

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_logger = logging.getLogger(__name__)

T = TypeVar("T")


def default_url() -> str:
    """The URL in `WORLDLINE_DATABASE`, else the path of `service.sqlite` in the folder of the catalog."""
    from worldline.catalog.versions import default_folder

    return os.environ.get(ENVIRONMENT) or str(default_folder() / "service.sqlite")


@final
class Database:
    """The database; upgrades its tables when it is opened. Several processes can use it at once.

    SQLite runs in WAL mode and flushes every commit to disk. Writing functions run one after the other, also those of
    other processes: SQLite has one writer at a time, and in PostgreSQL writers take an advisory lock.

    Args:
        url: path of an SQLite file, `sqlite:///PATH` or `postgresql://USER@HOST/NAME`. A new file has mode 0600.

    Raises:
        ConfigError: the URL is not one of these, or a later version of worldline wrote the database.
        MissingExtraError: the driver of PostgreSQL is not installed.
        UnavailableError: the database cannot be reached.
    """

    def __init__(self, url: str | Path) -> None:
        parsed = _parse(str(url))
        self._password = parsed.password
        self._threads = ThreadPoolExecutor(WRITERS, "worldline-database")
        self._writer = _engine(parsed, writes=True, connections=1)
        self._reader = _engine(parsed, writes=False, connections=READERS)
        try:
            self.write(_upgrade)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, function: Callable[[Connection], T]) -> T:
        """Runs the function in a transaction. Its changes are on disk when this returns; if it raises, none are made.

        Args:
            function: gets the connection of the transaction.

        Raises:
            UnavailableError: the database fails, or other writers take too long.
        """
        with self._translated(), self._writer.begin() as connection:
            return function(connection)

    def write_later(self, function: Callable[[Connection], T]) -> Future[T]:
        """As `write`, in another thread, for which the caller need not wait."""
        return self._threads.submit(self.write, function)

    async def write_async(self, function: Callable[[Connection], T]) -> T:
        """As `write`, for coroutines."""
        return await asyncio.wrap_future(self.write_later(function))

    def read(self, function: Callable[[Connection], T]) -> T:
        """Runs the function on a consistent snapshot, in this thread. It cannot change anything.

        Raises:
            UnavailableError: the database fails, or no connection becomes free.
        """
        with self._translated(), self._reader.connect() as connection:
            return function(connection)

    async def read_async(self, function: Callable[[Connection], T]) -> T:
        """As `read`, for coroutines."""
        return await asyncio.to_thread(self.read, function)

    def close(self) -> None:
        """Completes the writes that wait, and closes the connections."""
        self._threads.shutdown()
        self._reader.dispose()
        self._writer.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raises failures of the database as `UnavailableError`, and logs the reason."""
        try:
            yield
        except (IntegrityError, DataError):
            raise
        except (DBAPIError, PoolTimeoutError) as error:
            reason = str(error.orig if isinstance(error, DBAPIError) else error).strip()
            _logger.error("database: %s", reason.replace(self._password, "***") if self._password else reason)
            message = "the database cannot be used. The log has the reason. Try again later."
            raise UnavailableError(message) from None  # the cause has SQL in its message


def _parse(text: str) -> URL:
    """The URL with its driver. Messages never contain the text, which may have a password."""
    if "://" not in text:
        return URL.create("sqlite", database=text)
    refused = ConfigError(
        "the URL names no database that is supported. Give the path of a file, sqlite:///PATH or "
        "postgresql://USER@HOST/NAME."
    )
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise refused from error
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite" or url.database in (None, "", ":memory:"):  # connections cannot share the last ones
        raise refused
    return URL.create("sqlite", database=url.database)


def _engine(url: URL, *, writes: bool, connections: int) -> Engine:
    """An engine whose transactions all write, or all read."""
    make = _sqlite if url.get_backend_name() == "sqlite" else _postgresql
    options = {"pool_size": connections, "max_overflow": 0, "pool_timeout": WAIT_S, "hide_parameters": True}
    try:
        engine, begins = make(url, writes, options)
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error

    if begins:
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begins))
    return engine


def _sqlite(url: URL, writes: bool, options: dict[str, Any]) -> tuple[Engine, str]:
    """The engine, and what begins a transaction."""
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    if Path(str(url.database)).is_dir():
        raise ConfigError(f"{url.database} is a folder, and the database needs this path for a file. Move the folder.")
    # SQLite gives its further files the mode of this one.
    os.close(os.open(str(url.database), os.O_RDWR | os.O_CREAT, 0o600))
    engine = create_engine(url, connect_args={"timeout": WAIT_S}, **options)

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # else the driver begins transactions by itself, and too late
        pragmas = ("journal_mode = WAL", "synchronous = FULL") if writes else ("query_only = ON",)
        for pragma in (*pragmas, "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine, "BEGIN IMMEDIATE" if writes else "BEGIN"


def _postgresql(url: URL, writes: bool, options: dict[str, Any]) -> tuple[Engine, str]:
    """The engine, and what begins a transaction that writes: the lock of writers."""
    statement_ms, read_only = int(1000 * STATEMENT_S), "off" if writes else "on"
    settings = (
        f"{url.query.get('options', '')} -c statement_timeout={statement_ms} -c lock_timeout={int(1000 * WAIT_S)}"
        f" -c idle_in_transaction_session_timeout={statement_ms} -c synchronous_commit=on"
        f" -c default_transaction_read_only={read_only}"
    )
    engine = create_engine(
        url,
        connect_args={"connect_timeout": int(WAIT_S), "options": settings},
        isolation_level="READ COMMITTED" if writes else "REPEATABLE READ",
        pool_pre_ping=True,
        **options,
    )
    return engine, f"SELECT pg_advisory_xact_lock({_LOCK})" if writes else ""


def _upgrade(connection: Connection) -> None:
    """Brings the tables to the newest revision; the transaction excludes other processes."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=REVISIONS)
    context = MigrationContext.configure(connection, opts={"version_table": REVISIONS})
    if (current := context.get_current_revision()) is None:
        metadata.create_all(connection)
        context.stamp(ScriptDirectory.from_config(config), "head")
        return
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise ConfigError(
            f"the database has revision {current}, which this version of worldline does not know. Install the version "
            "that wrote it, or a later one."
        ) from error
