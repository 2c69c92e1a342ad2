from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from worldline.data.base import LoggedEpisode, ReadOptions
from worldline.data.checks import Severity, check_episode
from worldline.data.formats.minari import MinariLogs
from worldline.errors import DataError
from worldline.schema import Kind, Schema

SPACE = gym.spaces.Dict(
    camera=gym.spaces.Box(0, 255, (6, 7, 3), np.uint8),
    pair=gym.spaces.Tuple((gym.spaces.Discrete(3), gym.spaces.Box(-5, 5, (2,), np.float64))),
    mission=gym.spaces.Text(20),
    x=gym.spaces.Box(-np.inf, np.inf, (), np.float32),
)


def save(folder: Path, lengths: tuple[int, ...] = (3, 4), data_format: str = "hdf5", **changes: Any) -> MinariStorage:
    """A dataset that the minari package writes."""
    (folder / "data").mkdir(parents=True)
    options = {"observation_space": SPACE, "action_space": gym.spaces.Box(-1, 1, (2,), np.float32)} | changes
    storage = MinariStorage.new(folder / "data", data_format=data_format, **options)
    storage.update_metadata({"dataset_id": "toy/push-v0", "minari_version": minari.__version__})
    for number, steps in enumerate(lengths):
        storage.update_episodes([buffer(number, steps)])
    return storage


def buffer(number: int, steps: int, **changes: Any) -> EpisodeBuffer:
    draw = np.random.default_rng(number)
    last = np.arange(steps) == steps - 1
    values: dict[str, Any] = {
        "observations": {
            "camera": draw.integers(0, 256, (steps + 1, 6, 7, 3), np.uint8),
            "pair": (np.arange(steps + 1) % 2, draw.uniform(-5, 5, (steps + 1, 2))),
            "mission": [f"go to door {number}"] * (steps + 1),
            "x": draw.normal(size=steps + 1).astype(np.float32),
        },
        "actions": draw.uniform(-0.5, 0.5, (steps, 2)).astype(np.float32),
        "rewards": draw.normal(size=steps),
        "terminations": last & (number % 2 == 0),
        "truncations": last & (number % 2 == 1),
        "infos": {"energy": list(draw.normal(size=steps + 1))},
    }
    return EpisodeBuffer(id=number, seed=number + 7, **(values | changes))


def read(path: Path, schema: Schema | None = None) -> list[LoggedEpisode]:
    return list(MinariLogs.open(path, schema, ReadOptions()).read())


def test_a_dataset_is_read_as_minari_reads_it(tmp_path):
    theirs = list(minari.MinariDataset(save(tmp_path / "push")))
    logs = MinariLogs.open(tmp_path / "push", None, ReadOptions())
    signals = {signal.name: signal for signal in logs.schema.signals}
    assert signals.keys() == {"camera", "pair.0", "pair.1", "x", "action", "reward"}
    assert (signals["pair.0"].kind, signals["pair.0"].num_values) == (Kind.DISCRETE, 3)
    assert (signals["pair.1"].precision, signals["pair.1"].low) == ("float64", (-5.0, -5.0))
    assert (signals["action"].low, signals["action"].high) == ((-1.0, -1.0), (1.0, 1.0))
    assert signals["x"].low is None
    for number, (logged, their) in enumerate(zip(logs.read(), theirs, strict=True)):
        ours = logged.episode
        assert (logged.findings, check_episode(ours, logs.schema)) == ((), ())
        np.testing.assert_array_equal(ours.observations["camera"], their.observations["camera"])
        np.testing.assert_array_equal(ours.observations["pair.0"], their.observations["pair"][0])
        np.testing.assert_array_equal(ours.observations["pair.1"], their.observations["pair"][1])
        np.testing.assert_array_equal(ours.observations["x"].ravel(), np.ravel(their.observations["x"]))
        np.testing.assert_array_equal(ours.actions["action"], their.actions)
        np.testing.assert_array_equal(ours.rewards["reward"][:, 0], their.rewards)
        assert (ours.terminated, ours.truncated, ours.seed) == (number % 2 == 0, number % 2 == 1, number + 7)
        assert logged.source == {
            "file": "main_data.hdf5", "episode": number, "dataset": "toy/push-v0", "id": number,
            "mission": f"go to door {number}",
        }  # fmt: skip
    assert "infos.energy" in "\n".join(logs.unclear)


def test_pictures_in_jpeg_are_read_as_minari_reads_them(tmp_path):
    space = gym.spaces.Box(0, 255, (32, 40, 3), np.uint8)
    storage = save(tmp_path / "push", (), observation_space=space)
    draw = np.random.default_rng(0)
    frames = [np.full((32, 40, 3), value, np.uint8) for value in (3, 90)] + [
        draw.integers(0, 256, (32, 40, 3)).astype(np.uint8)
    ]
    for number, rows in enumerate((frames, frames[:2])):  # of different lengths, and of the same
        storage.update_episodes([buffer(number, len(rows) - 1, observations=rows)])
    logs = MinariLogs.open(tmp_path / "push", None, ReadOptions())
    for logged, their in zip(logs.read(), minari.MinariDataset(storage), strict=True):
        np.testing.assert_array_equal(logged.episode.observations["observation"], their.observations)
    assert "stored as JPEG" in "\n".join(logs.unclear)


def test_what_two_parts_call_alike_is_told_apart(tmp_path):
    storage = save(tmp_path / "push", (), action_space=gym.spaces.Dict(x=gym.spaces.Discrete(4, start=1)))
    storage.update_episodes([buffer(0, 3, actions={"x": np.array([1, 2, 4])})])
    logs = MinariLogs.open(tmp_path / "push", None, ReadOptions())
    assert (logs.schema["action.x"].num_values, logs.schema["observation.x"].kind) == (5, Kind.VECTOR)
    assert next(logs.read()).episode.actions["action.x"].tolist() == [1, 2, 4]


def test_values_that_leave_their_space_are_said(tmp_path):
    storage = save(tmp_path / "push")
    storage.update_episodes([buffer(2, 3, actions=np.full((3, 2), 1.5, np.float32))])
    logs = MinariLogs.open(tmp_path / "push", None, ReadOptions())
    assert logs.schema["action"].high == (1.5, 1.5)
    assert "action: its values exceed the bounds of its space" in "\n".join(logs.unclear)


def test_missing_values_and_changing_texts(tmp_path):
    storage = save(tmp_path / "push", ())
    observations = buffer(0, 3).observations
    observations["x"][1] = np.nan
    observations["mission"] = ["a", "a", "b", "b"]
    storage.update_episodes([buffer(0, 3, observations=observations)])
    storage.update_episodes([buffer(1, 3, actions=np.full((3, 2), np.nan, np.float32))])
    first, second = read(tmp_path / "push")
    assert first.episode.observed["x"].tolist() == [True, False, True, True]
    assert first.episode.observations["x"][1] == first.episode.observations["x"][0]
    assert [(f.severity, f.signal) for f in first.findings] == [(Severity.WARNING, "mission")]
    assert second.episode is None
    assert [(f.signal, f.step, f.episode) for f in second.findings] == [("action", 0, 1)]


@pytest.mark.parametrize(("change", "problem"), [
    (lambda group: group["terminations"].write_direct(np.array([True, False, False, False])), "before the end"),
    (lambda group: group.attrs.modify("total_steps", 9), "total_steps is 9, but the episode has 4 rewards"),
    (lambda group: group.pop("rewards"), "has no observations, actions or rewards"),
    (lambda group: group.pop("observations"), "has no observations, actions or rewards"),
    (lambda group: group.parent.pop("episode_1"), "the group episode_1 is missing"),
])  # fmt: skip
def test_an_episode_that_contradicts_itself_is_a_finding(tmp_path, change, problem):
    save(tmp_path / "push")
    with h5py.File(tmp_path / "push" / "data" / "main_data.hdf5", "a") as file:
        change(file["episode_1"])
    first, second = read(tmp_path / "push")
    assert first.episode is not None
    assert second.episode is None
    assert problem in second.findings[0].problem
    assert (second.findings[0].file, second.findings[0].episode) == ("main_data.hdf5", 1)


def test_episodes_that_the_metadata_do_not_count_are_read_too(tmp_path):
    save(tmp_path / "push")
    file = tmp_path / "push" / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"total_episodes": 1}))
    logs = MinariLogs.open(tmp_path / "push", None, ReadOptions())
    assert [logged.episode is not None for logged in logs.read()] == [True, True]
    assert "declares 1 episodes; 2 are read" in "\n".join(logs.unclear)


def test_a_dataset_without_spaces_makes_no_environment(tmp_path):
    save(tmp_path / "push")
    file = tmp_path / "push" / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["action_space"]
    file.write_text(json.dumps(metadata | {"env_spec": '{"id": "CartPole-v1"}'}))
    with pytest.raises(DataError, match=r"metadata cannot be read .*action_space"):
        read(tmp_path / "push")


def test_other_storages_are_refused_with_what_to_do(tmp_path):
    save(tmp_path / "push", data_format="arrow")
    with pytest.raises(DataError, match=r"data_format is 'arrow'.*Write the dataset with Minari's default"):
        read(tmp_path / "push")
