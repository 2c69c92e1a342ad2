from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.data.stores import random_episode, stored

from worldline.data.base import LoggedEpisode, ReadOptions
from worldline.data.formats.lerobot import export as lerobot_export
from worldline.data.formats.lerobot.export import export_lerobot
from worldline.data.formats.lerobot.logs import LeRobotLogs
from worldline.data.store import Store
from worldline.errors import DataError, InputError, UnsupportedError
from worldline.schema import Kind, Role, Schema, Signal


def read(root: Path) -> list[LoggedEpisode]:
    logs = LeRobotLogs.open(root, None, ReadOptions())
    results = list(logs.read())
    assert len(results) == len(logs)
    return results


def test_every_kind_in_every_role_comes_back(tmp_path, assert_equal):
    images = {f"image{c}": (3, 4, c) for c in (1, 3, 4)}
    signals = [Signal(name=f"o.{name}", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=s) for name, s in images.items()]
    for role, letter in ((Role.OBSERVATION, "o"), (Role.ACTION, "a"), (Role.EXOGENOUS, "e"), (Role.REWARD, "r")):
        for bits in ("float32", "float64"):
            for size in (1, 3):
                name = f"{letter}{bits}{size}"
                signals.append(Signal(name=name, role=role, kind=Kind.VECTOR, shape=(size,), unit="m", precision=bits))
        signals.append(Signal(name=f"{letter}choice", role=role, kind=Kind.DISCRETE, shape=(), num_values=300))
    signals.append(Signal(name="apicture", role=Role.ACTION, kind=Kind.IMAGE, shape=(2, 2, 3)))
    schema = Schema(signals=tuple(signals), step_s=1 / 3)
    store = stored(tmp_path / "store", schema, [random_episode(schema, steps, steps) for steps in (1, 4)])
    export_lerobot(store, tmp_path / "out")
    assert LeRobotLogs.open(tmp_path / "out", None, ReadOptions()).schema == schema
    for number, logged in enumerate(read(tmp_path / "out")):
        assert_equal(logged.episode, store.episode(number))


def test_the_layout_is_that_of_version_3(tmp_path, schema, make_episode):
    episodes = [make_episode(0, 3, ("gear",)), make_episode(1, 5)]
    store = stored(tmp_path / "store", schema, episodes, [{"task": "drive"}, {}])
    export_lerobot(store, tmp_path / "out")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 2, 10)
    assert info["features"]["observation.images.camera"] == {
        "dtype": "image", "shape": [4, 5, 3], "names": ["height", "width", "channels"],
    }  # fmt: skip
    rows = pq.read_table(tmp_path / "out/data")
    assert (features := set(rows.column_names)) == set(info["features"])
    assert {"action", "next.reward", "exogenous.wind", "observation.gear", "observation.position"} <= features
    assert rows.column("action").to_pylist()[2] == rows.column("action").to_pylist()[3]
    np.testing.assert_allclose(rows.column("timestamp").to_numpy(), [0, 0.5, 1, 1.5, 0, 0.5, 1, 1.5, 2, 2.5])
    assert rows.column("index").to_pylist() == list(range(10))
    listed = pq.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"], row["tasks"]) for row in listed] == [
        (0, 4, ["drive"]), (4, 10, [""]),
    ]  # fmt: skip
    tasks = pq.read_table(tmp_path / "out/meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0, 1], "task": ["drive", ""]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_without_our_notes_it_is_a_plain_dataset(tmp_path, schema, make_episode):
    store = stored(tmp_path / "store", schema, [make_episode(0, 4)])
    export_lerobot(store, tmp_path / "out")
    (tmp_path / "out/schema.json").unlink()
    logs = LeRobotLogs.open(tmp_path / "out", None, ReadOptions())
    assert {s.name: (s.role, s.kind, s.shape) for s in logs.schema.signals} == {
        s.name: (s.role, s.kind, s.shape) for s in schema.signals
    }
    (logged,) = logs.read()
    np.testing.assert_array_equal(logged.episode.actions["push"], store.episode(0).actions["push"])


def test_a_note_that_cannot_be_read_is_named_and_one_that_is_gone_makes_a_plain_episode(tmp_path, schema, make_episode):
    export_lerobot(stored(tmp_path / "store", schema, [make_episode(1, 3)]), tmp_path / "out")
    file = tmp_path / "out/meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(file).drop_columns(["worldline"])
    pq.write_table(table, file)
    (logged,) = read(tmp_path / "out")
    assert (logged.episode.truncated, logged.episode.seed) == (True, None)
    pq.write_table(table.append_column("worldline", [["{}"]]), file)
    with pytest.raises(DataError, match=r"the list of episodes is invalid .*terminated"):
        read(tmp_path / "out")


@pytest.mark.parametrize(("signals", "step_s", "error", "word"), [
    ((), None, InputError, "step_s"),
    ((("picture", Kind.IMAGE, (2, 2, 2)),), 0.1, UnsupportedError, "picture has 2 channels"),
    (
        (("x", Kind.VECTOR, (1,)), ("observation.x", Kind.VECTOR, (1,))),
        0.1,
        InputError,
        "x and observation.x would",
    ),
])  # fmt: skip
def test_what_the_format_cannot_hold_is_refused(tmp_path, signals, step_s, error, word):
    schema = Schema(
        signals=(
            *(Signal(name=name, role=Role.OBSERVATION, kind=kind, shape=shape) for name, kind, shape in signals),
            Signal(name="s", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)),
            Signal(name="a", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,)),
        ),
        step_s=step_s,
    )
    with pytest.raises(InputError, match="no episode"):
        export_lerobot(Store.create(tmp_path / "empty", schema), tmp_path / "out")
    store = stored(tmp_path / "store", schema, [random_episode(schema, 2)])
    with pytest.raises(error, match=word):
        export_lerobot(store, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "store"]


def test_nothing_is_overwritten_and_nothing_is_left_by_a_failure(tmp_path, schema, make_episode, monkeypatch):
    store = stored(tmp_path / "store", schema, [make_episode(0, 2)])
    (tmp_path / "full").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        export_lerobot(store, tmp_path / "full")
    monkeypatch.setattr(lerobot_export, "_write_meta", lambda *parts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_lerobot(store, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "store"]
