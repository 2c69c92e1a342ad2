"""A service of one toy world with the WebSocket endpoints, on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.serve.scripted import FewTokens, service_of

from worldline.engines.base import Card
from worldline.engines.baselines import Linear
from worldline.episode import History
from worldline.planning.calls import Call, PlanCall
from worldline.planning.planners.cem import CrossEntropy
from worldline.serve.callers import Scope
from worldline.serve.connections import BoundedServer
from worldline.serve.http import create_app
from worldline.serve.limits import Limits
from worldline.serve.server import listen, url_of
from worldline.serve.service import Service
from worldline.testing.toys import Integrator
from worldline.world.base import World
from worldline.world.local import LocalWorld

TOKEN, OTHER, READER = "wl_secret", "wl_other", "wl_reader"


def toy(*, wind: bool = False, camera: bool = False, noise: float = 0.0) -> LocalWorld:
    known = Integrator(camera=camera, wind=wind, noise=noise)
    return LocalWorld(Linear.fit(known.episodes(9, 20, seed=0), known.schema), None, CrossEntropy())


@dataclass
class Slow(World):
    """Plans as its world does, after a delay for each call; None for no delay."""

    world: World
    delays: list[float] = field(default_factory=list)
    requests: list[PlanCall] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    fault: Exception | None = None

    def describe(self) -> Card:
        return self.world.describe()

    def answer(self, call: Call) -> Any:
        if not isinstance(call, PlanCall):
            return self.world.answer(call)
        self.requests.append(call)
        self.histories.append(call.history)
        if self.fault is not None:
            raise self.fault
        if self.delays:
            time.sleep(self.delays.pop(0))
        return self.world.answer(replace(call, budget_s=None))


@dataclass
class Server:
    url: str
    service: Service
    stop: Callable[[], None]


@contextmanager
def serving_sockets(world: World, *, name: str = "toy", tokens: bool = False, **limits: float) -> Iterator[Server]:
    """Serves `world` on loopback."""
    known = FewTokens({TOKEN: {Scope.SESSION}, OTHER: {Scope.SESSION, Scope.INFER}, READER: {Scope.READ}})
    service = service_of(limits=Limits(**limits), tokens=known if tokens else None, **{name: world})
    listener = listen("127.0.0.1", 0)
    server = BoundedServer(create_app(service), service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()

    def stop() -> None:
        server.should_exit = True

    try:
        yield Server(f"ws{url_of(listener).removeprefix('http')}/v1", service, stop)
    finally:
        stop()
        thread.join(60)
        assert not thread.is_alive()
