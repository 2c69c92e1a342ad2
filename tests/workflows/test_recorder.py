from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import Autoreset, TimeLimit
from tests.data.stores import stored
from tests.workflows import test_record

from worldline.data.store import Store, open_store
from worldline.errors import DataError, InputError, UnsupportedError
from worldline.labs.two_rooms import TwoRooms
from worldline.schema import Schema
from worldline.workflows.record import record
from worldline.workflows.recorder import Recorder


class Counter(test_record.Counter):
    """Counts up by its action and terminates at 5; shows and keeps one array, and changes actions in place."""

    HIGHEST_START = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.executed: list[float] = []

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not np.isfinite(action).all():
            raise FloatingPointError("the motor burnt out")
        self.executed.append(float(action[0]))
        self.seen += action[0], 1
        action *= 0
        return self.seen, 0.1 * float(self.seen[1]), bool(self.seen[0] >= 5), False, {}


ONE, TWO = np.array([1.0]), np.array([2.0])


def ends(store: Store) -> list[tuple[int, bool, bool]]:
    entries = [store.entry(number) for number in range(len(store))]
    return [(int(steps), e.terminated, e.truncated) for steps, e in zip(store.num_steps, entries, strict=True)]


def test_an_episode_is_stored_when_it_ends(tmp_path):
    counter = Counter()
    with Recorder(counter, tmp_path / "logs") as env:
        shown, info = env.reset(seed=3)
        assert (shown[1], info) == (0, {"secret": 1})
        assert not (tmp_path / "logs").exists()
        for _ in range(3):
            shown, _, terminated, _, _ = env.step(TWO)
        assert terminated
        assert ends(open_store(tmp_path / "logs")) == [(3, True, False)]
    assert counter.closed
    store = open_store(tmp_path / "logs")
    episode = store.episode(0)
    assert len(store) == 1
    assert episode.seed == 3
    assert episode.observations["observation"][:, 1].tolist() == [0, 1, 2, 3]
    assert np.ptp(episode.observations["observation"][:, 0] - [0, 2, 4, 6]) < 1e-6
    assert episode.actions["action"].tolist() == [[2.0]] * 3
    assert episode.rewards["reward"].tolist() == [[0.1 * 1.0], [0.1 * 2.0], [0.1 * 3.0]]
    assert TWO[0] == 2


def test_an_episode_that_is_left_early_is_truncated_and_an_empty_one_is_not_stored(tmp_path):
    with Recorder(Counter(), tmp_path / "logs") as env:
        env.reset(seed=1)
        env.reset(seed=2)
        env.step(ONE)
        env.step(ONE)
        env.reset()
        env.step(ONE)
        env.reset(seed=7, options={"start": 2})
        env.step(ONE)
        env.close()
        env.close()
    store = open_store(tmp_path / "logs")
    assert ends(store) == [(2, False, True), (1, False, True), (1, False, True)]
    assert [store.entry(number).seed for number in range(3)] == [2, None, None], "only where it replays the episode"
    with Recorder(Counter(), tmp_path / "none") as env:
        env.reset()
    assert not (tmp_path / "none").exists()


def test_an_exception_loses_nothing_that_was_complete(tmp_path):
    def stumble() -> None:
        with Recorder(Counter(), tmp_path / "a") as env:
            env.reset()
            for _ in range(5):
                env.step(TWO) if env.unwrapped.seen[0] < 5 else env.reset()
            env.step(TWO)
            raise ZeroDivisionError

    def burn_out() -> None:
        with Recorder(Counter(), tmp_path / "b") as env:
            env.reset()
            env.step(ONE)
            env.step(np.array([np.inf]))  # this step never was

    with pytest.raises(ZeroDivisionError):
        stumble()
    assert ends(open_store(tmp_path / "a")) == [(3, True, False), (2, False, True)]
    with pytest.raises(FloatingPointError):
        burn_out()
    assert ends(open_store(tmp_path / "b")) == [(1, False, True)]


@pytest.mark.parametrize("above", [True, False])
def test_it_works_above_and_beneath_a_time_limit(tmp_path, above):
    env = (
        Recorder(TimeLimit(Counter(), 2), tmp_path / "logs")
        if above
        else TimeLimit(Recorder(Counter(), tmp_path / "logs"), 2)
    )
    with env:
        for seed in range(3):
            env.reset(seed=seed)
            truncated = terminated = False
            while not (truncated or terminated):
                *_, terminated, truncated, _ = env.step(ONE if seed else 3 * ONE)
    both = above  # where the limit is beneath, its step is also the one that terminates
    assert ends(open_store(tmp_path / "logs")) == [(2, True, both), (2, False, True), (2, False, True)]


def test_the_dummy_step_of_an_autoreset_is_not_stored(tmp_path):
    with Autoreset(Recorder(Counter(), tmp_path / "logs")) as env:
        env.reset(seed=0)
        for _ in range(9):  # 3 steps, a reset, 3 steps, a reset, 1 step
            env.step(TWO)
    assert ends(open_store(tmp_path / "logs")) == [(3, True, False), (3, True, False), (1, False, True)]
    with Recorder(Autoreset(Counter()), tmp_path / "inside") as env:
        env.reset(seed=0)
        for _ in range(3):
            env.step(TWO)
        with pytest.raises(InputError, match="Call reset"):
            env.step(TWO)


def test_in_a_vector_environment_all_record_into_one_store(tmp_path):
    lanes = gymnasium.make_vec(
        "CartPole-v1", 3, vectorization_mode="sync", wrappers=[lambda env: Recorder(env, tmp_path / "logs")]
    )
    lanes.action_space.seed(0)
    lanes.reset(seed=5)
    for _ in range(60):
        lanes.step(lanes.action_space.sample())
    lanes.close()
    store = open_store(tmp_path / "logs")
    assert len(store) > 3
    assert {store.entry(number).seed for number in range(len(store))} >= {5, 6, 7}
    for number in range(len(store)):
        seen = store.episode(number).observations["observation"]
        np.testing.assert_allclose(seen[1:, 0], seen[:-1, 0] + 0.02 * seen[:-1, 1], atol=1e-6)  # its equation of motion


def test_what_it_stores_is_what_record_stores(tmp_path):
    def push(observation: Any, generator: np.random.Generator) -> Any:
        return generator.uniform(-2, 2, 1)

    recorded = record("Pendulum-v1", tmp_path / "a", policy=push, num_episodes=2, max_steps=7, seed=1)
    with Recorder(gymnasium.make("Pendulum-v1"), tmp_path / "b") as env:
        for number in range(2):
            observation, _ = env.reset(seed=recorded.entry(number).seed)
            generator = np.random.default_rng([1, number])
            for _ in range(7):
                observation, *_ = env.step(push(observation, generator))
    assert open_store(tmp_path / "b").content_hash() == recorded.content_hash()


def test_a_lab_keeps_its_own_schema(tmp_path):
    lab = TwoRooms(camera=False)
    with Recorder(lab, tmp_path / "logs") as env:
        env.reset(seed=0)
        env.step({"move": np.ones(2, np.float32)})
    assert open_store(tmp_path / "logs").schema == lab.schema


def loop(path: Any, env: gymnasium.Env | None = None, schema: Schema | None = None) -> None:
    with Recorder(env or Counter(), path, schema=schema) as recorder:
        recorder.reset()
        recorder.step(recorder.action_space.sample())


def test_a_store_goes_on_with_its_corrected_schema(tmp_path):
    loop(tmp_path / "logs")
    inferred = open_store(tmp_path / "logs").schema
    corrected = Schema(signals=tuple(dataclasses.replace(signal, unit="m") for signal in inferred.signals))
    stored(tmp_path / "corrected", corrected, [open_store(tmp_path / "logs").episode(0)])
    loop(tmp_path / "corrected")
    loop(tmp_path / "corrected", schema=corrected)
    assert len(open_store(tmp_path / "corrected")) == 3
    assert open_store(tmp_path / "corrected").schema == corrected
    with pytest.raises(InputError, match="has another schema"):
        loop(tmp_path / "corrected", schema=inferred)


def test_what_would_not_fit_is_refused_before_the_first_step(tmp_path):
    loop(tmp_path / "logs")
    with pytest.raises(InputError, match=r"differ in the signals action, observation\. Record into a new folder"):
        loop(tmp_path / "logs", gymnasium.make("CartPole-v1"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists and is no store"):
        loop(tmp_path / "thesis")

    class Talking(Counter):
        observation_space = spaces.Text(5)

    with pytest.raises(UnsupportedError, match="is a Text"):
        loop(tmp_path / "none", Talking())


def test_steps_outside_of_an_episode_are_refused(tmp_path):
    with Recorder(Counter(), tmp_path / "logs") as env:
        with pytest.raises(InputError, match="Call reset"):
            env.step(ONE)
        env.reset()
        with pytest.raises(InputError, match=r"action 'action' is float64 of shape \(2,\)"):
            env.step(np.zeros(2))
        for _ in range(3):
            env.step(TWO)
        with pytest.raises(InputError, match="Call reset"):
            env.step(ONE)
        assert env.unwrapped.executed == [2.0] * 3


def test_an_episode_that_does_not_fit_is_refused_once_and_the_next_is_stored(tmp_path):
    with Recorder(Counter(), tmp_path / "logs") as env:
        env.reset()
        env.step(ONE)
        with pytest.raises(DataError, match=r"signal 'action', step 1.*outside"):
            env.step(np.array([9.0]))  # that ends the episode
        env.reset()
        env.step(ONE)
    assert ends(open_store(tmp_path / "logs")) == [(1, False, True)]
