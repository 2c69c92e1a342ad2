from __future__ import annotations

import dataclasses
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldline.data.store import Store, open_store
from worldline.errors import DataError, InputError, UnknownNameError
from worldline.labs.base import Policy
from worldline.labs.spaces import SpaceLayout
from worldline.progress import Progress
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.record import record


class Counter(gymnasium.Env):
    """Starts at a random number, adds the action; terminates above 10, truncates after 8 steps; reuses its array."""

    HIGHEST_START = 5.0
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-3, 3, (1,), np.float32)

    def __init__(self) -> None:
        self.seen = np.zeros(2, np.float32)
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seen[:] = self.np_random.uniform(0, self.HIGHEST_START), 0
        return self.seen, {"secret": 1}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.seen += action[0], 1
        return self.seen, 0.1 * float(action[0]), bool(self.seen[0] > 10), bool(self.seen[1] >= 8), {}

    def close(self) -> None:
        self.closed = True


class Switch(gymnasium.Env):
    """A dictionary of a flag and a picture, and a choice that starts at 1."""

    observation_space = spaces.Dict(lamp=spaces.Discrete(2), camera=spaces.Box(0, 255, (3, 3, 3), np.uint8))
    action_space = spaces.Discrete(2, start=1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._show(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in (1, 2)
        return self._show(int(action) - 1), 0.0, False, False, {}

    def _show(self, lamp: int) -> dict[str, Any]:
        return {"lamp": np.int64(lamp), "camera": np.full((3, 3, 3), 255 * lamp, np.uint8)}


def upwards(observation: Any, generator: np.random.Generator) -> Any:
    return np.array([2.0], np.float32)


def test_action_t_takes_observation_t_to_the_next(tmp_path):
    store = record(Counter(), tmp_path / "store", num_episodes=5, max_steps=6, seed=3)
    assert [signal.name for signal in store.schema.signals] == ["observation", "action", "reward"]
    assert (store.schema["action"].low, store.schema["action"].high) == ((-3,), (3,))
    for number in range(5):
        episode = store.episode(number)
        seen, taken = episode.observations["observation"], episode.actions["action"]
        assert len(seen) == len(taken) + 1 == episode.num_steps + 1
        np.testing.assert_allclose(np.diff(seen[:, 0]), taken[:, 0], atol=1e-5)
        np.testing.assert_array_equal(seen[:, 1], np.arange(len(seen)))  # the row of the reset comes once, first
        assert episode.rewards["reward"].tolist() == [[0.1 * float(value)] for value in taken[:, 0]]  # in float64


def test_the_two_ends_are_told_apart(tmp_path):
    ended = record(Counter(), tmp_path / "a", policy=upwards, num_episodes=3, max_steps=99, seed=0)
    cut = record(Counter(), tmp_path / "b", policy=upwards, num_episodes=3, max_steps=2, seed=0)
    timed = record(Counter(), tmp_path / "c", policy=lambda *_: np.zeros(1), num_episodes=3, max_steps=99, seed=0)
    assert {(e.terminated, e.truncated) for e in ended.entries()} == {(True, False)}
    assert {(e.terminated, e.truncated, e.num_steps) for e in cut.entries()} == {(False, True, 2)}
    assert {(e.terminated, e.truncated, e.num_steps) for e in timed.entries()} == {(False, True, 8)}


def test_an_episode_is_replayed_from_its_seed(tmp_path):
    store = record("CartPole-v1", tmp_path / "store", num_episodes=3, max_steps=20, seed=5)
    env = gymnasium.make("CartPole-v1")
    for number in range(3):
        episode = store.episode(number)
        observation, _ = env.reset(seed=episode.seed)
        for step in range(episode.num_steps):
            np.testing.assert_array_equal(observation, episode.observations["observation"][step])
            action = SpaceLayout(env.action_space, Role.ACTION).write({"action": episode.actions["action"][step]})
            observation, *_ = env.step(action)
        np.testing.assert_array_equal(observation, episode.observations["observation"][-1])
    env.close()


def test_an_episode_depends_on_the_seed_and_its_number_only(tmp_path):
    def hashes(name: str, num_episodes: int, seed: int) -> list[bytes]:
        store = record(Counter(), tmp_path / name, num_episodes=num_episodes, max_steps=6, seed=seed)
        return [store.episode(i).observations["observation"].tobytes() for i in range(num_episodes)]

    few, many, other = hashes("few", 2, 1), hashes("many", 4, 1), hashes("other", 2, 2)
    assert few == many[:2]
    assert len({*many, *other}) == 6


def test_dictionaries_choices_and_pictures(tmp_path):
    store = record(Switch(), tmp_path / "store", num_episodes=2, max_steps=12, seed=0)
    assert {signal.name: signal.kind for signal in store.schema.signals} == {
        "lamp": Kind.DISCRETE, "camera": Kind.IMAGE, "action": Kind.DISCRETE, "reward": Kind.VECTOR,
    }  # fmt: skip
    episode = store.episode(1)
    np.testing.assert_array_equal(episode.observations["lamp"][1:], episode.actions["action"])
    np.testing.assert_array_equal(episode.observations["camera"][1:, 0, 0, 0], episode.actions["action"] * 255)
    assert set(episode.actions["action"].tolist()) == {0, 1}


def test_a_given_schema_names_units_and_leaves_signals_out(tmp_path):
    lamp = Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=2, entity="lamp")
    press = Signal(name="action", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=2)
    schema = Schema(signals=(lamp, press), step_s=2.0)
    assert record(Switch(), tmp_path / "a", num_episodes=1, max_steps=3, seed=0, schema=schema).schema == schema
    wrong = Schema(signals=(press, Signal(name="x", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))))
    with pytest.raises(DataError, match=r"signal 'x'.*missing"):
        record(Switch(), tmp_path / "b", num_episodes=1, max_steps=3, seed=0, schema=wrong)


def test_a_lab_is_explored_by_its_own_policy(tmp_path):
    ticks = []
    explored = record(
        "two-rooms", tmp_path / "a", num_episodes=2, max_steps=4, seed=0,
        progress=lambda now: ticks.append((now.step, now.total)),
    )  # fmt: skip
    named = record("two-rooms", tmp_path / "b", policy="explorer", num_episodes=2, max_steps=4, seed=0)
    random = record("two-rooms", tmp_path / "c", policy="random", num_episodes=2, max_steps=4, seed=0)
    assert explored.content_hash() == named.content_hash() != random.content_hash()
    assert explored.schema["position"].unit == "px"
    assert ticks == [(1, 2), (2, 2)]
    assert [open_store(tmp_path / "a").entry(number).source for number in (0, 1)] == [{"number": 0}, {"number": 1}]


def test_a_policy_with_memory_is_reset_for_each_episode(tmp_path):
    class Ramp(Policy):
        def reset(self, generator: np.random.Generator) -> None:
            self.level = 0.0

        def act(self, observation: Any, generator: np.random.Generator) -> Any:
            self.level += 0.25
            return [self.level]

    store = record(Counter(), tmp_path / "store", policy=Ramp(), num_episodes=2, max_steps=3, seed=0)
    for number in range(2):
        assert store.episode(number).actions["action"][:, 0].tolist() == [0.25, 0.5, 0.75]


MODULE = """
from worldline.labs.base import Policy

def push(observation, generator):
    return generator.uniform(-1, 1, 1)

class Swing(Policy):
    level = 1.5
    def reset(self, generator):
        pass
    def act(self, observation, generator):
        return [self.level]

class Stranger:
    pass

gentle = Swing()
gentle.level = 0.5
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "acting_for_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acting_for_a_test", raising=False)
    return "acting_for_a_test"


def test_a_path_leads_to_a_function_a_class_or_a_policy(tmp_path, module):
    def taken(name: str) -> list[float]:
        path = tmp_path / name
        store = record(Counter(), path, policy=f"{module}:{name}", num_episodes=1, max_steps=2, seed=0)
        return store.episode(0).actions["action"][:, 0].tolist()

    assert np.abs(taken("push")).max() <= 1
    assert taken("Swing") == [1.5, 1.5]
    assert taken("gentle") == [0.5, 0.5]


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        (":push", InputError, r"':push'. Write module:name"),
        ("no_such_package_at_all.inner:push", InputError, r"there is no module 'no_such_package_at_all'"),
        ("acting_for_a_test:pusch", UnknownNameError, r"'pusch'. Did you mean 'push'"),
        ("acting_for_a_test:Stranger", InputError, r"a subclass of worldline.labs.base.Policy"),
    ],
)
def test_what_is_wrong_with_a_path_is_named(tmp_path, module, path, error, words):
    with pytest.raises(error, match=words):
        record(Counter(), tmp_path / "store", policy=path, num_episodes=1, max_steps=1, seed=0)


def content(store: Store) -> list[dict[str, Any]]:
    """Everything that is stored of each episode, as bytes."""
    found = []
    for number in range(len(store)):
        episode, entry = store.episode(number), store.entry(number)
        arrays = episode.observations | episode.actions | episode.rewards
        ends = {"seed": entry.seed, "terminated": entry.terminated, "truncated": entry.truncated}
        found.append({name: values.tobytes() for name, values in arrays.items()} | ends | dict(entry.source))
    return found


def test_a_policy_may_keep_and_change_what_it_was_shown(tmp_path):
    """The environment reuses its array."""
    kept: list[np.ndarray] = []

    def policy(observation: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        kept.append(observation)
        before = observation.copy()
        observation += 100
        return (before[:1] - (kept[-2][:1] - 100) if len(kept) > 1 else np.ones(1)).astype(np.float32)

    store = record(Counter(), tmp_path / "a", policy=policy, num_episodes=1, max_steps=3, seed=0)
    episode = store.episode(0)
    np.testing.assert_allclose(np.stack(kept) - 100, episode.observations["observation"][:-1], atol=1e-4)
    np.testing.assert_allclose(episode.actions["action"], np.ones((3, 1)), atol=1e-4)


def test_settings_reach_the_environment(tmp_path):
    def pushed(name: str, settings: dict[str, Any] | None) -> list[dict[str, Any]]:
        path = tmp_path / name
        return content(record("Pendulum-v1", path, num_episodes=1, max_steps=3, seed=0, env_kwargs=settings))

    assert pushed("a", None) == pushed("b", {"g": 10.0}) != pushed("c", {"g": 1.6})
    with pytest.raises(InputError, match=r"Pendulum-v1 cannot be made with \{'weight': 1\}.*'weight'"):
        pushed("d", {"weight": 1})
    with pytest.raises(InputError, match="two-rooms cannot be made"):
        record("two-rooms", tmp_path / "e", num_episodes=1, max_steps=1, seed=0, env_kwargs={"weight": 1})
    with pytest.raises(InputError, match="belong to an environment's name"):
        record(Counter, tmp_path / "f", num_episodes=1, max_steps=1, seed=0, env_kwargs={"weight": 1})


def test_what_was_executed_is_what_is_logged_where_a_schema_is_coarser(tmp_path):
    class Exact(Counter):
        observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        action_space = spaces.Box(-3, 3, (1,), np.float64)
        taken: list[float] = []  # noqa: RUF012

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self.taken.append(float(action[0]))
            return super().step(action)

    fine = record(Exact(), tmp_path / "fine", num_episodes=1, max_steps=4, seed=0)
    assert fine.episode(0).actions["action"].dtype == np.float64
    assert fine.episode(0).actions["action"][:, 0].tolist() == Exact.taken[:4]
    schema = Schema(signals=tuple(dataclasses.replace(s, precision="float32") for s in fine.schema.signals))
    coarse = record(Exact(), tmp_path / "coarse", num_episodes=1, max_steps=4, seed=0, schema=schema)
    assert coarse.episode(0).actions["action"].dtype == np.float32
    assert coarse.episode(0).actions["action"][:, 0].tolist() == Exact.taken[4:] != Exact.taken[:4]


def test_only_what_was_made_here_is_closed(tmp_path):
    env = Counter()
    record(env, tmp_path / "a", num_episodes=1, max_steps=1, seed=0)
    assert not env.closed
    made = []

    def another() -> Counter:
        made.append(Counter())
        return made[-1]

    record(another, tmp_path / "b", num_episodes=5, max_steps=1, seed=0)
    assert [one.closed for one in made] == [True]


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="two-rooms"):
        record("two-room", tmp_path / "a", num_episodes=1, max_steps=1, seed=0)
    with pytest.raises(UnknownNameError, match="CartPole-v1"):
        record("CartPol-v1", tmp_path / "a", num_episodes=1, max_steps=1, seed=0)
    with pytest.raises(InputError, match=r"'greedy'.*'random'"):
        record(Counter(), tmp_path / "a", policy="greedy", num_episodes=1, max_steps=1, seed=0)
    with pytest.raises(InputError, match="'explorer'"):
        record(Counter(), tmp_path / "a", policy="explorer", num_episodes=1, max_steps=1, seed=0)
    with pytest.raises(InputError, match="num_episodes is 0"):
        record(Counter(), tmp_path / "a", num_episodes=0, max_steps=1, seed=0)
    with pytest.raises(InputError, match="max_steps is 0"):
        record(Counter(), tmp_path / "a", num_episodes=1, max_steps=0, seed=0)
    assert not (tmp_path / "a").exists()
    with pytest.raises(DataError, match=r"signal 'action'.*outside"):
        record(Counter(), tmp_path / "b", policy=lambda *_: np.full(1, 9.0), num_episodes=1, max_steps=2, seed=0)
    assert not (tmp_path / "b").exists()  # no episode, so it can be tried again there
    with pytest.raises(InputError, match=r"action 'action' is float64 of shape \(2,\).*Box\(-3"):
        record(Counter(), tmp_path / "b", policy=lambda *_: np.zeros(2), num_episodes=1, max_steps=2, seed=0)
    with pytest.raises(InputError, match=r"action 'action' is float64.*Discrete\(2, start=1\)"):
        record(Switch(), tmp_path / "b", policy=lambda *_: 1.5, num_episodes=1, max_steps=2, seed=0)


def test_an_interrupted_recording_keeps_what_was_complete(tmp_path):
    def give_up(now: Progress) -> None:
        if now.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(Counter, tmp_path / "a", num_episodes=9, max_steps=9, seed=0, progress=give_up)
    whole = record(Counter, tmp_path / "b", num_episodes=9, max_steps=9, seed=0)
    assert content(open_store(tmp_path / "a")) == content(whole)[:3]
