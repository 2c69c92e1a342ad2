"""An engine and a world that leave everything to another one; tests override what they need otherwise."""

from __future__ import annotations

from typing import Any

from worldline.engines.base import Card, Engine, EngineBelief, Samples
from worldline.engines.numpy_engine import NumpyEngine
from worldline.episode import Future, History
from worldline.planning.calls import Call
from worldline.world.base import World


class Wrapped(NumpyEngine):
    """Answers as another engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def describe(self) -> Card:
        return self.engine.describe()

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        return self.engine.observe(belief, steps, seed=seed)

    def imagine(self, belief: EngineBelief, future: Future, **rest: Any) -> Samples:
        return self.engine.imagine(belief, future, **rest)


class Forwarding(World):
    """A world behind which another one answers; `check` is called before each verb."""

    def __init__(self, world: World) -> None:
        self.world = world

    def check(self) -> None:
        pass

    def describe(self) -> Card:
        return self.world.describe()

    def answer(self, call: Call) -> Any:
        self.check()
        return self.world.answer(call)
