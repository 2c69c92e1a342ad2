from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldline.data.store import Store, open_store
from worldline.errors import ConfigError, DataError, InputError, UnknownNameError, UnsupportedError
from worldline.labs.base import Policy
from worldline.labs.spaces import from_signals
from worldline.progress import Progress
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.record import record


class Counter(gymnasium.Env):
    """Starts at a random number, adds the action; terminates above 10, truncates after 8 steps; reuses its array."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-3, 3, (1,), np.float32)

    def __init__(self) -> None:
        self.seen = np.zeros(2, np.float32)
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seen[:] = self.np_random.uniform(0, 5), 0
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


def test_the_reward_is_stored_as_it_was(tmp_path):
    store = record(Counter(), tmp_path / "store", num_episodes=1, max_steps=6, seed=3)
    episode = store.episode(0)
    assert (store.schema["reward"].role, episode.rewards["reward"].dtype) == (Role.REWARD, np.float64)
    assert episode.rewards["reward"].tolist() == [[0.1 * float(taken)] for taken in episode.actions["action"][:, 0]]


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
            action = from_signals({"action": episode.actions["action"][step]}, env.action_space, Role.ACTION)
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


def content(store: Store) -> list[dict[str, Any]]:
    """Everything that is stored of each episode, as bytes."""
    found = []
    for number in range(len(store)):
        episode, entry = store.episode(number), store.entry(number)
        arrays = episode.observations | episode.actions | episode.rewards
        ends = {"seed": entry.seed, "terminated": entry.terminated, "truncated": entry.truncated}
        found.append({name: values.tobytes() for name, values in arrays.items()} | ends | dict(entry.source))
    return found


class Uneven(Counter):
    """Ends after a number of steps that is drawn on reset; tells things that cannot be put into a batch."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        shown, _ = super().reset(seed=seed)
        self.steps_left = int(self.np_random.integers(1, 12))
        return shown, {"path": np.zeros(self.steps_left)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.steps_left, "stepped after the end"
        self.steps_left -= 1
        return (
            super().step(action)[0],
            1.0,
            self.steps_left == 0,
            False,
            {"path": np.zeros(self.steps_left), "step": self.steps_left},
        )


@pytest.mark.parametrize(
    ("environment", "max_steps"), [("Pendulum-v1", 11), ("CartPole-v1", 30), ("two-rooms", 9), (Uneven, 8), (Switch, 4)]
)
def test_what_is_recorded_does_not_depend_on_how_many_run_side_by_side(tmp_path, environment, max_steps):
    stores = [
        record(environment, tmp_path / f"{n}", num_episodes=7, max_steps=max_steps, seed=4, num_envs=n)
        for n in (1, 2, 3, 5, 9)
    ]
    alone = content(stores[0])
    assert [episode["number"] for episode in alone] == list(range(7))
    assert len({episode["seed"] for episode in alone}) == 7
    if environment in ("CartPole-v1", Uneven):
        assert len(set(stores[0].num_steps.tolist())) > 1  # so that lanes fall out of step
        assert any(episode["terminated"] for episode in alone)
    for store in stores[1:]:
        assert content(store) == alone


def test_the_dummy_step_after_a_reset_is_not_stored(tmp_path):
    store = record(Uneven, tmp_path / "store", num_episodes=20, max_steps=8, seed=0, num_envs=3)
    assert store.num_steps.min() < 8 == store.num_steps.max()
    for number in range(20):
        episode = store.episode(number)
        seen, taken = episode.observations["observation"], episode.actions["action"]
        np.testing.assert_allclose(np.diff(seen[:, 0]), taken[:, 0], atol=1e-5)
        assert seen[:, 1].tolist() == list(range(len(seen)))
        assert episode.rewards["reward"].all()


def test_each_lane_has_a_policy_of_its_own(tmp_path):
    class Drift(Policy):
        def reset(self, generator: np.random.Generator) -> None:
            self.level = generator.uniform(-1, 1)

        def act(self, observation: Any, generator: np.random.Generator) -> Any:
            self.level += generator.normal(0, 0.1)
            return [np.clip(self.level + 0.01 * observation[0], -3, 3)]

    kept = [
        content(record(Uneven, tmp_path / f"{n}{kind}", policy=policy, num_episodes=5, max_steps=9, seed=0, num_envs=n))
        for n in (1, 3)
        for kind, policy in enumerate((Drift(), Drift))
    ]
    assert kept[0] == kept[1] == kept[2] == kept[3]


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


def test_environments_that_differ_are_refused(tmp_path):
    made: list[Counter] = []

    def another() -> Counter:
        made.append(Counter())
        made[-1].action_space = spaces.Box(-len(made), len(made), (1,), np.float32)
        return made[-1]

    with pytest.raises(InputError, match="other spaces"):
        record(another, tmp_path / "a", num_episodes=2, max_steps=1, seed=0, num_envs=2)
    assert [one.closed for one in made] == [True, True]


def test_processes_record_the_same(tmp_path):
    # In an interpreter of its own: forking one that has threads is warned of, and here warnings are errors.
    code = """if True:
        import sys, worldline
        for n in (0, 2):
            path = f"{sys.argv[1]}/{n}"
            worldline.record("CartPole-v1", path, num_episodes=3, max_steps=9, seed=1, num_envs=n or 1, processes=n > 0)
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=100)
    alone, together = (open_store(tmp_path / n) for n in "02")
    assert content(alone) == content(together)


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


class Composed(Counter):
    """An observation and an action of several parts."""

    observation_space = spaces.Tuple(
        (spaces.Dict({"arm/left": spaces.Dict(joint=spaces.Box(-9, 9, (2,)))}), spaces.MultiBinary(3))
    )
    action_space = spaces.Dict(pick=spaces.MultiDiscrete([3, 2], start=[0, 5]), lamps=spaces.MultiBinary(2))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._show(super().reset(seed=seed)[0] * 0, np.zeros(2, np.int8)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return self._show(action["pick"], action["lamps"]), 0.0, False, False, {}

    def _show(self, pick: Any, lamps: Any) -> Any:
        return {"arm/left": {"joint": np.asarray(pick, np.float32)}}, np.array([*lamps, 1], np.int8)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_parts_of_spaces_are_signals(tmp_path, num_envs):
    store = record(Composed, tmp_path / "store", num_episodes=2, max_steps=20, seed=0, num_envs=num_envs)
    assert {signal.name: signal.size for signal in store.schema.signals} == {
        "observation.0.arm.left.joint": 2, "observation.1": 3,
        "lamps.0": 2, "lamps.1": 2, "pick.0": 3, "pick.1": 2, "reward": 1,
    }  # fmt: skip
    episode = store.episode(1)
    joint, flags = (episode.observations[name][1:] for name in ("observation.0.arm.left.joint", "observation.1"))
    picked = np.stack([episode.actions["pick.0"], episode.actions["pick.1"] + 5], 1)
    np.testing.assert_array_equal(joint, picked)
    np.testing.assert_array_equal(flags[:, :2], np.stack([episode.actions["lamps.0"], episode.actions["lamps.1"]], 1))
    assert flags[:, 2].all()
    assert np.ptp(picked, axis=0).tolist() == [2, 1]


def test_spaces_that_cannot_be_laid_out_are_refused(tmp_path):
    class Talking(Counter):
        observation_space = spaces.Dict(words=spaces.Text(5))

    class Twice(Counter):
        observation_space = spaces.Dict(reward=spaces.Box(0, 1, (1,)))

    with pytest.raises(UnsupportedError, match=r"observation 'words' is a Text"):
        record(Talking(), tmp_path / "a", num_episodes=1, max_steps=1, seed=0)
    with pytest.raises(ConfigError, match="named twice: reward"):
        record(Twice(), tmp_path / "b", num_episodes=1, max_steps=1, seed=0)


def test_only_what_was_made_here_is_closed(tmp_path):
    env = Counter()
    record(env, tmp_path / "a", num_episodes=1, max_steps=1, seed=0)
    assert not env.closed
    made = []

    def another() -> Counter:
        made.append(Counter())
        return made[-1]

    record(another, tmp_path / "b", num_episodes=5, max_steps=1, seed=0, num_envs=3)
    assert [one.closed for one in made] == [True] * 3


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
    with pytest.raises(InputError, match="num_envs is 0"):
        record(Counter, tmp_path / "b", num_episodes=1, max_steps=1, seed=0, num_envs=0)
    with pytest.raises(InputError, match=r"is one environment.*Give its name, or a function"):
        record(Counter(), tmp_path / "b", num_episodes=2, max_steps=1, seed=0, num_envs=2)


def test_an_interrupted_recording_keeps_what_was_complete(tmp_path):
    def give_up(now: Progress) -> None:
        if now.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(Uneven, tmp_path / "a", num_episodes=9, max_steps=9, seed=0, num_envs=2, progress=give_up)
    whole = record(Uneven, tmp_path / "b", num_episodes=9, max_steps=9, seed=0)
    assert content(open_store(tmp_path / "a")) == content(whole)[:3]
