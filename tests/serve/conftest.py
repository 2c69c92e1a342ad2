"""The databases of the tests: SQLite, and PostgreSQL in a temporary cluster."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from worldline.serve.database import Database

_NUMBERS = count()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of tests that are coroutines."""
    return "asyncio"


@contextmanager
def cluster() -> Iterator[str]:
    """Runs PostgreSQL on a free port of the loopback interface; yields the URL without the name of a database."""
    paths = (os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))))
    initdb = shutil.which("initdb", path=os.pathsep.join(paths))
    assert initdb is not None, "PostgreSQL is missing. Run scripts/ci-deps."
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Not below the folders of pytest, which only root may enter.
    with tempfile.TemporaryDirectory() as folder:
        user = list[str]()
        if os.getuid() == 0:  # whom PostgreSQL refuses
            shutil.chown(folder, "postgres")
            runuser = shutil.which("runuser", path=os.pathsep.join((*paths, "/usr/sbin", "/sbin")))
            assert runuser is not None, "runuser of util-linux is missing."
            user = [runuser, "-u", "postgres", "--"]
        data, password = Path(folder) / "data", Path(folder) / "password"
        password.write_text("secret")
        password.chmod(0o644)
        subprocess.run(
            [*user, initdb, "-D", data, "-U", "tests", "-A", "scram-sha-256", "--pwfile", password, "--no-sync"],
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
        # The shell stops the server when its input ends, even if the tests are killed.
        script = '"$@" & read -r _; kill -QUIT $!; wait'
        server = [str(Path(initdb).with_name("postgres")), "-D", str(data), "-p", str(port), "-k", "", "-F"]
        shell = subprocess.Popen(
            [*user, "sh", "-c", script, "sh", *server],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
        try:
            yield f"postgresql://tests:secret@127.0.0.1:{port}"
        finally:
            shell.communicate()


def execute(url: str, statement: str) -> None:
    """Runs a statement outside a transaction, once the server answers."""
    import psycopg

    for attempts_left in reversed(range(200)):
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(statement.encode())
                return
        except psycopg.OperationalError:
            if not attempts_left:
                raise
            time.sleep(0.05)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Creates a database, and returns its URL."""
    with cluster() as url:

        def create() -> str:
            name = f"test_{next(_NUMBERS)}"
            execute(f"{url}/postgres", f"CREATE DATABASE {name}")
            return f"{url}/{name}"

        yield create


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql")())
    return f"sqlite:///{tmp_path / 'service.sqlite'}"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open, empty database of each kind."""
    with Database(database_url) as opened:
        yield opened
