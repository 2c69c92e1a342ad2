from __future__ import annotations

import asyncio
import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, delete, insert, select, text
from sqlalchemy.exc import IntegrityError
from tests.serve import database_process
from tests.serve.conftest import execute
from tests.serve.database_process import INCREMENTS, add_world

from worldline.errors import ConfigError, MissingExtraError, UnavailableError
from worldline.serve import tables
from worldline.serve.database import REVISIONS, Database, default_url


def names(connection: Connection) -> set[str]:
    return set(connection.execute(select(tables.worlds.c.name)).scalars())


def together(database: Database, *functions: Callable[[Connection], Any]) -> list[Future[Any]]:
    """Writes while the writing thread is busy, so that it takes all of them at once."""
    begun, go = threading.Event(), threading.Event()

    def busy(connection: Connection) -> None:
        begun.set()
        assert go.wait(60)

    database.write(busy)
    assert begun.wait(60)
    futures = [database.write(function) for function in functions]
    go.set()
    return futures


def run(url: str, task: str) -> subprocess.Popen[str]:
    command = [sys.executable, database_process.__file__, url, task]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_one_chain_of_revisions_builds_the_tables(database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(tables.__file__).with_name("migrations")))
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"version_table": REVISIONS, "compare_type": True})
        return compare_metadata(context, tables.metadata)

    assert database.read(differences) == []


def test_a_database_of_a_later_version_is_refused(database_url: str) -> None:
    with Database(database_url) as database:
        database.write(
            lambda connection: connection.execute(text(f"UPDATE {REVISIONS} SET version_num = 'x9'"))
        ).result()
    with pytest.raises(ConfigError, match=r"revision x9, .* up to 0001"):
        Database(database_url)


def test_functions_that_wait_share_a_transaction_and_one_that_raises_loses_only_its_own(database: Database) -> None:
    def fails(connection: Connection) -> None:
        add_world("lost", connection)
        raise KeyError("mine")

    add = [partial(add_world, name) for name in "abc"]
    transactions = [Connection.get_transaction] * 2
    first, failed, second, again, third, *shared = together(
        database, add[0], fails, add[1], add[0], add[2], *transactions
    )
    assert [done.result() for done in (first, second, third)] == ["a", "b", "c"]
    assert shared[0].result() is shared[1].result()
    with pytest.raises(KeyError, match="mine"):
        failed.result()
    with pytest.raises(IntegrityError):
        again.result()
    assert database.read(names) == {"a", "b", "c"}


@pytest.mark.parametrize("breaks", ["ROLLBACK", "no SQL", SystemExit])
def test_a_function_that_breaks_the_transaction_harms_no_other(database: Database, breaks: Any) -> None:
    def fails(connection: Connection) -> None:
        if breaks is SystemExit:
            raise SystemExit
        connection.exec_driver_sql(breaks)

    first, failed, second = together(database, partial(add_world, "a"), fails, partial(add_world, "b"))
    assert failed.exception() is not None
    assert [first.result(), second.result()] == ["a", "b"]
    assert database.read(names) == {"a", "b"}


def test_a_transaction_that_vanished_unnoticed_is_not_acknowledged(database: Database) -> None:
    def ends(connection: Connection) -> None:
        connection.connection.driver_connection.rollback()  # as SQLite does when the disk is full

    future = database.write(
        lambda connection: (add_world("a", connection), ends(connection), add_world("b", connection))
    )
    assert future.exception() is not None
    assert database.read(names) <= {"b"}


def test_a_failed_commit_fails_the_whole_group(database: Database) -> None:
    created = "CREATE TABLE child (name TEXT REFERENCES worlds (name) DEFERRABLE INITIALLY DEFERRED)"
    database.write(lambda connection: connection.execute(text(created))).result()
    orphan = text("INSERT INTO child VALUES ('nobody')")
    for future in together(database, partial(add_world, "a"), lambda connection: connection.execute(orphan)):
        assert isinstance(future.exception(), IntegrityError)
    assert database.read(names) == set()
    assert database.write(partial(add_world, "b")).result() == "b"


def test_a_future_resolves_after_the_commit(database: Database) -> None:
    seen = list[set[str]]()
    future = together(database, partial(add_world, "a"))[0]
    future.add_done_callback(lambda _: seen.append(database.read(names)))
    future.result()
    database.close()
    assert seen == [{"a"}]


def test_commits_are_flushed_to_disk(database: Database, database_url: str) -> None:
    question = "PRAGMA synchronous" if "sqlite" in database_url else "SHOW synchronous_commit"
    assert database.write(lambda connection: connection.execute(text(question)).scalar()).result() in (2, "on")


def test_reading_cannot_write(database: Database) -> None:
    with pytest.raises(UnavailableError):
        database.read(partial(add_world, "a"))
    assert database.read(names) == set()


def test_steps_of_a_session_go_with_it(database: Database) -> None:
    session = {"id": "s", "token_id": "t", "world": "w", "settings": {}, "state": {}, "step": 1}
    times = {"created": 0.0, "expires": 1.0}

    def fill(connection: Connection) -> None:
        connection.execute(insert(tables.sessions).values(**session, **times))
        connection.execute(insert(tables.session_steps).values(session_id="s", step=0, body=b"\0"))

    database.write(fill).result()
    database.write(lambda connection: connection.execute(delete(tables.sessions))).result()
    assert database.read(lambda connection: connection.execute(select(tables.session_steps)).all()) == []


def test_full_closed_and_cancelled_queues(database_url: str) -> None:
    with Database(database_url, queue=3) as database:
        begun, go = threading.Event(), threading.Event()
        database.write(lambda connection: (begun.set(), go.wait(60)))
        assert begun.wait(60)
        waiting = [database.write(partial(add_world, name)) for name in "def"]
        with pytest.raises(UnavailableError, match="3 writes wait"):
            database.write(partial(add_world, "g"))
        assert waiting[1].cancel()
        go.set()
    with Database(database_url) as again:  # closing the first one has completed its writes
        assert again.read(names) == set("df")
    with pytest.raises(UnavailableError, match="closed"):
        database.write(names)


def test_coroutines_wait_for_writes(database: Database) -> None:
    assert asyncio.run(database.write_async(partial(add_world, "a"))) == "a"


def test_two_processes_open_a_new_database_and_lose_no_increment(database_url: str) -> None:
    with run(database_url, "increment") as one, run(database_url, "increment") as other:
        assert [one.wait(120), other.wait(120)] == [0, 0]
    with Database(database_url) as database:
        assert database.read(
            lambda connection: connection.execute(select(tables.worlds.c.reference)).scalars().all()
        ) == [str(2 * INCREMENTS)]


def test_a_killed_process_loses_no_acknowledged_write(database_url: str) -> None:
    after = random.randrange(1, 2000)
    acknowledged = list[str]()
    with run(database_url, "insert") as other:
        for line in other.stdout or ():
            acknowledged.append(line)
            if len(acknowledged) == after:
                other.kill()  # what was written until it dies is read too
    with Database(database_url) as database:
        lost = {line.strip() for line in acknowledged if line.endswith("\n")} - database.read(names)
    assert lost == set(), after
    assert len(acknowledged) >= after


def test_conflicts_with_other_clients_and_lost_connections_are_survived(postgresql: Callable[[], str]) -> None:
    conflicts = iter(["40001", "40P01"])

    def meets(connection: Connection) -> str:
        for code in conflicts:
            connection.exec_driver_sql(f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$")
        return add_world("b", connection)

    ends = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = :name"
    )
    url = postgresql()
    with Database(url) as database, Database(url) as other:
        assert [done.result() for done in together(database, partial(add_world, "a"), meets)] == ["a", "b"]
        other.write(lambda connection: connection.execute(ends, {"name": url.rpartition("/")[2]}).all()).result()
        assert database.read(names) == {"a", "b"}
        assert database.write(partial(add_world, "c")).result() == "c"


@pytest.mark.parametrize("change", [("secret", "wrong-password"), ("127.0.0.1:", "127.0.0.1:1"), ("test_", "none_")])
def test_a_server_that_refuses_is_unavailable_without_its_address(
    postgresql: Callable[[], str], change: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    url = postgresql().replace(*change)
    if "127.0.0.1:1" in change:
        url = "postgresql://tests:secret@127.0.0.1:1/test"
    with pytest.raises(UnavailableError, match="The log has the reason") as failed:
        Database(url)
    for word in ("secret", "wrong-password", "127.0.0.1", "SELECT"):
        assert word not in str(failed.value)
    assert "127.0.0.1" in caplog.text
    assert "secret" not in caplog.text
    assert "wrong-password" not in caplog.text


def test_a_role_without_rights_gets_no_sql_in_its_error(
    postgresql: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    url = postgresql()
    for statement in ("REVOKE CREATE ON SCHEMA public FROM public", "CREATE ROLE guest LOGIN PASSWORD 'secret'"):
        execute(url, statement)
    with pytest.raises(UnavailableError, match="The log has the reason"):
        Database(url.replace("tests:", "guest:"))
    assert "database: permission denied for schema public" in caplog.text


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///:memory:", "mysql://u:secret@h/d", "postgresql+psycopg2://u:secret@h/d", "secret://:x"],
)
def test_other_urls_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(ConfigError, match="Give the path of a file") as refused:
        Database(url)
    assert "secret@" not in str(refused.value)


def test_a_missing_driver_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"worldline\[postgres\]"):
        Database("postgresql://u@h/d")


def test_the_default_file_is_readable_by_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WORLDLINE_DATABASE", raising=False)
    before = os.umask(0)
    try:
        with Database(default_url()) as database:
            database.write(partial(add_world, "a")).result()
            files = sorted((tmp_path / "home").iterdir())
            assert [file.name for file in files] == ["service.sqlite", "service.sqlite-shm", "service.sqlite-wal"]
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    finally:
        os.umask(before)
    monkeypatch.setenv("WORLDLINE_DATABASE", "postgresql://h/d")
    assert default_url() == "postgresql://h/d"


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("text" * 1000)
    with pytest.raises(UnavailableError):
        Database(tmp_path / "x")
