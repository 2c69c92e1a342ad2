from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import select
from tests.cli.conftest import Serve
from tests.cli.running import failed, run
from tests.serve.mcp_worlds import http_client, toy_world

from worldline.serve.callers import Scope
from worldline.serve.database import Database, default_url
from worldline.serve.tables import usage
from worldline.serve.tokens import Tokens
from worldline.world.bundle_io import save_world


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "toy"
    save_world(folder, toy_world())
    return folder


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WORLDLINE_DATABASE", str(tmp_path / "service.sqlite"))
    return default_url()


@pytest.mark.parametrize("needed", [False, True])
def test_worlds_are_served_until_ctrl_c(bundle: Path, database: str, serve: Serve, needed: bool) -> None:
    with Database(database) as opened:
        token = Tokens(opened).create("agent", [Scope.INFER]) if needed else None
    arguments = {"world": "room", "history": {"observations": {"position": [0, 0]}}, "actions": {"push": [0, 0]}}

    async def ask(url: str) -> Any:
        async with http_client(f"{url}/mcp", token) as client:
            return (await client.call_tool("predict", arguments)).structured_content

    said, found = serve("mcp", f"room={bundle}", "--http", ask=lambda url: anyio.run(ask, url))
    assert "room: MCP at http://127.0.0.1:" in said
    assert ("Callers need a token" in said) == needed
    assert found["world"] == "room"
    with Database(database) as opened:
        counted = opened.read(lambda connection: connection.execute(select(usage.c.calls)).scalars().all())
    assert sum(counted) == 1


def test_other_machines_need_a_token(bundle: Path, database: str) -> None:
    said = failed("mcp", bundle, "--http", "--host", "0.0.0.0", "--threads", "1")
    assert "other machines could call a service on 0.0.0.0 without a token" in said


def test_stdio_prints_nothing_but_the_protocol(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
    done = run("mcp", bundle, "--threads", "1", input=json.dumps(request) + "\n")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [1]
    assert "toy: MCP over stdio" in done.stderr
    assert capfd.readouterr().out == ""
