"""Worlds and clients for the tests of MCP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from threading import Event, Thread
from typing import Any

import anyio
import httpx2
import numpy as np
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from tests.serve.scripted import FewTokens, service_of

from worldline.engines.base import Card
from worldline.engines.baselines import Linear
from worldline.episode import Episode
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.serve import server
from worldline.serve.connections import BoundedServer
from worldline.serve.limits import Limits
from worldline.serve.mcp_server import create_server, http_app
from worldline.testing.toys import Integrator
from worldline.world.base import Forecast, Prediction, World
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(camera=False, wind=False, noise=0.1)
LOGS = TOY.episodes(30, 20, seed=0)


@cache
def toy_world() -> LocalWorld:
    """A calibrated world of the toy."""
    engine = Linear.fit(LOGS[:15], TOY.schema)
    calibration = calibrate(engine, LOGS[15:], horizon=6, num_windows=4, seed=0, with_causes=False)
    return LocalWorld(engine, calibration, CrossEntropy(num_candidates=32, num_iterations=2))


class WideWorld(World):
    """Predicts many signals; nothing else."""

    def __init__(self, num_signals: int, size: int, letters: str) -> None:
        names = [f"{letters}{number}" for number in range(num_signals)]
        parts = [Signal(name=name, role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(size,), unit="m") for name in names]
        push = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))
        self.card = Card(
            name="wide",
            engine="wide",
            schema=Schema(signals=(*parts, push)),
            inputs=tuple(names),
            predicts=tuple(names),
            context=1,
            deterministic=True,
        )

    def describe(self) -> Card:
        return self.card

    def answer(self, call: Any) -> Prediction:
        steps = len(call.actions["push"])
        rng = np.random.default_rng(0)
        signals = {}
        for name in self.card.predicts:
            mean = rng.normal(0, 1e-7, (steps, *self.card.schema[name].shape))
            signals[name] = Forecast(mean=mean, low=mean - 1, high=mean + np.inf, horizon=1)
        return Prediction(signals=signals, level=0.9, trust=0.01, calibrated=True, schema=self.card.schema)


class SlowWorld(WideWorld):
    """Answers no call before `gate` is set."""

    def __init__(self) -> None:
        super().__init__(1, 1, "x")
        self.entered, self.gate = Event(), Event()

    def answer(self, call: Any) -> Prediction:
        self.entered.set()
        assert self.gate.wait(60)
        return super().answer(call)


class BrokenWorld(WideWorld):
    """Fails in every call with an error that worldline does not raise."""

    def answer(self, call: Any) -> Prediction:
        raise ZeroDivisionError("secret in /srv/worlds")


def rows(episode: Episode, stop: int | None = None) -> dict[str, Any]:
    """An episode, or its first observations, as the tools take it."""
    short = episode if stop is None else episode.window(0, stop)
    groups = {"observations": short.observations, "actions": short.actions}
    return {group: {name: value.tolist() for name, value in arrays.items()} for group, arrays in groups.items()}


def in_process(worlds: Mapping[str, World], run: Callable[[Client], Any], limits: Limits | None = None) -> Any:
    """Runs an async function with a client in this process."""
    service = service_of(limits=limits, **worlds)

    async def main() -> Any:
        async with Client(create_server(service)) as client:
            return await run(client)

    try:
        return anyio.run(main)
    finally:
        service.close()


def call(worlds: Mapping[str, World], tool: str, **arguments: Any) -> Any:
    """The result of one tool, in this process."""
    return in_process(worlds, lambda client: client.call_tool(tool, arguments))


@contextmanager
def served(worlds: Mapping[str, World], tokens: FewTokens | None = None, **limits: Any) -> Iterator[str]:
    """The URL of a server in a thread."""
    service = service_of(limits=Limits(mcp_bytes=20_000, **limits), tokens=tokens, **worlds)
    listener = server.listen("127.0.0.1", 0)
    url = server.url_of(listener)
    running = BoundedServer(http_app(service, url=url, names=["127.0.0.1"]), service)
    thread = Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"{url}/mcp"
    finally:
        running.should_exit = True
        thread.join()


@asynccontextmanager
async def http_client(url: str, token: str | None = None) -> AsyncIterator[Client]:
    """A client over HTTP."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client
