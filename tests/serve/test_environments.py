"""Runs of environments over HTTP."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import httpx
import numpy as np
import pytest
from gymnasium import spaces

import worldline
from worldline.catalog.opening import open_target
from worldline.errors import UnknownNameError, UnsupportedError
from worldline.serve.callers import ANYONE
from worldline.serve.environments import MAX_RUNS, Environments
from worldline.serve.hosting import Hosts
from worldline.serve.http import create_app
from worldline.serve.problems import GoneError, OverloadedError
from worldline.serve.service import Service

pytestmark = pytest.mark.anyio

ROOMS = "/v1/environments/two-rooms/runs"


class Lamp(gymnasium.Env[Any, Any]):
    """A lamp with two switches. The second step ends it."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Discrete(2)
    action_space = spaces.MultiBinary(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        self.count = 0
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return int(action.all()), 0.5, self.count == 2, False, {}

    def render(self) -> Any:
        return np.full((2, 3, 3), self.count, np.uint8)


class Dark(Lamp):
    """It cannot be drawn, because a package is missing."""

    def render(self) -> Any:
        raise gymnasium.error.DependencyNotInstalled("pip install pygame")


@pytest.fixture(scope="module", autouse=True)
def lamps() -> Iterator[None]:
    for name, kind in (("driven/Lamp-v0", Lamp), ("driven/Dark-v0", Dark)):
        gymnasium.register(name, kind)
    yield
    for name in ("driven/Lamp-v0", "driven/Dark-v0"):
        del gymnasium.registry[name]


@asynccontextmanager
async def client(*names: str) -> AsyncIterator[httpx.AsyncClient]:
    """Calls a service of these environments."""
    app: Any = create_app(Service(Hosts(open_target)), environments=Environments(names))
    options: Any = {"transport": httpx.ASGITransport(app), "base_url": "http://localhost"}
    async with app.router.lifespan_context(app), httpx.AsyncClient(**options) as http:
        yield http


def array_of(value: Any) -> np.ndarray:
    if isinstance(value, dict):
        return np.frombuffer(base64.b64decode(value["data"]), value["dtype"]).reshape(value["shape"])
    return np.array(value)


@pytest.mark.parametrize("name", ["two-rooms", "occluder", "CartPole-v1"])
async def test_a_run_shows_what_the_recording_with_its_seed_and_actions_stored(tmp_path: Path, name: str) -> None:
    store = worldline.record(name, tmp_path / "logs", num_episodes=1, max_steps=12, seed=5)
    episode = store.episode(0)

    async with client(name) as http:
        assert (await http.get("/v1/environments")).json() == {"environments": [name]}
        shown = await http.post(f"/v1/environments/{name}/runs", json={"seed": episode.seed})
        assert shown.status_code == 201
        for step in range(episode.num_steps + 1):
            view = shown.json()
            seen = {signal.name for signal in store.schema.observations if episode.mask(signal.name)[step]}
            assert (view["step"], view["observations"].keys()) == (step, seen)
            for signal in seen:
                value = array_of(view["observations"][signal]).astype(store.schema[signal].dtype)
                np.testing.assert_array_equal(value, episode.observations[signal][step])
            if step < episode.num_steps:
                actions = {signal: value[step].tolist() for signal, value in episode.actions.items()}
                path = f"/v1/environments/{name}/runs/{view['id']}:step"
                shown = await http.post(path, json={"actions": actions})
        assert view["done"] == episode.terminated


async def test_a_gymnasium_environment_is_drawn_and_ends() -> None:
    async with client("driven/Lamp-v0", "driven/Dark-v0") as http:
        path = "/v1/environments/driven/Lamp-v0/runs"
        run = (await http.post(path, json={})).json()["id"]
        body = {"actions": {"action.0": 1, "action.1": 1}}
        views = [(await http.post(f"{path}/{run}:step", json=body)).json() for _ in range(2)]
        assert [(view["reward"], view["done"]) for view in views] == [(0.5, False), (0.5, True)]
        assert [view["observations"] for view in views] == [{"observation": 1}] * 2
        np.testing.assert_array_equal(array_of(views[1]["picture"]), np.full((2, 3, 3), 2))
        over = await http.post(f"{path}/{run}:step", json=body)
        assert (over.status_code, "has ended" in over.json()["detail"]) == (409, True)
        assert (await http.delete(f"{path}/{run}")).status_code == 204
        assert (await http.delete(f"{path}/{run}")).status_code == 410
        dark = await http.post("/v1/environments/driven/Dark-v0/runs", json={})
        assert dark.json()["picture"] is None


async def test_wrong_requests_change_nothing() -> None:
    async with client("two-rooms") as http:
        run = (await http.post(ROOMS, json={"seed": 1})).json()["id"]
        for actions, message in (
            ({}, "action 'move' is missing"),
            ({"move": [1, 0], "jump": 1}, "'jump'"),
            ({"move": [1]}, "expected shape (2,), got (1,)"),
            ({"move": [7, 0]}, "[7.0, 0.0] px, outside its bounds (-6.0, -6.0) to (6.0, 6.0)"),
            ({"move": [None, 0]}, "is nan at [0]"),
        ):
            wrong = await http.post(f"{ROOMS}/{run}:step", json={"actions": actions})
            assert wrong.status_code == 400
            assert message in wrong.json()["detail"]
        assert (await http.post(f"{ROOMS}/{run}:step", json={"actions": {"move": [6, -6]}})).json()["step"] == 1
        assert "seed is -1" in (await http.post(ROOMS, json={"seed": -1})).json()["detail"]
        # An environment that the operator did not name cannot be run.
        unknown = await http.post("/v1/environments/CartPole-v1/runs", json={})
        assert (unknown.status_code, "Known: two-rooms" in unknown.json()["detail"]) == (404, True)


async def test_runs_are_limited_and_belong_to_their_caller() -> None:
    environments, name, other = Environments(["driven/Lamp-v0"]), "driven/Lamp-v0", replace(ANYONE, id="other")
    views = await asyncio.gather(*(environments.start(ANYONE, name, 0) for _ in range(MAX_RUNS // 2)))
    with pytest.raises(OverloadedError, match="5 runs of environments of this token would leave 3 of 8 for others"):
        await environments.start(ANYONE, name, 0)
    await environments.start(other, name, 0)
    with pytest.raises(GoneError):
        environments.end(other, name, views[0].id)
    environments.end(ANYONE, name, views[0].id)
    await environments.start(other, name, 0)
    environments.close()


async def test_an_unused_run_expires_and_makes_room() -> None:
    environments, name = Environments(["driven/Lamp-v0"], idle_s=0.05), "driven/Lamp-v0"
    for _ in range(2):
        views = await asyncio.gather(*(environments.start(ANYONE, name, 0) for _ in range(MAX_RUNS // 2)))
        await asyncio.sleep(0.2)
    with pytest.raises(GoneError, match=r"not used for 0\.05 s"):
        await environments.step(ANYONE, name, views[0].id, {})


def test_an_environment_that_cannot_run_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="two-romms"):
        Environments(["two-romms"])
    monkeypatch.setattr(Lamp, "observation_space", spaces.Text(3))
    with pytest.raises(UnsupportedError):
        Environments(["driven/Lamp-v0"])
