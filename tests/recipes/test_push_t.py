from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from push_t_task import (
    FIELD,
    NUM_STEPS,
    STATE,
    Pusher,
    PushT,
    push_t,
    push_t_schema,
    record_push_t,
)

from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.errors import InputError, MissingExtraError
from worldline.models.jepa import Jepa
from worldline.workflows.record import record

pytest.importorskip("gym_pusht")

NUM_EPISODES = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return record_push_t(tmp_path_factory.mktemp("push_t") / "store", num_episodes=NUM_EPISODES, seed=0)


def table(store: Store, name: str) -> NDArray[np.float64]:
    """[episodes, T or T+1, size]"""
    rows = NUM_STEPS + (name != "target")
    values = [store.read(name, number, 0, rows) for number in range(len(store))]
    return np.array(values, dtype=np.float64)


def turned(angle: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """`point` turned by each of `angle` [..., 1]."""
    cosine, sine = np.cos(angle), np.sin(angle)
    parts = [cosine * point[0] - sine * point[1], sine * point[0] + cosine * point[1]]
    return np.asarray(np.concatenate(parts, -1))


def test_row_t_of_the_targets_is_what_drives_the_agent_in_step_t(store: Store) -> None:
    """The environment's controller, ten pulls a step, taken from its source."""
    positions, targets = table(store, "agent_position"), table(store, "target")
    place, velocity = positions[:, 0], np.zeros((NUM_EPISODES, 2))
    for step in range(NUM_STEPS):
        for _ in range(10):
            velocity = velocity + (100 * (targets[:, step] - place) - 20 * velocity) * 0.01
            place = place + velocity * 0.01
        np.testing.assert_allclose(place, positions[:, step + 1], atol=0.05)


@pytest.mark.parametrize("side", [64, 96])
def test_the_picture_shows_what_the_positions_say(tmp_path: Path, side: int) -> None:
    store = record_push_t(tmp_path / "store", num_episodes=2, seed=3, side=side)
    agent, block, angle = (table(store, name) for name in ("agent_position", "block_position", "block_angle"))
    for episode in range(2):
        pictures = store.read("camera", episode, 0, NUM_STEPS + 1)
        assert pictures.shape == (NUM_STEPS + 1, side, side, 3)
        for step in range(0, NUM_STEPS + 1, 10):
            red, green, blue = np.moveaxis(pictures[step].astype(float), -1, 0)
            found = middle(np.clip(blue - red - 60, 0, None)) * FIELD / side
            np.testing.assert_allclose(found, agent[episode, step], atol=3)
            # The block is grey with a touch of blue; the agent, which may hide a little of it, is bluer.
            grey = (np.abs(green - 0.5 * (red + blue)) < 12) & (blue - red > 15) & (blue - red < 50) & (red < 175)
            surface = turned(angle[episode, step], np.array([0.0, 40.7])) + block[episode, step]
            np.testing.assert_allclose(middle(grey.astype(float)) * FIELD / side, surface, atol=9)


def middle(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre [x, y] of a picture's weights, pixels."""
    rows, columns = np.indices(weight.shape) + 0.5
    return np.asarray(np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum())


def test_an_episode_depends_on_the_seed_and_its_number_only(tmp_path: Path, store: Store) -> None:
    ticks: list[tuple[int, int]] = []
    again = record_push_t(
        tmp_path / "again", num_episodes=2, seed=0, progress=lambda now: ticks.append((now.step, now.total))
    )
    twice = record_push_t(tmp_path / "twice", num_episodes=2, seed=0)
    other = record_push_t(tmp_path / "other", num_episodes=2, seed=1)
    assert ticks == [(1, 2), (2, 2)]
    assert again.content_hash() == twice.content_hash() != other.content_hash()
    assert [again.entry(number) for number in range(2)] == [store.entry(number) for number in range(2)]
    assert [again.entry(number).digest for number in range(2)] != [other.entry(number).digest for number in range(2)]
    entry = store.entry(1)
    assert entry.source["seed"] == 0
    assert entry.source["number"] == 1
    assert entry.source["policy"] in ("pushing", "roaming")
    assert (entry.num_steps, entry.terminated, entry.truncated, entry.seed) == (NUM_STEPS, False, True, None)


def test_the_block_is_read_from_the_picture_alone(store: Store) -> None:
    recipe = push_t(store)
    assert recipe.model_config.inputs == ("camera", "agent_position")
    assert recipe.heads.goals
    assert recipe.horizon == 25
    assert recipe.split(store) == split_store(store)
    Jepa(schema=store.schema, config=recipe.model_config)  # takes pictures of this size
    angle = push_t_schema(64)["block_angle"]
    assert (angle.period, angle.low, angle.unit) == (2 * math.pi, (0.0,), "rad")


def test_what_cannot_be_recorded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="num_episodes is 0"):
        record_push_t(tmp_path / "store", num_episodes=0, seed=0)
    with pytest.raises(InputError, match="side 0"):
        record_push_t(tmp_path / "store", num_episodes=1, seed=0, side=0)
    monkeypatch.setitem(sys.modules, "gym_pusht.envs.pusht", None)
    with pytest.raises(MissingExtraError, match=r"worldline\[envs\]"):
        record_push_t(tmp_path / "store", num_episodes=1, seed=0)
    assert not (tmp_path / "store").exists()


def test_its_environment_replays_from_a_seed_and_shows_what_its_spaces_say(tmp_path: Path) -> None:
    env = PushT()
    store = record(env, tmp_path / "store", policy=Pusher(), num_episodes=3, max_steps=40, seed=5, schema=env.schema)
    assert store.schema == push_t_schema(64)
    moved = []
    for number in range(3):
        logged, length = store.episode(number), int(store.num_steps[number])
        seen = [env.reset(seed=store.entry(number).seed)[0]]
        seen += [env.step({"target": logged.actions["target"][step]})[0] for step in range(length)]
        assert all(env.observation_space.contains(one) for one in seen)
        for name in (*STATE, "camera"):
            np.testing.assert_array_equal(np.stack([one[name] for one in seen]), logged.observations[name])
        moved.append(np.ptp(logged.observations["block_position"], 0).max())
    assert max(moved) > 20  # it is pushed
