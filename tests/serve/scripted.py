"""A world whose predictions are functions of the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec

from worldline.engines.base import Card
from worldline.engines.baselines import Linear
from worldline.planning.calls import Call, PredictCall
from worldline.planning.planners.cem import CrossEntropy
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.limits import Limits
from worldline.serve.service import Service, TokenCheck
from worldline.testing.toys import Integrator
from worldline.world.base import Prediction, World
from worldline.world.local import LocalWorld

TOY = Integrator(camera=False, wind=False)

ARGUMENTS = {"history": {"observations": {"position": [[0.0, 0.0]]}}, "actions": {"push": [[0.5, 0.0], [0.5, 0.0]]}}
"""A prediction of two steps, as it stands in JSON."""

BODY = msgspec.json.encode(ARGUMENTS)


@cache
def linear_world() -> LocalWorld:
    """Position' = 0.9 position + push."""
    return LocalWorld(Linear.fit(TOY.episodes(9, 20, seed=0), TOY.schema), None, CrossEntropy())


class ScriptedWorld(World):
    """Predicts what `script` returns for the linear world and the call; it may wait or raise."""

    def __init__(self, script: Callable[..., Any], **card: Any) -> None:
        self.script, self.card = script, replace(linear_world().describe(), **card)

    def describe(self) -> Card:
        return self.card

    def answer(self, call: Call) -> Any:
        assert isinstance(call, PredictCall)  # scripts answer predictions only
        found = self.script(call)
        return found if isinstance(found, Prediction) else linear_world().answer(call)


def service_of(
    world: World | None = None, limits: Limits | None = None, *, tokens: TokenCheck | None = None, workers: int = 1
) -> Service:
    """A service of one world, called "toy"."""

    def open_reference(reference: str) -> World:
        raise NotImplementedError(reference)

    hosts = Hosts(open_reference)
    hosts.add(HostedWorld("toy", None, linear_world() if world is None else world))
    return Service(hosts, limits, tokens=tokens, workers=workers)
