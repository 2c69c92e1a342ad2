"""A database that does not answer delays the calls that need it, and no others."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
from tests.serve.scripted import service_of
from tests.serve.toy_sessions import BODY, toy_world

from worldline.serve.callers import Scope
from worldline.serve.database import Database
from worldline.serve.server import serving
from worldline.serve.tokens import Tokens
from worldline.serve.usage import Usage


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Another connection locks everything: in SQLite no write succeeds, in PostgreSQL no read either."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.rollback()
        return
    import psycopg

    with psycopg.connect(url) as connection:
        for table in ("sessions", "session_steps", "tokens", "usage"):
            connection.execute(f"LOCK TABLE {table}".encode())
        yield
        connection.rollback()


def test_a_locked_database_does_not_block_other_calls(database_url: str) -> None:
    done = dict[str, int]()
    with Database(database_url) as database:
        tokens = Tokens(database)
        token, new = tokens.create("t", Scope), tokens.create("n", Scope)
        with serving(service_of(toy_world(), tokens=tokens, usage=Usage(database)), database) as url:

            def call(name: str, path: str, token: str, json: object) -> None:
                headers = {"authorization": f"Bearer {token}"}
                done[name] = httpx.post(f"{url}{path}", json=json, headers=headers, timeout=60).status_code

            call("first", "/v1/worlds/toy:predict", token, BODY)
            with locked(database_url):
                waiting = [
                    threading.Thread(target=call, args=arguments)
                    for arguments in (
                        ("session", "/v1/sessions", token, {"world": "toy"}),
                        ("unknown token", "/v1/worlds/toy:predict", new, BODY),
                    )
                ]
                for thread in waiting:
                    thread.start()
                slowest, until = 0.0, time.monotonic() + 1.5  # the upkeep waits for the lock, too
                while time.monotonic() < until:
                    began = time.monotonic()
                    assert httpx.get(f"{url}/healthz", trust_env=False, timeout=60).status_code == 200
                    assert httpx.get(f"{url}/readyz", trust_env=False, timeout=60).status_code == 200
                    slowest = max(slowest, time.monotonic() - began)
                call("kept token", "/v1/worlds/toy:predict", token, BODY)
                assert "session" not in done
                assert ("unknown token" in done) == database_url.startswith("sqlite")
            for thread in waiting:
                thread.join()
    assert done == {"first": 200, "kept token": 200, "session": 201, "unknown token": 200}
    assert slowest < 5.0  # a blocked event loop would wait for the lock: 10 s
