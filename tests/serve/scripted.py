"""A world whose predictions are functions of the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec

from worldline.engines.base import Card
from worldline.engines.baselines import Linear
from worldline.planning.calls import Call, PredictCall
from worldline.planning.planners.cem import CrossEntropy
from worldline.serve.callers import Caller, Scope, UnauthorizedError
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.limits import Limits
from worldline.serve.logs import ServedLogs
from worldline.serve.service import Service
from worldline.serve.usage import Usage
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


class FewTokens:
    """Tokens by their text, each with its scopes."""

    def __init__(self, known: Mapping[str, Set[Scope]]) -> None:
        self.known = known

    def any(self) -> bool:
        return bool(self.known)

    def is_kept(self, token: str) -> bool:
        return False

    def check(self, token: str) -> Caller:
        if token not in self.known:
            raise UnauthorizedError
        return Caller(id=token, name=token, scopes=frozenset(self.known[token]))


def service_of(
    world: World | None = None,
    limits: Limits | None = None,
    *,
    tokens: Any = None,
    workers: int = 1,
    logs: ServedLogs | None = None,
    usage: Usage | None = None,
    **worlds: World,
) -> Service:
    """A service of one world, called "toy", or of others by name."""

    def open_reference(reference: str) -> World:
        raise NotImplementedError(reference)

    hosts = Hosts(open_reference)
    for name, served in (worlds or {"toy": world or linear_world()}).items():
        hosts.add(HostedWorld(name, None, served))
    return Service(hosts, limits, tokens=tokens, workers=workers, logs=logs, usage=usage)
