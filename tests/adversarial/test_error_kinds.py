"""Which errors mean "another world might answer", and which mean "the request is wrong"."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from tests.served_world import serving_world
from tests.world.wrapped import Forwarding, Wrapped

from worldline.catalog.fallback import FallbackWorld
from worldline.engines.base import Card, Engine, EngineBelief, Samples
from worldline.engines.baselines import Linear
from worldline.engines.simulator import SimulatorEngine
from worldline.episode import Episode, Future
from worldline.errors import InputError, UnknownNameError, UnreadableError, UnsupportedError
from worldline.planning.base import Chance, Goal
from worldline.planning.costs import AtMost, Price
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.small_searches import FirstProposal
from worldline.schema import Kind, Role, Schema, Signal
from worldline.serve.limits import Limits
from worldline.testing.toys import Integrator
from worldline.world.base import World
from worldline.world.fit_calibration import calibrate
from worldline.world.local import MAX_SAMPLES, LocalWorld
from worldline.world.remote import RemoteWorld
from worldline.world.session import Session

TOY = Integrator(noise=0.1, camera=False, wind=False)
SPEED = Signal(name="speed", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m")
SCHEMA = Schema(signals=(*TOY.schema.observations, SPEED, *TOY.schema.actions))


def episodes(num_episodes: int, seed: int) -> list[Episode]:
    """Positions, and as a second signal their differences."""
    found = []
    for one in TOY.episodes(num_episodes, 12, seed=seed):
        position = one.observations["position"]
        speed = np.diff(position, axis=0, prepend=position[:1])
        found.append(replace(one, observations={"position": position, "speed": speed}))
    return found


class PositionOnly(Wrapped):
    """Predicts one of two signals."""

    def describe(self) -> Card:
        return replace(super().describe(), predicts=("position",))

    def imagine(self, belief: EngineBelief, future: Future, **options: Any) -> Samples:
        return Samples(signals={"position": super().imagine(belief, future, **options).signals["position"]})


LINEAR, SEARCH = Linear.fit(episodes(30, 0), SCHEMA, context=1), CrossEntropy(num_candidates=8, num_iterations=1)
EPISODE = episodes(1, 9)[0]
HISTORY = EPISODE.history(3, 1)
GOAL = Goal(targets={"position": np.zeros(2)})
TOLERANT = replace(GOAL, tolerance={"position": 1.0})
BOUND = AtMost(signal="position", bound=9.0)


def calibrated(engine: Engine, num_episodes: int, horizon: int) -> LocalWorld:
    logs = episodes(num_episodes, 1)
    return LocalWorld(engine, calibrate(engine, logs, horizon=horizon, num_windows=1, seed=0), SEARCH)


FEW = calibrated(PositionOnly(LINEAR), 12, 4)
UNCALIBRATED, PROPOSED = replace(FEW, calibration=None), replace(FEW, planner=FirstProposal())
MANY = calibrated(LINEAR, 60, 8)


def pushes(num_steps: int) -> dict[str, np.ndarray]:
    return {"push": np.full((num_steps, 2), 0.1, np.float32)}


def plans(num_steps: int) -> dict[str, np.ndarray]:
    return {name: value[None] for name, value in pushes(num_steps).items()}


def watched(world: World) -> object:
    """A prediction at a high level after three steps of a session."""
    session = Session(world, level=0.95)
    for step in range(4):
        taken = None if step == 0 else {"push": EPISODE.actions["push"][step - 1]}
        session.observe({name: value[step] for name, value in EPISODE.observations.items()}, actions=taken)
    return session.predict(pushes(2))


Ask = Callable[[World], object]
CANNOT: dict[str, tuple[LocalWorld, Ask]] = {
    "level": (FEW, lambda world: world.predict(HISTORY, pushes(2), level=0.95)),
    "level in a session": (FEW, watched),
    "horizon of samples": (FEW, lambda world: world.predict(HISTORY, pushes(6), num_samples=2)),
    "samples": (UNCALIBRATED, lambda world: world.predict(HISTORY, pushes(2), num_samples=2)),
    "level of a chance": (
        FEW,
        lambda world: world.score(HISTORY, plans(2), TOLERANT, [Chance(constraint=BOUND, level=0.95)]),
    ),
    "horizon of a chance": (
        FEW,
        lambda world: world.plan(HISTORY, TOLERANT, constraints=[Chance(constraint=BOUND, level=0.5)], horizon=6),
    ),
    "chance": (
        UNCALIBRATED,
        lambda world: world.score(HISTORY, plans(2), TOLERANT, [Chance(constraint=BOUND, level=0.5)]),
    ),
    "tolerance": (UNCALIBRATED, lambda world: world.plan(HISTORY, GOAL, horizon=2)),
    "cost of a signal": (
        FEW,
        lambda world: world.score(HISTORY, plans(2), Goal(costs=(Price(signal="speed", price=1.0),))),
    ),
    "constraint on a signal": (
        FEW,
        lambda world: world.plan(HISTORY, GOAL, constraints=[AtMost(signal="speed", bound=9.0)], horizon=2),
    ),
    "planner": (PROPOSED, lambda world: world.plan(HISTORY, GOAL, horizon=2)),
    "surprise": (UNCALIBRATED, lambda world: world.surprise(EPISODE)),
}
WRONG: dict[str, Ask] = {
    "NaN": lambda world: world.predict(HISTORY, {"push": np.full((2, 2), np.nan)}),
    "unknown signal": lambda world: world.predict(
        replace(HISTORY, observations={**HISTORY.observations, "sped": np.zeros((1, 2))}), pushes(2)
    ),
    "horizon": lambda world: world.plan(HISTORY, GOAL, horizon=-1),
    "branch": lambda world: world.what_if(EPISODE, 11, pushes(4)),
    "no step": lambda world: world.surprise(EPISODE.window(0, 1)),
}


@contextmanager
def here(world: World) -> Iterator[World]:
    yield world


@contextmanager
def served(world: World) -> Iterator[World]:
    with serving_world(world) as url, RemoteWorld(url) as remote:
        yield remote


def placed(cases: Iterable[str], *over_http: str) -> list[tuple[str, object]]:
    """Each case in this process, and one of each class of errors over HTTP."""
    return [*((case, here) for case in cases), *((case, served) for case in over_http)]


@pytest.mark.parametrize(
    ("case", "place"), placed(CANNOT, "level in a session", "chance", "constraint on a signal", "surprise")
)
def test_the_next_world_answers_what_the_first_cannot(case: str, place: Callable[..., Any]) -> None:
    limited, ask = CANNOT[case]
    with place(limited) as world:
        with pytest.raises(UnsupportedError) as caught:
            ask(world)
        assert isinstance(caught.value, UnreadableError) == case.endswith("signal")
        both = FallbackWorld([world, MANY])
        ask(both)
    first, second = both.tally().values()
    assert first == (3 if "session" in case else 0)  # it measures the surprise of the steps
    assert second >= 1


@pytest.mark.parametrize(("case", "place"), placed(WRONG, "NaN", "unknown signal", "horizon", "branch"))
def test_a_wrong_request_ends_at_the_first_world(case: str, place: Callable[..., Any]) -> None:
    with place(MANY) as world:
        both = FallbackWorld([world, Untouchable(MANY)])
        with pytest.raises(InputError):
            WRONG[case](both)


class Untouchable(Forwarding):
    """Fails if any verb is called."""

    def check(self) -> None:
        raise AssertionError("the next world was asked")


def test_a_misspelt_signal_of_a_cost_is_no_limit_of_the_world() -> None:
    goal = Goal(costs=(Price(signal="sped", price=1.0),))
    with pytest.raises(UnknownNameError, match="speed"):
        FallbackWorld([MANY, Untouchable(MANY)]).score(HISTORY, plans(2), goal)


def test_more_samples_than_a_world_draws() -> None:
    with pytest.raises(UnsupportedError, match=f"1 to {MAX_SAMPLES}"):
        MANY.predict(HISTORY, pushes(2), num_samples=MAX_SAMPLES + 1)


def test_a_request_that_is_too_large_for_a_server_goes_to_the_next_world() -> None:
    with serving_world(MANY, limits=Limits(body_bytes=2000)) as url, RemoteWorld(url) as small:
        with pytest.raises(UnsupportedError, match="more than 2000 bytes"):
            small.predict(HISTORY, pushes(3000))
        assert small.predict(HISTORY, pushes(2)).calibrated
        both = FallbackWorld([small, MANY])
        both.predict(HISTORY, pushes(3000))
    assert list(both.tally().values()) == [0, 1]


class Never(gymnasium.Env[Any, Any]):
    """Starts, and agrees with no log."""

    observation_space = gymnasium.spaces.Dict(
        {one.name: gymnasium.spaces.Box(-np.inf, np.inf, one.shape) for one in SCHEMA.observations}
    )
    action_space = gymnasium.spaces.Dict({"push": gymnasium.spaces.Box(-1, 1, (2,))})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return {one.name: np.full(one.shape, 77.0, np.float32) for one in SCHEMA.observations}, {}


@pytest.mark.parametrize("seed", [None, 5])
def test_an_episode_that_a_simulator_cannot_replay_goes_to_the_next_world(seed: int | None) -> None:
    simulator = LocalWorld(SimulatorEngine(make_environment=Never, schema=SCHEMA), None, SEARCH)
    both, episode = FallbackWorld([simulator, MANY]), replace(EPISODE, seed=seed)
    with pytest.raises(UnsupportedError, match=r"no reset seed|shows another value"):
        simulator.what_if(episode, 0, pushes(2))
    both.what_if(episode, 0, pushes(2))
    assert list(both.tally().values()) == [0, 1]
