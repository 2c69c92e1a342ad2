from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, text
from tests.serve.toy_sessions import ANN, publish, toy_world

from worldline.catalog.opening import open_target
from worldline.catalog.versions import Catalog
from worldline.errors import InputError, UnknownNameError, WorldlineError
from worldline.serve import registry as module
from worldline.serve.background import Upkeep
from worldline.serve.callers import Scope
from worldline.serve.database import Database
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.problems import ConflictError, NotFoundError
from worldline.serve.registry import Registry
from worldline.serve.server import serving
from worldline.serve.service import Service
from worldline.serve.tables import worlds
from worldline.serve.tokens import Tokens
from worldline.serve.usage import Usage

pytestmark = pytest.mark.anyio

OBSERVATION = {"step": 0, "observations": {"position": [0.0, 0.0]}}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDLINE_HOME", str(folder / "home"))
        publish(folder)
    return folder / "home"


@pytest.fixture(autouse=True)
def home(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog with two versions of the toy."""
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "home"))
    shutil.copytree(published, tmp_path / "home")
    return tmp_path / "home"


def hosts_of(*names: str) -> Hosts:
    """The worlds of a command line."""
    hosts = Hosts(open_target)
    for name in names:
        hosts.add(HostedWorld(name, None, toy_world()))
    return hosts


def row(name: str, reference: str) -> dict[str, Any]:
    return {"name": name, "reference": reference, "added": 0.0, "added_by": "ann"}


@contextmanager
def client(database: Database, hosts: Hosts, *scopes: Scope) -> Iterator[httpx.Client]:
    """Calls a service of these worlds with a new token."""
    tokens = Tokens(database)
    token = tokens.create("t", scopes)
    url = serving(Service(hosts, tokens=tokens), database)
    with url as found, httpx.Client(base_url=found, trust_env=False) as opened:
        opened.headers["authorization"] = f"Bearer {token}"
        yield opened


async def test_worlds_that_one_process_adds_and_removes_are_followed_by_the_other(database: Database) -> None:
    one, other = hosts_of("toy"), hosts_of("toy", "mine")

    first, second = Registry(one, database), Registry(other, database)
    added, _ = await first.add(ANN, "b", "toy@prod")
    assert (added.reference, added.version, set(one)) == ("toy@prod", 1, {"toy", "b"})
    await first.add(ANN, "mine", "toy@2")
    for _ in range(2):
        await second.sync()
        assert set(other) == {"toy", "mine", "b"}
    assert other["mine"].reference is None
    for registry in (first, second):
        with pytest.raises(ConflictError, match="'toy@prod'"):
            await registry.add(ANN, "b", "toy@1")
        assert await registry.add(ANN, "b", "toy@prod") == (registry._hosts["b"], False)
        with pytest.raises(NotFoundError, match="added world"):
            await registry.remove("toy")  # of the command line
    await second.remove("mine")  # added by the other process; its own stays
    await second.remove("b")
    await first.sync()
    assert (set(one), set(other)) == ({"toy"}, {"toy", "mine"})
    await first.add(ANN, "b", "toy@1")
    await first.remove("b")
    assert (await second.add(ANN, "b", "toy@2"))[1]  # before the first one noticed anything
    with pytest.raises(ConflictError, match="'toy@2'"):
        await first.add(ANN, "b", "toy@1")
    found, is_new = await first.add(ANN, "b", "toy@2")
    assert (found.version, is_new, one["b"]) == (2, False, found)
    await first.sync()
    assert one["b"].version == other["b"].version == 2
    await Registry(restarted := hosts_of("toy"), database).sync()
    assert set(restarted) == {"toy", "b"}
    with pytest.raises(ConflictError, match="'toy' is served"):  # by the command line
        await first.add(ANN, "toy", "toy@prod")


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("b", "toy@none"),
        ("b", "toy@9"),
        ("b", "nothing@prod"),
        ("b", "../toy@prod"),
        ("b", "/etc/passwd"),
        ("b", "https://example.com/v1/worlds/toy"),
        ("b", "file:///etc@prod"),
        ("b", ""),
        ("../b", "toy@prod"),
        ("b:predict", "toy@prod"),
        ("toy", "toy@prod"),
        ("", "toy@prod"),  # the name of the catalog, which is taken
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_cannot_be_served_is_neither_served_nor_stored(
    database: Database, name: str, reference: str
) -> None:
    hosts = hosts_of("toy")

    with pytest.raises((InputError, UnknownNameError)):
        await Registry(hosts, database).add(ANN, name, reference)
    assert set(hosts) == {"toy"}
    assert database.read(lambda connection: connection.execute(worlds.select()).all()) == []


async def test_a_world_that_cannot_be_opened_is_tried_again_and_harms_no_other(
    database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, now, tries = hosts_of(), [0.0], list[str]()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: 0.0))

    def open_world(reference: str) -> Any:
        tries.append(reference)
        if reference == "odd@prod":
            raise ZeroDivisionError
        return open_target(reference)

    hosts = Hosts(open_world)
    rows = [row("a", "odd@prod"), row("b", "late@prod"), row("c", "toy@prod")]
    database.write(lambda connection: connection.execute(insert(worlds), rows).close())

    upkeep = Upkeep([Registry(hosts, database).sync], [])
    for _ in range(3):
        await upkeep.once()
    assert set(hosts) == {"c"}
    assert tries == ["odd@prod", "late@prod", "toy@prod"]
    Catalog().publish(home / "worlds" / "toy" / "2", "late", alias="prod")
    now[0] += module.RETRY_S
    await upkeep.once()
    assert set(hosts) == {"b", "c"}


async def test_a_failure_does_not_stop_the_upkeep_and_is_logged_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def execute(statement: str) -> None:
        database.write(lambda connection: connection.execute(text(statement)).close())

    hosts = hosts_of()
    upkeep = Upkeep([Usage(database).flush, Registry(hosts, database).sync], [])

    await Registry(Hosts(open_target), database).add(ANN, "b", "toy@prod")
    for _ in range(2):
        caplog.clear()
        execute("ALTER TABLE usage RENAME TO away")
        for _ in range(3):
            await upkeep.once()
        execute("ALTER TABLE away RENAME TO usage")
        for _ in range(2):
            await upkeep.once()
        begun, ended = [one.getMessage() for one in caplog.records if one.name.endswith("background")]
        assert begun.startswith("Usage.flush fails, and is repeated: UnavailableError at ")
        assert ended == "Usage.flush no longer fails"
    assert set(hosts) == {"b"}


async def test_a_sync_that_read_before_forgets_no_added_world(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, has_read, go = hosts_of(), threading.Event(), threading.Event()
    read = database.read

    def late(function: Any) -> Any:
        found = read(function)
        has_read.set()
        go.wait(0.3)
        return found

    registry = Registry(hosts, database)
    monkeypatch.setattr(database, "read", late)
    syncing = asyncio.create_task(registry.sync())
    await asyncio.to_thread(has_read.wait)
    await registry.add(ANN, "b", "toy@prod")
    go.set()
    await syncing
    assert set(hosts) == {"b"}


def test_administration_over_http(database: Database) -> None:
    with client(database, hosts_of("folder"), *Scope) as http:
        answer = http.post("/v1/worlds", json={"name": "b", "reference": "toy@prod"})
        added = {"name": "b", "reference": "toy@prod", "version": 1, "engine": "linear"}
        assert (answer.status_code, answer.json()) == (201, added)
        for reference, status in (("toy@prod", 200), ("toy@1", 409), ("toy@prod", 200)):
            answer = http.post("/v1/worlds", json={"name": "b", "reference": reference})
            assert answer.status_code == status
        assert answer.json() == added
        session = http.post("/v1/sessions", json={"world": "b"}).json()["id"]
        assert http.post(f"/v1/sessions/{session}:observe", json=OBSERVATION).json()["version"] == 1
        moved = http.put("/v1/worlds/b/aliases/prod", json={"version": 2})
        assert (moved.status_code, moved.json()["aliases"]) == (200, {"next": 2, "prod": 2})
        assert Catalog().shelf("toy").alias("prod").now.reason == "moved over HTTP (t)"
        step = {**OBSERVATION, "step": 1, "actions": {"push": [0.1, 0.2]}, "exogenous": {"wind": [0.0, 0.0]}}
        assert http.post(f"/v1/sessions/{session}:observe", json=step).json()["version"] == 2
        found = http.get("/v1/worlds/b").json()
        assert (found["version"], found["aliases"]) == (2, {"next": 2, "prod": 2})
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
        assert http.delete("/v1/worlds/folder").status_code == 404
        assert http.delete("/v1/worlds/b").status_code == 204
        assert http.post(f"/v1/sessions/{session}:observe", json={**step, "step": 2}).status_code == 404
        assert [one["name"] for one in http.get("/v1/worlds").json()["worlds"]] == ["folder"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_scopes_of_administration_and_sessions(database: Database) -> None:
    admin = [
        partial(httpx.Client.post, url="/v1/worlds", json={"name": "b", "reference": "toy@prod"}),
        partial(httpx.Client.delete, url="/v1/worlds/b"),
        partial(httpx.Client.put, url="/v1/worlds/b/aliases/prod", json={"version": 2}),
        partial(httpx.Client.get, url="/v1/usage"),
    ]
    session = [
        partial(httpx.Client.post, url="/v1/sessions", json={"world": "toy"}),
        partial(httpx.Client.get, url="/v1/sessions/x"),
        partial(httpx.Client.delete, url="/v1/sessions/x"),
        partial(httpx.Client.post, url="/v1/sessions/x:observe", json=OBSERVATION),
        partial(httpx.Client.post, url="/v1/sessions/x:fork"),
    ]
    with client(database, hosts_of("toy"), *(set(Scope) - {Scope.ADMIN, Scope.SESSION})) as http:
        for call in admin + session:
            answer = call(http)
            assert answer.status_code == 403
            assert ("admin" if call in admin else "session") in answer.json()["detail"]


def test_added_worlds_answer_from_the_first_call_after_a_restart(database: Database) -> None:
    stored = insert(worlds).values(row("b", "toy@prod"))
    database.write(lambda connection: connection.execute(stored).close())
    with client(database, hosts_of(), Scope.READ) as http:
        assert http.get("/v1/worlds/b").json()["version"] == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_errors_of_the_catalog_name_no_path(database: Database, home: Path) -> None:
    shutil.rmtree(home / "worlds" / "toy" / "1")
    with client(database, hosts_of(), Scope.ADMIN) as http:
        answer = http.post("/v1/worlds", json={"name": "b", "reference": "toy@prod"})
    assert answer.status_code >= 400
    assert str(home) not in answer.text
    assert WorldlineError.__name__ not in answer.text
