from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import IntegrityError
from tests.serve import database_process
from tests.serve.database_process import INCREMENTS, add_world

from worldline.errors import ConfigError, MissingExtraError, UnavailableError
from worldline.serve import tables
from worldline.serve.database import REVISIONS, Database, default_url


def names(connection: Connection) -> set[str]:
    return set(connection.execute(select(tables.worlds.c.name)).scalars())


def run(url: str, task: str) -> subprocess.Popen[str]:
    command = [sys.executable, database_process.__file__, url, task]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def differences(connection: Connection) -> list[Any]:
    """Between the tables of a database and those of this version."""
    context = MigrationContext.configure(connection, opts={"version_table": REVISIONS, "compare_type": True})
    return list(compare_metadata(context, tables.metadata))


def test_one_chain_of_revisions_builds_the_tables(database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(tables.__file__).with_name("migrations")))
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1
    assert database.read(differences) == []


def test_a_database_of_the_first_revision_is_upgraded(database_url: str) -> None:
    undo = (
        "DROP INDEX ix_session_steps_blob",
        "ALTER TABLE session_steps DROP COLUMN blob",
        "ALTER TABLE sessions DROP COLUMN signals",
        "DROP TABLE session_blobs",
        "ALTER TABLE jobs DROP COLUMN fence",
        f"UPDATE {REVISIONS} SET version_num = '0001'",
    )
    with Database(database_url) as database:
        database.write(lambda connection: [connection.execute(text(line)) for line in undo])
    with Database(database_url) as database:
        assert database.read(differences) == []


def test_a_database_of_a_later_version_is_refused(database_url: str) -> None:
    with Database(database_url) as database:
        database.write(lambda connection: connection.execute(text(f"UPDATE {REVISIONS} SET version_num = 'x9'")))
    with pytest.raises(ConfigError, match="revision x9, which"):
        Database(database_url)


def test_a_function_that_fails_changes_nothing(database: Database) -> None:
    def fails(connection: Connection) -> None:
        add_world("lost", connection)
        raise KeyError("mine")

    with ThreadPoolExecutor(8) as threads:
        failed = [threads.submit(database.write, fails) for _ in range(4)]
        added = [threads.submit(database.write, partial(add_world, name)) for name in "abca"]
    assert all(isinstance(future.exception(), KeyError) for future in failed)
    assert sum(isinstance(future.exception(), IntegrityError) for future in added) == 1
    assert database.read(names) == {"a", "b", "c"}


@pytest.mark.parametrize("breaks", ["ROLLBACK", "no SQL", SystemExit])
def test_after_a_function_that_breaks_its_transaction_others_write(database: Database, breaks: Any) -> None:
    def fails(connection: Connection) -> None:
        if breaks is SystemExit:
            raise SystemExit
        connection.exec_driver_sql(breaks)
        raise KeyError("mine")

    with pytest.raises((KeyError, SystemExit, UnavailableError)):
        database.write(fails)
    assert database.write(partial(add_world, "b")) == "b"
    assert database.read(names) == {"b"}


def test_a_failed_commit_is_not_acknowledged(database: Database) -> None:
    created = "CREATE TABLE child (name TEXT REFERENCES worlds (name) DEFERRABLE INITIALLY DEFERRED)"
    database.write(lambda connection: connection.execute(text(created)))
    orphan = text("INSERT INTO child VALUES ('nobody')")
    with pytest.raises(IntegrityError):
        database.write(lambda connection: (add_world("a", connection), connection.execute(orphan)))
    assert database.write(partial(add_world, "b")) == "b"
    assert database.read(names) == {"b"}


def test_commits_are_flushed_to_disk(database: Database, database_url: str) -> None:
    question = "PRAGMA synchronous" if "sqlite" in database_url else "SHOW synchronous_commit"
    assert database.write(lambda connection: connection.execute(text(question)).scalar()) in (2, "on")


def test_reading_cannot_write(database: Database) -> None:
    with pytest.raises(UnavailableError):
        database.read(partial(add_world, "a"))
    assert database.read(names) == set()


def test_closing_completes_the_writes_that_wait(database_url: str) -> None:
    with Database(database_url) as database:
        begun, go = threading.Event(), threading.Event()
        database.write_later(lambda connection: (begun.set(), go.wait(60)))
        assert begun.wait(60)
        for name in "def":
            database.write_later(partial(add_world, name))
        go.set()
    with Database(database_url) as again:
        assert again.read(names) == set("def")


def test_two_processes_open_a_new_database_and_lose_no_increment(database_url: str) -> None:
    with run(database_url, "increment") as one, run(database_url, "increment") as other:
        assert [one.wait(120), other.wait(120)] == [0, 0]
    with Database(database_url) as database:
        assert database.read(
            lambda connection: connection.execute(select(tables.worlds.c.reference)).scalars().all()
        ) == [str(2 * INCREMENTS)]


def test_a_killed_process_loses_no_acknowledged_write(database_url: str) -> None:
    after = random.randrange(1, 500)
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


def test_lost_connections_are_survived(postgresql: Callable[[], str]) -> None:
    ends = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = :name"
    )
    url = postgresql()
    with Database(url) as database, Database(url) as other:
        database.write(partial(add_world, "a"))
        assert database.read(names) == {"a"}
        other.write(lambda connection: connection.execute(ends, {"name": url.rpartition("/")[2]}).all())
        assert database.read(names) == {"a"}
        assert database.write(partial(add_world, "b")) == "b"


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
    with pytest.raises(MissingExtraError, match=r"\[postgres\]"):
        Database("postgresql://u@h/d")


def test_the_default_file_is_readable_by_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WORLDLINE_DATABASE", raising=False)
    before = os.umask(0)
    try:
        with Database(default_url()) as database:
            database.write(partial(add_world, "a"))
            files = sorted((tmp_path / "home").iterdir())
            assert [file.name for file in files] == ["service.sqlite", "service.sqlite-shm", "service.sqlite-wal"]
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    finally:
        os.umask(before)
    monkeypatch.setenv("WORLDLINE_DATABASE", "postgresql://h/d")
    assert default_url() == "postgresql://h/d"


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "service.sqlite" / "1").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"service\.sqlite is a folder.*Move the folder"):
        Database(tmp_path / "service.sqlite")


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("text" * 1000)
    with pytest.raises(UnavailableError):
        Database(tmp_path / "x")
