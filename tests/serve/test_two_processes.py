"""Two services share a PostgreSQL database."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.serve.service_process import AHEAD, Nursery, ServiceProcess, step
from tests.serve.toy_sessions import publish

from worldline.serve.callers import Scope
from worldline.serve.database import Database
from worldline.serve.tokens import Tokens

SYNC_S = 60.0
"""Wide; an idle machine needs one second."""


def soon(call: Callable[[], httpx.Response], status: int) -> httpx.Response:
    """The answer once it has this status."""
    until = time.monotonic() + SYNC_S
    while (answer := call()).status_code != status and time.monotonic() < until:
        time.sleep(0.1)
    assert answer.status_code == status, answer.text
    return answer


def test_two_services_share_sessions_worlds_and_quotas(
    postgresql: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, home, log = postgresql(), tmp_path / "home", tmp_path / "log"
    monkeypatch.setenv("WORLDLINE_HOME", str(home))
    publish(tmp_path)
    with (
        Nursery() as nursery,
        Database(url) as database,
        ServiceProcess(nursery, url, home, log, "toy=toy@prod") as one,
        ServiceProcess(nursery, url, home, log, "toy=toy@prod") as other,
    ):
        tokens = Tokens(database)
        token, few = tokens.create("all", Scope), tokens.create("few", [Scope.INFER], quota=5)
        one.wait()
        other.wait()
        with one.client(token) as first, other.client(token) as second:
            session = first.post("/v1/sessions", json={"world": "toy"}).json()["id"]
            clients, path = (first, second), f"/v1/sessions/{session}"
            for number in range(8):
                answer = clients[number % 2].post(f"{path}:observe", json=step(number, float(number)))
                assert answer.json()["step"] == number + 1
            assert second.post(f"{path}:observe", json=step(7, 0.0)).status_code == 409
            bands = [client.post(f"{path}:predict", json=AHEAD).json()["signals"]["position"] for client in clients]
            np.testing.assert_allclose(bands[0]["high"], bands[1]["high"], rtol=1e-4)

            assert first.post("/v1/worlds", json={"name": "b", "reference": "toy@2"}).status_code == 201
            assert soon(lambda: second.get("/v1/worlds/b"), 200).json()["version"] == 2
            assert second.delete("/v1/worlds/b").status_code == 204
            soon(lambda: first.get("/v1/worlds/b"), 404)
            assert first.put("/v1/worlds/toy/aliases/prod", json={"version": 2}).status_code == 200
            assert second.get("/v1/worlds/toy").json()["version"] == 2

        body = {"history": {"observations": {"position": [[0.0, 0.0]]}, "actions": {}}, **AHEAD}
        with one.client(few) as first, other.client(few) as second:

            def ask(client: httpx.Client) -> httpx.Response:
                return client.post("/v1/worlds/toy:predict", json=body)

            assert [ask(first).status_code for _ in range(5)] == [200] * 5
            soon(lambda: ask(second), 429)
