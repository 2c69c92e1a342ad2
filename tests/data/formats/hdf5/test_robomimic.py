from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from tests.data.formats.damage import DAMAGES, FEW, assert_read_or_refused, damage_file

from worldline.config import to_json
from worldline.data.base import LoggedEpisode, ReadOptions
from worldline.data.checks import check_episode
from worldline.data.formats.hdf5.robomimic import RobomimicLogs
from worldline.schema import Kind, Role, Schema, Signal

ENV_ARGS = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})


def save(path: Path, samples: tuple[int, ...] = (3, 4), *, with_next: bool = True, numbers: tuple[int, ...] = (0, 1)):
    """A file as robomimic writes it; the second demo comes first in it."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"], data.attrs["env_args"] = sum(samples), ENV_ARGS
        for number, rows in reversed(list(zip(numbers, samples, strict=True))):
            demo, draw = data.create_group(f"demo_{number}"), np.random.default_rng(number)
            demo.attrs["num_samples"], demo.attrs["ep_meta"] = rows, f"lift the cube {number} times"
            demo.attrs["model_file"] = "x" * 5000
            place, camera = draw.normal(size=(rows + 1, 3)), draw.integers(0, 256, (rows + 1, 6, 6, 3), np.uint8)
            for name, part in (("obs", slice(0, rows)), ("next_obs", slice(1, rows + 1))):
                if name == "obs" or with_next:
                    demo[f"{name}/place"] = place[part]
                    demo.create_dataset(f"{name}/camera", data=camera[part], compression="gzip")
            demo["actions"] = draw.uniform(-1, 1, (rows, 2))
            demo["rewards"], demo["dones"] = np.arange(rows) / 4, np.arange(rows) == rows - 1
            demo["states"] = draw.normal(size=(rows, 5))


def read(path: Path, schema: Schema | None = None) -> list[LoggedEpisode]:
    return list(RobomimicLogs.open(path, schema, ReadOptions()).read())


def test_next_obs_gives_the_last_observation(tmp_path):
    save(tmp_path / "a.hdf5")
    logs = RobomimicLogs.open(tmp_path, None, ReadOptions())
    first, second = logs.read()
    assert [signal.name for signal in logs.schema.signals] == ["camera", "place", "actions", "rewards"]
    assert (logs.schema["place"].precision, logs.schema["camera"].kind) == ("float64", Kind.IMAGE)
    assert logs.schema.step_s == pytest.approx(0.05)
    with h5py.File(tmp_path / "a.hdf5") as file:
        demo = file["data/demo_1"]
        np.testing.assert_array_equal(second.episode.observations["place"][:-1], demo["obs/place"][:])
        np.testing.assert_array_equal(second.episode.observations["place"][-1], demo["next_obs/place"][-1])
        np.testing.assert_array_equal(second.episode.observations["camera"][1:], demo["next_obs/camera"][:])
        np.testing.assert_array_equal(second.episode.actions["actions"], demo["actions"][:])
        np.testing.assert_array_equal(second.episode.rewards["rewards"][:, 0], demo["rewards"][:])
    for logged in (first, second):
        assert (logged.findings, check_episode(logged.episode, logs.schema)) == ((), ())
        assert (logged.episode.terminated, logged.episode.truncated) == (False, True)
    assert first.source == {
        "file": "a.hdf5", "episode": 0, "demo": "demo_0", "env_args": ENV_ARGS, "ep_meta": "lift the cube 0 times",
    }  # fmt: skip
    assert "All episodes count as truncated" in "\n".join(logs.unclear)


def test_without_next_obs_the_last_action_is_left_out(tmp_path):
    save(tmp_path / "a.hdf5", with_next=False)
    logs = RobomimicLogs.open(tmp_path / "a.hdf5", None, ReadOptions())
    assert [logged.episode.num_steps for logged in logs.read()] == [2, 3]
    assert "the last action of each demo has no outcome" in "\n".join(logs.unclear)
    save(tmp_path / "a.hdf5", (3, 1), with_next=False)
    assert "no complete step" in read(tmp_path / "a.hdf5")[1].findings[0].problem


def test_demos_come_in_the_order_of_their_numbers(tmp_path):
    save(tmp_path / "a.hdf5", numbers=(2, 10))
    assert [logged.source["demo"] for logged in read(tmp_path / "a.hdf5")] == ["demo_2", "demo_10"]


def test_what_next_obs_lacks_is_masked_after_the_last_action(tmp_path):
    save(tmp_path / "a.hdf5")
    signals = (
        Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(3,), precision="float64"),
        Signal(name="states", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(5,), precision="float64"),
        Signal(name="actions", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,)),
    )
    (tmp_path / "schema.json").write_text(to_json(Schema(signals=signals)))
    logs = RobomimicLogs.open(tmp_path, None, ReadOptions())
    first = next(logs.read()).episode
    assert logs.schema.signals == signals
    assert first.observed["states"].tolist() == [True, True, True, False]
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        del file["data/demo_1/next_obs"]
    second = list(logs.read())[1]
    assert (second.episode.num_steps, second.episode.observed) == (3, {})


@pytest.mark.parametrize(("change", "problem"), [
    (lambda demo: demo.attrs.modify("num_samples", 9), "num_samples is 9, but the demo has 4 actions"),
    (lambda demo: demo.pop("actions"), "the demo has no actions"),
    (lambda demo: demo["actions"].write_direct(np.full((4, 2), np.nan)), "the value is missing"),
    (lambda demo: (demo["obs"].pop("place"), demo["obs"].create_dataset("place", data=np.zeros((3, 3)))), "(3, 3)"),
    (lambda demo: (demo.pop("rewards"), demo.create_dataset("rewards", (4,), "f8", chunks=(2,))), "never written"),
])  # fmt: skip
def test_a_demo_that_contradicts_itself_is_a_finding(tmp_path, change, problem):
    save(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        change(file["data/demo_1"])
    first, second = read(tmp_path / "a.hdf5")
    assert first.episode is not None
    assert second.episode is None
    assert problem in second.findings[0].problem
    assert (second.findings[0].file, second.findings[0].episode) == ("a.hdf5", 1)


@given(damage=DAMAGES)
@FEW
def test_damage_is_survived(tmp_path_factory, damage):
    path = tmp_path_factory.mktemp("damaged") / "a.hdf5"
    save(path, (2, 2))
    damage_file(path, damage)
    assert_read_or_refused(read, path)
