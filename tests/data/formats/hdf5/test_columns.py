from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.data.stores import stored

from worldline.data.base import LoggedEpisode, ReadOptions
from worldline.data.checks import Severity, check_episode
from worldline.data.formats.hdf5.columns import Hdf5Logs
from worldline.data.formats.hdf5.export import export_hdf5
from worldline.data.open_logs import recognise
from worldline.data.store import Store
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Role, Schema, Signal


def save(
    path: Path, lengths: tuple[int, ...] = (5, 4), index: str = "both", **columns: object
) -> dict[str, np.ndarray]:
    """A file as stable-worldmodel writes it, in plain words: rows of all episodes, one after another."""
    rows, draw = sum(lengths), np.random.default_rng(0)
    ends = np.cumsum(lengths)
    last, first = ends - 1, ends - np.array(lengths)
    written = {
        "pixels": draw.integers(0, 256, (rows, 4, 4, 3)).astype(np.uint8),
        "proprio": draw.normal(size=(rows, 2)),
        "action": draw.normal(size=(rows, 2)).astype(np.float32),
        "reward": draw.normal(size=rows).astype(np.float32),
        "terminated": np.isin(np.arange(rows), last[:1]),
        "truncated": np.isin(np.arange(rows), last[1:]),
        "step_idx": np.concatenate([np.arange(n) for n in lengths]),
        "id": np.repeat(np.arange(len(lengths)) + 1000, lengths),
    }
    written["action"][last] = np.nan
    written["reward"][first] = np.nan
    written = {name: values for name, values in (written | columns).items() if values is not None}
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in written.items():
            file[name] = values
        if index in ("both", "lengths"):
            file["ep_len"] = np.array(lengths, np.int32)
        if index in ("both", "offsets"):
            file["ep_offset"] = first.astype(np.int64)
    return written


def read(path: Path, schema: Schema | None = None) -> list[LoggedEpisode]:
    return list(Hdf5Logs.open(path, schema, ReadOptions()).read())


@pytest.mark.parametrize("index", ["both", "lengths"])
def test_rows_become_observations_and_the_steps_between_them(tmp_path, index):
    written = save(tmp_path / "a.h5", (5, 4), index)
    logs = Hdf5Logs.open(tmp_path, None, ReadOptions())
    first, second = logs.read()
    roles = {signal.name: (signal.role, signal.kind, signal.shape) for signal in logs.schema.signals}
    assert roles == {
        "pixels": (Role.OBSERVATION, Kind.IMAGE, (4, 4, 3)),
        "proprio": (Role.OBSERVATION, Kind.VECTOR, (2,)),
        "action": (Role.ACTION, Kind.VECTOR, (2,)),
        "reward": (Role.REWARD, Kind.VECTOR, (1,)),
    }
    for logged, start, rows in ((first, 0, 5), (second, 5, 4)):
        episode = logged.episode
        np.testing.assert_array_equal(episode.observations["pixels"], written["pixels"][start : start + rows])
        np.testing.assert_array_equal(episode.observations["proprio"], written["proprio"][start : start + rows])
        np.testing.assert_array_equal(episode.actions["action"], written["action"][start : start + rows - 1])
        np.testing.assert_array_equal(episode.rewards["reward"][:, 0], written["reward"][start + 1 : start + rows])
        assert (logged.findings, check_episode(episode, logs.schema)) == ((), ())
    assert (first.episode.terminated, first.episode.truncated) == (True, False)
    assert (second.episode.terminated, second.episode.truncated) == (False, True)
    assert second.source == {"file": "a.h5", "episode": 1, "id": 1001}


def test_an_action_that_wraps_around_is_left_out_with_a_word(tmp_path):
    written = save(tmp_path / "a.h5", action=np.arange(9.0), reward=np.arange(9.0))
    logs = Hdf5Logs.open(tmp_path / "a.h5", None, ReadOptions())
    second = list(logs.read())[1].episode
    assert second.actions["action"][:, 0].tolist() == [5, 6, 7]
    assert second.rewards["reward"][:, 0].tolist() == [6, 7, 8]
    said = "\n".join(logs.unclear)
    assert "The last action and the first reward of each episode are left out." in said
    assert written["action"][8] == logs.schema["action"].high[0] + 1  # the bounds are those of the actions that count


def test_columns_that_are_aligned_the_other_way_are_refused(tmp_path):
    action = np.arange(9.0)
    action[[0, 5]] = np.nan
    save(tmp_path / "a.h5", action=action)
    for logged in read(tmp_path / "a.h5"):
        assert "the value is missing (1 steps)" in logged.findings[0].problem


def test_nested_groups_become_dotted_names(tmp_path):
    written = save(tmp_path / "a.h5", **{"arm/joint/angle": np.arange(9.0)})
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["same"] = h5py.SoftLink("/arm/joint/angle")
    logged = read(tmp_path / "a.h5")[1]
    np.testing.assert_array_equal(logged.episode.observations["arm.joint.angle"][:, 0], written["arm/joint/angle"][5:])
    assert "same" not in logged.episode.observations
    save(tmp_path / "b.h5", **{"arm/angle": np.arange(9.0), "arm.angle": np.arange(9.0)})
    with pytest.raises(DataError, match=r"'arm\.angle'.*two datasets"):
        read(tmp_path / "b.h5")


def test_missing_observations_become_masks_and_missing_inputs_findings(tmp_path):
    proprio, action = np.arange(18.0).reshape(9, 2), np.arange(9.0)
    proprio[[0, 1, 3]] = np.nan
    proprio[6, 1] = np.nan
    action[6] = np.nan
    save(tmp_path / "a.h5", proprio=proprio, action=action)
    first, second = read(tmp_path / "a.h5")
    assert first.episode.observations["proprio"][:, 0].tolist() == [4, 4, 4, 4, 8]
    assert first.episode.observed["proprio"].tolist() == [False, False, True, False, True]
    assert second.episode is None
    assert [(f.signal, f.step, f.episode) for f in second.findings] == [("action", 1, 1)]
    save(tmp_path / "a.h5", proprio=proprio)
    second = read(tmp_path / "a.h5")[1]
    assert second.episode.observations["proprio"][1].tolist() == [10, 11]
    assert second.episode.observed["proprio"].tolist() == [True, False, True, True]
    assert [(f.signal, f.severity, f.step) for f in second.findings] == [("proprio", Severity.WARNING, 1)]


def test_times_texts_and_numbers_are_kept(tmp_path):
    time = np.array([0, 0.1, 0.2, 0.3, 0.4, 7, 7.1, 7.2, 7.7])
    save(tmp_path / "a.h5", time=time, task=np.array([b"open"] * 5 + [b"shut"] * 4), score=np.array([1.5, 2.5]))
    logs = Hdf5Logs.open(tmp_path / "a.h5", None, ReadOptions())
    first, second = logs.read()
    assert logs.schema.step_s == pytest.approx(0.1)
    assert first.episode.step_s is None
    np.testing.assert_allclose(second.episode.step_s, [0.1, 0.1, 0.5], rtol=1e-6)
    assert second.source == {"file": "a.h5", "episode": 1, "id": 1001, "task": "shut", "score": 2.5}


@pytest.mark.parametrize(("columns", "problem"), [
    ({"terminated": np.arange(9) == 6}, "terminated is set before the end"),
    ({"ep_idx": np.array([0, 0, 0, 0, 0, 1, 1, 2, 2])}, "ep_idx goes from 1 to 2"),
    ({"proprio": np.zeros((7, 2))}, "expected rows 5 to 9, got 7 rows"),
])  # fmt: skip
def test_an_episode_whose_rows_contradict_its_length_is_a_finding(tmp_path, columns, problem):
    save(tmp_path / "a.h5", **columns)
    first, second = read(tmp_path / "a.h5")
    assert first.episode is not None
    assert second.episode is None
    assert problem in second.findings[0].problem
    assert (second.findings[0].file, second.findings[0].episode) == ("a.h5", 1)


@pytest.mark.parametrize(("index", "problem"), [
    ({"ep_len": [5, 4], "ep_offset": [0, 4]}, r"episode 1: its length is 4 and its offset is 4"),
    ({"ep_len": [5, 4], "ep_offset": [0]}, r"2 lengths of episodes and 1 offsets"),
    ({"ep_len": [5, -4]}, r"episode 1: its length is -4"),
    ({"ep_len": [5.0, 4.0]}, r"whole number"),
    ({"ep_offset": [0, 5]}, r"no lengths of episodes"),
])  # fmt: skip
def test_contradictions_of_the_index_are_errors(tmp_path, index, problem):
    save(tmp_path / "a.h5", index="none")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        for name, values in index.items():
            file[name] = np.array(values)
    with pytest.raises(DataError, match=problem):
        read(tmp_path / "a.h5")


def test_an_episode_of_one_row_is_a_finding(tmp_path):
    save(tmp_path / "a.h5", (5, 1, 3))
    logged = read(tmp_path / "a.h5")
    assert [one.episode is not None for one in logged] == [True, False, True]
    assert "a single row and is left out" in logged[1].findings[0].problem


def test_rows_that_were_never_written_are_no_zeros(tmp_path):
    save(tmp_path / "a.h5", proprio=None)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.create_dataset("proprio", (9, 2), "f8", chunks=(5, 2))[:5] = 1
        file.create_dataset("never", (9,), "f8")
    first, second = read(tmp_path / "a.h5")
    assert ((first.episode, second.episode), first.findings[0].signal) == ((None, None), "never")
    found = Hdf5Logs.open(tmp_path / "a.h5", None, ReadOptions()).schema.signals
    first, second = read(tmp_path / "a.h5", Schema(signals=tuple(s for s in found if s.name != "never")))
    assert first.episode is not None
    assert (second.episode, second.findings[0].signal) == (None, "proprio")
    assert "never written" in second.findings[0].problem


def test_only_files_of_this_layout_are_recognised(tmp_path):
    save(tmp_path / "a.h5")
    assert Hdf5Logs.recognises(tmp_path)
    assert Hdf5Logs.recognises(tmp_path / "a.h5")
    save(tmp_path / "b.hdf5")
    with pytest.raises(DataError, match=r"found 2 \(a\.h5, b\.hdf5\)"):
        read(tmp_path)
    with pytest.raises(InputError, match="rate_hz"):
        Hdf5Logs.open(tmp_path / "a.h5", None, ReadOptions(rate_hz=3.0))
    (tmp_path / "demos").mkdir()
    with h5py.File(tmp_path / "demos" / "c.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros(3)
    (tmp_path / "empty").mkdir()
    assert not Hdf5Logs.recognises(tmp_path / "empty")
    assert recognise(tmp_path / "demos") == "robomimic"


def test_an_export_has_the_layout_that_others_read(tmp_path, schema, make_episode):
    episodes = [make_episode(0, 3), make_episode(1, 2)]
    export_hdf5(stored(tmp_path / "store", schema, episodes), tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5", "r", swmr=True) as file:
        assert (file["ep_len"][:].tolist(), file["ep_offset"][:].tolist()) == ([4, 3], [0, 4])
        assert {len(file[name]) for name in file if not name.startswith("ep_")} == {7}
        np.testing.assert_array_equal(file["action"][4:6], episodes[1].actions["push"])
        assert np.isnan(file["action"][[3, 6]]).all()
        np.testing.assert_array_equal(file["reward"][1:4], episodes[0].rewards["reward"])
        assert file["terminated"][:].tolist() == [False, False, False, True, False, False, False]


def test_an_export_is_refused_where_it_would_lose_something(tmp_path, schema, make_episode):
    store = stored(tmp_path / "store", schema, [make_episode(0, 3)])
    (tmp_path / "there.h5").write_text("dear")
    with pytest.raises(InputError, match="exists"):
        export_hdf5(store, tmp_path / "there.h5")
    with pytest.raises(InputError, match=r"\.h5 or \.hdf5"):
        export_hdf5(store, tmp_path / "out.zip")
    signal = Signal(name="ep_len", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    with pytest.raises(InputError, match="'ep_len'"):
        export_hdf5(Store.create(tmp_path / "other", Schema(signals=(signal,))), tmp_path / "out.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "store", "there.h5"]
