from __future__ import annotations

import re
import webbrowser
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.cli.conftest import Serve
from tests.cli.running import failed
from tests.data.stores import random_episode, stored
from tests.serve.scripted import TOY, linear_world

import worldline
from worldline.catalog.versions import Catalog
from worldline.engines.baselines import Linear
from worldline.errors import InputError
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.serve import server
from worldline.serve.callers import Scope
from worldline.serve.database import Database, default_url
from worldline.serve.tokens import Tokens
from worldline.world.bundle_io import save_world
from worldline.world.local import LocalWorld
from worldline.world.remote import RemoteWorld


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world in a folder, which is `toy@prod` too."""
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "home"))
    save_world(tmp_path / "toy", linear_world())
    Catalog().publish(tmp_path / "toy", "toy", alias="prod")
    return tmp_path / "toy"


@pytest.mark.parametrize("named", [False, True])
def test_a_world_is_served_until_ctrl_c(bundle: Path, serve: Serve, named: bool) -> None:
    said, card = serve("serve", "toy@prod" if named else bundle, ask=lambda url: worldline.open(url).describe())
    assert card == worldline.open(bundle).describe()
    assert f"toy (linear{', version 1' if named else ''}): http://127.0.0.1:" in said
    assert "Callers need no token" in said
    assert re.search(r"Next: +worldline audit http://127\.0\.0\.1:\d+/v1/worlds/toy LOGS", said)


@pytest.mark.parametrize("kind", ["store", "folder", "table"])
def test_the_studio_serves_a_world_and_logs(
    bundle: Path, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    logs, name = tmp_path / "logs" / "plant", "plant"
    if kind == "table":  # in which nothing says that b is an action
        name, logs = "plant_1_.csv", tmp_path / "plant(1).csv"
        logs.write_text("\n".join(["time,a,b", *(f"{step},{step / 9},{step * step % 7 + 0.5}" for step in range(12))]))
        roles = {"a": Role.OBSERVATION, "b": Role.ACTION}
        signals = (Signal(name=one, role=role, kind=Kind.VECTOR, shape=(1,)) for one, role in roles.items())
        schema = Schema(signals=tuple(signals), step_s=1.0)
        episodes = [random_episode(schema, 12, number) for number in range(3)]
        save_world(bundle.parent / "toy", LocalWorld(Linear.fit(episodes, schema), None, CrossEntropy()))
    else:
        stored(logs, TOY.schema, TOY.episodes(2, 12, seed=0))
    browsed = list[str]()
    monkeypatch.setattr(webbrowser, "open", browsed.append)

    def ask(url: str) -> None:
        assert "studio/main.js" in httpx.get(url, trust_env=False).text
        assert httpx.get(f"{url}/v1/logs", trust_env=False).json() == {"logs": [name]}
        call = f"{url}/v1/logs/{name}/episodes/0:predict?world=toy&at=3"
        assert httpx.post(call, json={}, trust_env=False).raise_for_status()

    said, _ = serve("studio", bundle, logs.parent if kind == "folder" else logs, ask=ask)
    assert re.search(r"Studio: (http://127\.0\.0\.1:\d+)\. Stop", said)[1] == browsed[0]
    assert f"Next:   worldline serve {bundle}" in said


def test_worlds_have_names_and_sessions(bundle: Path, serve: Serve) -> None:
    def ask(url: str) -> int:
        with pytest.raises(InputError, match="serves 2 worlds"):
            worldline.open(url).describe()
        with RemoteWorld(f"{url}/v1/worlds/second") as remote, remote.session() as session:
            session.observe({"position": np.zeros(2, np.float32)})
            return session.step

    assert serve("serve", "toy@prod", f"second={bundle}", ask=ask)[1] == 1


def test_environments_that_the_operator_names_can_be_run(bundle: Path, serve: Serve) -> None:
    def ask(url: str) -> object:
        return httpx.get(f"{url}/v1/environments", trust_env=False).json()

    assert serve("serve", bundle, "--environment", "two-rooms", ask=ask)[1] == {"environments": ["two-rooms"]}


def test_other_machines_need_a_token(bundle: Path, serve: Serve) -> None:
    def ask(url: str) -> None:
        with pytest.raises(InputError, match="needs a token"):
            worldline.open(url).describe()
        worldline.open(url, token=token).describe()

    words = ("serve", bundle, "--host", "0.0.0.0")
    assert "without a token. Create one with: worldline token create" in failed(*words)
    serve(*words, "--insecure", ask=lambda url: worldline.open(url).describe())
    with Database(default_url()) as database:
        token = Tokens(database).create("robot", [Scope.READ])
    assert "Callers need a token" in serve(*words, ask=ask)[0]


def test_a_port_that_is_taken_is_one_line(bundle: Path) -> None:
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        said = failed("serve", bundle, "--port", port, "--threads", "1")
    assert f"worldline: cannot listen on 127.0.0.1, port {port}" in said
