from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from worldline.engines.simulator import SimulatorEngine
from worldline.episode import Episode, Future, History
from worldline.errors import ConfigError, InputError, UnsupportedError
from worldline.labs.playing import explore
from worldline.labs.spaces import schema_of
from worldline.labs.two_rooms import TwoRooms
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_engine

SCHEMA = Schema(
    signals=(
        Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)),
        Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,)),
    )
)


class Gusts(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """A place that is pushed by actions and by gusts, all of which hang on the reset seed; ends beyond 100."""

    observation_space = gymnasium.spaces.Dict({"place": gymnasium.spaces.Box(-np.inf, np.inf, (1,))})
    action_space = gymnasium.spaces.Dict({"push": gymnasium.spaces.Box(-1, 1, (1,))})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.normal() if options is None else float(options["place"][0])
        return self.seen(), {}

    def step(self, action: dict[str, Any]) -> Any:
        self.place += float(action["push"][0]) + self.np_random.normal()
        return self.seen(), 0.0, self.place > 100, False, {}

    def seen(self) -> dict[str, Any]:
        return {"place": np.array([self.place], np.float32)}


ENGINE = SimulatorEngine(make_environment=Gusts, schema=SCHEMA)


def record(seed: int, push: np.ndarray) -> Episode:
    environment = Gusts()
    places = [environment.reset(seed=seed)[0]["place"]]
    places += [environment.step({"push": one})[0]["place"] for one in push]
    return Episode(observations={"place": np.stack(places)}, actions={"push": push}, seed=seed)


def pushes(seed: int, num_steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (num_steps, 1)).astype(np.float32)


def test_abducting_replays_the_hidden_draws_of_a_twin() -> None:
    taken, other = pushes(0, 10), pushes(1, 6)
    episode, twin = record(7, taken), record(7, np.concatenate([taken[:4], other]))
    belief, noise = ENGINE.abduct(episode, 4)
    future = Future(actions={"push": np.stack([taken[4:], other])[None]})
    found = ENGINE.imagine(belief, future, num_samples=1, noise=noise, seed=0).signals["place"][0, :, 0]
    np.testing.assert_array_equal(found[0], episode.observations["place"][5:])
    np.testing.assert_array_equal(found[1], twin.observations["place"][5:])


def test_an_episode_of_another_environment_is_refused() -> None:
    episode = record(7, pushes(0, 10))
    with pytest.raises(UnsupportedError, match="'place', step 0: the simulator, replayed from seed 8"):
        ENGINE.abduct(Episode(observations=episode.observations, actions=episode.actions, seed=8), 4)
    with pytest.raises(UnsupportedError, match="no reset seed"):
        ENGINE.abduct(Episode(observations=episode.observations, actions=episode.actions), 4)


def test_a_belief_begins_with_seeds_and_follows_what_is_observed() -> None:
    episodes = [record(seed, pushes(seed, 8)) for seed in (3, 4)]
    place, push = (
        np.stack([getattr(e, g)[n] for e in episodes]) for g, n in (("observations", "place"), ("actions", "push"))
    )
    belief = ENGINE.start([3, 4], {"push": push[:, :2]})
    grown = ENGINE.observe(
        belief, History(observations={"place": place[:, 3:6]}, actions={"push": push[:, 2:5]}), seed=0
    )
    found = ENGINE.imagine(grown, Future(actions={"push": push[:, None, 5:]}), num_samples=1, seed=0).signals["place"]
    np.testing.assert_array_equal(found[:, 0, 0], place[:, 6:])
    wrong = History(observations={"place": place[:, 3:6] + 1}, actions={"push": push[:, 2:5]})
    with pytest.raises(UnsupportedError, match="shows another value"):
        ENGINE.observe(belief, wrong, seed=0)
    unseen = History(observations=wrong.observations, actions=wrong.actions, observed={"place": np.zeros((2, 3), bool)})
    ENGINE.observe(belief, unseen, seed=0)  # what is missing cannot differ


def test_observations_alone_do_not_tell_the_seed() -> None:
    history = History(observations={"place": np.zeros((1, 1, 1), np.float32)}, actions={})
    with pytest.raises(UnsupportedError, match=r"engine\.start\(seeds, actions\)"):
        ENGINE.observe(None, history, seed=0)
    with pytest.raises(InputError, match="belief is a str"):
        ENGINE.imagine("mine", Future(actions={"push": np.zeros((1, 1, 1, 1), np.float32)}), num_samples=1, seed=0)


def test_the_last_observation_is_held_after_the_end() -> None:
    engine = SimulatorEngine(make_environment=Gusts, schema=SCHEMA, locate=dict)
    history = History(
        observations={"place": np.full((1, 1, 1), 200, np.float32)}, actions={"push": np.zeros((1, 0, 1), np.float32)}
    )
    belief = engine.observe(None, history, seed=0)
    future = Future(actions={"push": np.zeros((1, 1, 4, 1), np.float32)})
    found = engine.imagine(belief, future, num_samples=1, seed=0).signals["place"]
    assert len(np.unique(found)) == 1


ROOMS = TwoRooms("random")
LOCATED = SimulatorEngine(
    make_environment=lambda: TwoRooms("random"),
    schema=ROOMS.schema,
    locate=lambda seen: {"position": seen["position"], "wall": seen["wall"]},
)


def test_a_lab_conforms_once_it_can_be_located() -> None:
    check_engine(LOCATED, [explore(ROOMS, seed, 8) for seed in range(4)], horizon=3)


class Counter(gymnasium.Env[int, int]):
    """Spaces without names: a counter that an action moves by -1, 0 or 1, around a circle; shows one array always."""

    observation_space = gymnasium.spaces.Box(0, 4, (1,), np.float64)
    action_space = gymnasium.spaces.Discrete(3, start=-1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.count = np.array([float(self.np_random.integers(5))])
        return self.count, {}

    def step(self, action: int) -> Any:
        self.count[:] = (self.count + action) % 5  # in place, as careless environments do
        return self.count, 0.0, False, False, {}


def test_any_environment_will_do() -> None:
    engine = SimulatorEngine(make_environment=Counter, schema=schema_of(Counter()))
    belief = engine.start([3], {"action": np.zeros((1, 0), np.int64)})
    future = Future(actions={"action": np.array([[[2, 2, 0], [1, 1, 1]]])})
    found = engine.imagine(belief, future, num_samples=1, seed=0).signals["observation"][0, :, 0, :, 0]
    start = found[1, 0]
    np.testing.assert_array_equal((found - start) % 5, [[1, 2, 1], [0, 0, 0]])


def test_exogenous_signals_belong_to_the_environment() -> None:
    wind = Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,))
    with pytest.raises(ConfigError, match="Leave wind out"):
        SimulatorEngine(make_environment=Gusts, schema=Schema(signals=(*SCHEMA.signals, wind)))
