from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from tests.serve.toy_sessions import publish, toy_world

from worldline.catalog.opening import open_target
from worldline.catalog.versions import Catalog
from worldline.serve import background
from worldline.serve.callers import Scope
from worldline.serve.database import Database
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.server import serving
from worldline.serve.service import Service
from worldline.serve.tokens import Tokens
from worldline.serve.usage import Usage

OBSERVATION = {"step": 0, "observations": {"position": [0.0, 0.0]}}
ON_A_FILE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """A folder, and a world of the catalog with two versions."""
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "home"))
    publish(tmp_path)
    made = Hosts()
    made.add(HostedWorld("folder", None, toy_world()))
    made.add(HostedWorld("b", "toy@prod", open_target("toy@prod")))
    return made


@contextmanager
def client(database: Database, hosts: Hosts, *scopes: Scope) -> Iterator[httpx.Client]:
    """Calls a service of these worlds with a new token."""
    tokens = Tokens(database)
    token = tokens.create("t", scopes)
    url = serving(Service(hosts, tokens=tokens), database)
    with url as base, httpx.Client(base_url=base, trust_env=False) as opened:
        opened.headers["authorization"] = f"Bearer {token}"
        yield opened


@ON_A_FILE
def test_sessions_follow_an_alias_that_is_moved(database: Database, hosts: Hosts) -> None:
    with client(database, hosts, *Scope) as http:
        session = http.post("/v1/sessions", json={"world": "b"}).json()["id"]
        assert http.post(f"/v1/sessions/{session}:observe", json=OBSERVATION).json()["version"] == 1
        moved = http.put("/v1/worlds/b/aliases/prod", json={"version": 2})
        assert (moved.status_code, moved.json()["aliases"]) == (200, {"next": 2, "prod": 2})
        assert Catalog().shelf("toy").alias("prod").now.reason == "moved over HTTP (t)"
        step = {**OBSERVATION, "step": 1, "actions": {"push": [0.1, 0.2]}, "exogenous": {"wind": [0.0, 0.0]}}
        assert http.post(f"/v1/sessions/{session}:observe", json=step).json()["version"] == 2
        view = http.get("/v1/worlds/b").json()
        assert (view["version"], view["aliases"]) == (2, {"next": 2, "prod": 2})
        for path, body, status in (
            ("b/aliases/prod", {"version": 9}, 400),
            ("b/aliases/prod", {"version": 0}, 400),
            ("b/aliases/7", {"version": 1}, 400),
            ("b/aliases/..%2f..%2fx", {"version": 1}, 404),
            ("b/aliases/prod", {"version": 1, "reason": "x" * 1001}, 400),
            ("b/aliases/prod", {}, 400),
            ("folder/aliases/prod", {"version": 1}, 422),
            ("none/aliases/prod", {"version": 1}, 404),
        ):
            assert http.put(f"/v1/worlds/{path}", json=body).status_code == status, (path, body)
        assert Catalog().shelf("toy").alias("prod").now.version == 2


@ON_A_FILE
def test_scopes_of_administration_and_sessions(database: Database, hosts: Hosts) -> None:
    admin = [
        partial(httpx.Client.put, url="/v1/worlds/b/aliases/prod", json={"version": 2}),
        partial(httpx.Client.get, url="/v1/usage"),
    ]
    session = [
        partial(httpx.Client.post, url="/v1/sessions", json={"world": "b"}),
        partial(httpx.Client.get, url="/v1/sessions/x"),
        partial(httpx.Client.delete, url="/v1/sessions/x"),
        partial(httpx.Client.post, url="/v1/sessions/x:observe", json=OBSERVATION),
        partial(httpx.Client.post, url="/v1/sessions/x:fork"),
    ]
    with client(database, hosts, *(set(Scope) - {Scope.ADMIN, Scope.SESSION})) as http:
        for call in admin + session:
            answer = call(http)
            assert answer.status_code == 403
            assert ("admin" if call in admin else "session") in answer.json()["detail"]


def test_the_upkeep_goes_on_after_a_failure(
    database: Database, hosts: Hosts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "INTERVAL_S", 0.01)
    tokens = Tokens(database)
    service = Service(hosts, tokens=tokens, usage=Usage(database))
    database.write(lambda connection: connection.execute(text("ALTER TABLE usage RENAME TO away")).close())

    async def run() -> None:
        async with background.kept_up(service):
            assert not service.needs_token
            tokens.create("t", [Scope.READ])
            async with asyncio.timeout(20):
                while not service.needs_token:
                    await asyncio.sleep(0.01)

    asyncio.run(run())
    logged = {record.getMessage() for record in caplog.records if record.name.endswith("background")}
    assert any(message.startswith("Usage.flush fails, and is repeated: UnavailableError at ") for message in logged)
