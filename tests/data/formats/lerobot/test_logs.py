from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.formats.damage import DAMAGES, FEW, assert_read_or_refused, damage_file
from tests.data.formats.lerobot.lerobot_fixture import (
    FRONT,
    MAP,
    WRIST,
    Dataset,
    pictures,
    png,
    table,
    write_parquet,
    write_video,
)

from worldline.data.base import LoggedEpisode, ReadOptions
from worldline.data.checks import Severity, check_episode
from worldline.data.formats.lerobot.logs import LeRobotLogs
from worldline.errors import DataError
from worldline.schema import Role, Schema

VERSIONS = pytest.mark.parametrize("version", ["v2.1", "v3.0"])


def opened(root: Path, schema: Schema | None = None) -> LeRobotLogs:
    return LeRobotLogs.open(root, schema, ReadOptions())


def read(root: Path) -> list[LoggedEpisode]:
    logs = opened(root)
    results = list(logs.read())
    assert len(results) == len(logs)
    return results


def plain(version: str = "v2.1", **changes: Any) -> Dataset:
    return Dataset(version=version, cameras=(), texts=False, **changes)


def change_json(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def only_problem(results: list[LoggedEpisode], number: int) -> str:
    """The finding of the one episode that is left out, as text."""
    assert [logged.number for logged in results if logged.episode is None] == [number]
    (finding,) = results[number].findings
    assert (finding.severity, finding.episode) == (Severity.ERROR, number)
    return str(finding)


@VERSIONS
def test_a_dataset_is_read_as_it_was_written(tmp_path, version):
    dataset = Dataset(version=version)
    dataset.write(tmp_path / "logs")
    assert LeRobotLogs.recognises(tmp_path / "logs")
    assert not LeRobotLogs.recognises(tmp_path)
    logs = opened(tmp_path / "logs")
    assert logs.schema.step_s == pytest.approx(0.1)
    assert logs.schema["observation.state"].components == ("x", "y")
    assert logs.schema["action"].components == ("shoulder", "elbow", "wrist")
    assert logs.schema["action"].precision == "float64"
    roles = {signal.name: signal.role for signal in logs.schema.signals}
    assert roles == {
        FRONT: Role.OBSERVATION, WRIST: Role.OBSERVATION, MAP: Role.OBSERVATION, "observation.state": Role.OBSERVATION,
        "observation.gripper": Role.OBSERVATION, "action": Role.ACTION, "next.reward": Role.REWARD,
        "next.success": Role.REWARD,
    }  # fmt: skip
    results = list(logs.read())
    assert len(results) == len(logs) == 3
    for number, (logged, columns) in enumerate(zip(results, dataset.columns, strict=True)):
        assert (logged.number, logged.findings) == (number, ())
        name = (
            f"data/chunk-000/episode_{number:06d}.parquet" if version == "v2.1" else "data/chunk-000/file-000.parquet"
        )
        assert logged.source == {
            "file": name, "episode": number, "task": dataset.tasks[number],
        }  # fmt: skip
        episode = logged.episode
        assert check_episode(episode, logs.schema) == ()
        for key in ("observation.state", "observation.gripper", MAP):
            np.testing.assert_array_equal(episode.observations[key], columns[key], strict=True)
        np.testing.assert_array_equal(episode.actions["action"], columns["action"][:-1], strict=True)
        np.testing.assert_array_equal(episode.rewards["next.reward"][:, 0], columns["next.reward"][:-1], strict=True)
        assert (episode.terminated, episode.truncated, episode.seed, episode.step_s) == (False, True, None, None)
        for camera in (FRONT, WRIST):
            np.testing.assert_allclose(episode.observations[camera], dataset.frames[camera][number], atol=6)


@VERSIONS
def test_what_was_assumed_is_said(tmp_path, version):
    logs = opened(Dataset(version=version).write(tmp_path / "logs"))
    said = "\n".join(logs.unclear)
    for words in ("last action of each episode", "weather: left out", "next.done: used as", "Units"):
        assert words in said


@pytest.mark.parametrize("rows", [4, 6])
def test_a_video_of_another_length_is_an_error(tmp_path, rows):
    dataset = Dataset(version="v2.1", cameras=(FRONT,))
    dataset.write(tmp_path / "logs")
    write_video(tmp_path / f"logs/videos/chunk-000/{FRONT}/episode_000000.mp4", pictures(rows, 0), 10)
    problem = only_problem(read(tmp_path / "logs"), 0)
    word = {4: "the video has 4 frames for 5 rows", 6: "got one at 0.500 s, which is row 5"}[rows]
    assert word in problem
    assert f"{FRONT}/episode_000000.mp4" in problem
    assert f"step {min(rows, 5)}" in problem


def test_a_frame_that_was_dropped_is_named(tmp_path):
    Dataset(version="v2.1", cameras=(FRONT,)).write(tmp_path / "logs")
    file = tmp_path / f"logs/videos/chunk-000/{FRONT}/episode_000001.mp4"
    write_video(file, pictures(4, 0), 10, times=[0, 1, 3, 4])
    problem = only_problem(read(tmp_path / "logs"), 1)
    assert "step 2: expected the frame of row 2 of 4, got one at 0.300 s, which is row 3" in problem


@pytest.mark.parametrize(("times", "word"), [((0.4, 0.8), "expected the frame"), ((1.4, 1.8), "frames for 4 rows")])
def test_the_place_in_a_shared_video_is_checked(tmp_path, times, word):
    Dataset(version="v3.0", cameras=(FRONT,)).write(tmp_path / "logs")
    file = tmp_path / "logs/meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[1] |= {f"videos/{FRONT}/from_timestamp": times[0], f"videos/{FRONT}/to_timestamp": times[1]}
    if word == "expected the frame":  # two frames in the time of one, as when a video is longer than its episode
        frames = np.concatenate([pictures(5, 0), pictures(10, 9)])
        twice = [*range(0, 60, 12), 60, 66, *range(72, 168, 12)]
        write_video(tmp_path / f"logs/videos/{FRONT}/chunk-000/file-000.mp4", frames, 120, times=twice[:15])
        rows[1] |= {f"videos/{FRONT}/from_timestamp": 0.5, f"videos/{FRONT}/to_timestamp": 0.9}
    pq.write_table(pa.Table.from_pylist(rows), file)
    results = read(tmp_path / "logs")
    assert word in str(results[1].findings[0])


@pytest.mark.parametrize(("column", "row", "value", "problem"), [
    ("timestamp", 3, 0.36, "step 3: the timestamp is 0.36 s; at 10 rows per second it should be 0.3 s"),
    ("episode_index", 4, 9, "has 4 rows of episode_index 0, but the list has 5"),
    ("episode_index", 2, 9, "has 4 rows of episode_index 0, but the list has 5"),
    ("action", 1, np.nan, "signal 'action', step 1: the value is missing (1 steps in total)"),
    ("next.done", 1, True, "step 1: next.done is set at this step and unset later"),
])  # fmt: skip
def test_rows_that_disagree_are_named(tmp_path, column, row, value, problem):
    dataset = plain()
    dataset.columns[0][column][row] = value
    assert problem in only_problem(read(dataset.write(tmp_path / "logs")), 0)


def test_the_last_action_may_be_missing_because_it_is_dropped(tmp_path):
    dataset = plain("v3.0")
    dataset.columns[0]["action"][-1] = np.nan
    assert all(logged.findings == () for logged in read(dataset.write(tmp_path / "logs")))


@VERSIONS
def test_missing_observations_become_masks(tmp_path, version):
    dataset = plain(version)
    state = dataset.columns[2]["observation.state"]
    state[0] = np.nan
    state[3, 1] = np.nan
    results = read(dataset.write(tmp_path / "logs"))
    episode = results[2].episode
    assert episode.observed["observation.state"].tolist() == [False, True, True, False, True, True]
    found = episode.observations["observation.state"]
    np.testing.assert_array_equal(found, state[[1, 1, 2, 2, 4, 5]])
    assert results[0].episode.observed == {}


@pytest.mark.parametrize(
    ("flags", "terminated"),
    [([0, 0, 0, 1, 1], True), ([0, 0, 0, 0, 1], False), ([0, 0, 1, 1, 1], True), ([0, 0, 0, 0, 0], False)],
)
def test_the_row_of_the_last_kept_action_says_how_it_ended(tmp_path, flags, terminated):
    dataset = plain("v3.0")
    dataset.columns[0]["next.done"] = np.array(flags, np.bool_)
    first = read(dataset.write(tmp_path / "logs"))[0]
    assert (first.episode.terminated, first.episode.truncated) == (terminated, not terminated)
    assert first.findings == ()


def test_names_of_components_in_all_their_forms(tmp_path):
    root = plain().write(tmp_path / "logs")

    def rename(info: dict[str, Any]) -> None:
        info["features"]["action"]["names"] = ["y", "z", "x"]
        info["features"]["observation.state"]["names"] = ["only one"]

    change_json(root / "meta/info.json", rename)
    schema = opened(root).schema
    assert (schema["action"].components, schema["observation.state"].components) == (("y", "z", "x"), ())


def test_pictures_may_lie_in_files_of_their_own(tmp_path):
    dataset = plain()
    root = dataset.write(tmp_path / "logs")
    file = root / "data/chunk-000/episode_000000.parquet"
    rows = pq.read_table(file)
    for name, wrong in (("inside.png", None), ("../outside.png", "leads out"), ("gone.png", "missing")):
        (root / name).resolve().write_bytes(png(dataset.columns[0][MAP][0])) if name != "gone.png" else None
        cells = [{"bytes": png(picture), "path": "x"} for picture in dataset.columns[0][MAP]]
        cells[0] = {"bytes": None, "path": name}
        column = pa.array(cells, rows.schema.field(MAP).type)
        pq.write_table(rows.set_column(rows.schema.get_field_index(MAP), MAP, column), file)
        first = read(root)[0]
        if wrong is None:
            np.testing.assert_array_equal(first.episode.observations[MAP], dataset.columns[0][MAP])
        else:
            assert wrong in str(first.findings[0])


@pytest.mark.parametrize("kind", ["deep", "cut", "other size", "none"])
def test_pictures_that_cannot_be_kept_are_named(tmp_path, kind):
    dataset = plain("v3.0")
    root = dataset.write(tmp_path / "logs")
    content = {
        "deep": png(np.full((6, 7), 1000, np.uint16)),
        "cut": png(dataset.columns[1][MAP][2])[:60],
        "other size": png(np.zeros((7, 6, 3), np.uint8)),
        "none": None,
    }[kind]
    parts = [table(columns) for columns in dataset.columns]
    cells = parts[1].column(MAP).to_pylist()
    cells[2] = {"bytes": content, "path": None}
    at = parts[1].schema.get_field_index(MAP)
    parts[1] = parts[1].set_column(at, MAP, pa.array(cells, parts[0].schema.field(MAP).type))
    write_parquet(root / "data/chunk-000/file-000.parquet", parts)
    assert f"signal {MAP!r}, step 2" in only_problem(read(root), 1)


def test_grey_pictures_and_declared_channels_first(tmp_path):
    dataset = plain("v3.0")
    grey = [columns[MAP][..., 0] for columns in dataset.columns]
    root = dataset.write(tmp_path / "logs")
    parts = []
    for columns, values in zip(dataset.columns, grey, strict=True):
        part = table(columns)
        cells = pa.array([{"bytes": png(v), "path": "x"} for v in values])
        parts.append(part.set_column(part.schema.get_field_index(MAP), MAP, cells))
    write_parquet(root / "data/chunk-000/file-000.parquet", parts)
    shape = {"dtype": "image", "shape": [1, 6, 7], "names": ["channels", "height", "width"]}
    change_json(root / "meta/info.json", lambda info: info["features"].update({MAP: shape}))
    assert opened(root).schema[MAP].shape == (6, 7, 1)
    for logged, values in zip(read(root), grey, strict=True):
        np.testing.assert_array_equal(logged.episode.observations[MAP][..., 0], values)


def test_what_is_no_signal_is_left_out_and_said_to_be(tmp_path):
    root = Dataset(version="v2.1", cameras=(FRONT,)).write(tmp_path / "logs")

    def change(info: dict[str, Any]) -> None:
        info["features"][FRONT]["info"] = {"video.is_depth_map": True}
        info["features"]["language_events"] = {"dtype": "language", "shape": [1], "names": None}

    change_json(root / "meta/info.json", change)
    logs = opened(root)
    said = "\n".join(logs.unclear)
    assert f"{FRONT}: left out, because the schema has no signal {FRONT!r} (a depth map)" in said
    assert "language_events: left out" in said
    assert all(logged.episode is not None for logged in logs.read())


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize(("template", "word"), [
    ("../other/file.parquet", "leads out"),
    ("/etc/hostname", "leads out"),
    ("link.parquet", "leads out"),
    ("data/{episode_index.__class__}.parquet", "has an invalid field"),
    ("data/{password}.parquet", "KeyError: 'password'"),
    ("data/nothing.parquet", "missing"),
    ("data/\0.parquet", "path is invalid"),
    ("data/" + "x" * 5000, "path is invalid"),
])  # fmt: skip
def test_no_path_leads_out_of_the_dataset(tmp_path, version, template, word):
    root = plain(version).write(tmp_path / "logs")
    (tmp_path / "other").mkdir()
    next(root.glob("data/*/*.parquet")).replace(tmp_path / "other/file.parquet")
    (root / "link.parquet").symlink_to(tmp_path / "other/file.parquet")
    change_json(root / "meta/info.json", lambda info: info.update(data_path=template))
    with pytest.raises(DataError, match=word):
        opened(root)


def test_one_bad_episode_never_stops_the_others(tmp_path):
    dataset = Dataset(version="v2.1", cameras=(FRONT,), lengths=(5, 4, 6, 5, 4), tasks=("push",) * 5)
    root = dataset.write(tmp_path / "logs")
    (root / "data/chunk-000/episode_000001.parquet").unlink()
    cut = root / "data/chunk-000/episode_000002.parquet"
    cut.write_bytes(cut.read_bytes()[:-200])
    video = root / f"videos/chunk-000/{FRONT}/episode_000003.mp4"
    video.write_bytes(video.read_bytes()[:400])
    results = read(root)
    assert [logged.episode is not None for logged in results] == [True, False, False, False, True]
    words = ("the file is missing", "cannot be read", "the video cannot be read")
    for logged, word in zip(results[1:4], words, strict=True):
        assert word in str(logged.findings[0])
    assert results[3].findings[0].file == f"videos/chunk-000/{FRONT}/episode_000003.mp4"


def test_lists_that_make_no_sense_are_errors_and_a_short_one_is_said(tmp_path):
    root = plain().write(tmp_path / "logs")
    lines = root / "meta/episodes.jsonl"
    whole = lines.read_text()
    for text, word in (
        (whole[:-20], "the list of episodes is invalid"),
        (whole + whole.splitlines()[0], "episode_index 0 occurs twice"),
        (whole.replace('"length": 4', '"length": -4'), "the list of episodes is invalid .*length"),
        ("", "no episode is listed"),
    ):
        lines.write_text(text)
        with pytest.raises(DataError, match=word):
            opened(root)
    lines.write_text("".join(whole.splitlines(keepends=True)[:2]))
    assert "total_episodes is 3; 2 are listed" in "\n".join(opened(root).unclear)
    (root / "meta/tasks.jsonl").write_text('{"task_index": -1, "task": "a"}')
    with pytest.raises(DataError, match="the list of tasks is invalid"):
        opened(root)


@pytest.mark.parametrize(("change", "word"), [
    ({"codebase_version": "v1.6"}, "version 'v1.6'"),
    ({"fps": 0}, "fps"),
    ({"fps": float("nan")}, "the metadata is invalid"),
    ({"fps": "30"}, "fps"),
    ({"chunks_size": 0}, "chunks_size"),
    ({"data_path": None}, "data_path"),
    ({"features": []}, "features"),
    ({"features": {"action": {"dtype": "float32", "shape": [-1]}}}, r"features\[...\].shape"),
    ({"features": {"a": {"dtype": "video", "shape": [4]}}}, "three dimensions"),
])  # fmt: skip
def test_metadata_that_make_no_sense_are_named(tmp_path, change, word):
    root = plain().write(tmp_path / "logs")
    change_json(root / "meta/info.json", lambda info: info.update(change))
    with pytest.raises(DataError, match=word):
        opened(root)


@pytest.mark.parametrize(("change", "word"), [
    ({"shape": [4]}, r"a cell does not have shape \(4,\)"),
    ({"shape": [3, 1]}, r"a cell does not have shape \(3, 1\)"),
])  # fmt: skip
def test_cells_of_another_shape_than_declared_are_named(tmp_path, change, word):
    root = plain("v3.0").write(tmp_path / "logs")
    change_json(root / "meta/info.json", lambda info: info["features"]["action"].update(change))
    with pytest.raises(DataError, match=word):
        opened(root)


def test_lists_of_other_lengths_are_never_joined(tmp_path):
    dataset = plain()
    file = dataset.write(tmp_path / "logs") / "data/chunk-000/episode_000000.parquet"
    rows = pq.read_table(file)
    cells = pa.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    pq.write_table(rows.set_column(rows.schema.get_field_index("action"), "action", cells), file)
    assert "signal 'action': a cell does not have shape (3,)" in only_problem(read(tmp_path / "logs"), 0)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> Path:
    dataset = Dataset(version="v2.1", cameras=(FRONT,), lengths=(4, 3))
    return dataset.write(tmp_path_factory.mktemp("fuzzed") / "logs")


@given(number=st.integers(0, 99), damage=DAMAGES)
@FEW
def test_damage_anywhere_ends_in_an_error_a_finding_or_whole_episodes(fuzzed, number, damage):
    files = sorted(file for file in fuzzed.rglob("*") if file.is_file())
    file = files[number % len(files)]
    whole = file.read_bytes()
    try:
        damage_file(file, damage)
        results = assert_read_or_refused(read, fuzzed)
        schema = opened(fuzzed).schema if results else None
    finally:
        file.write_bytes(whole)
    for logged in results:
        if logged.episode is not None:
            check_episode(logged.episode, schema)
    if damage[2] and file.suffix == ".parquet" and results:
        assert any(logged.episode is None for logged in results)


def test_tasks_are_looked_up_where_the_list_has_none(tmp_path):
    root = plain().write(tmp_path / "logs")
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line | {"tasks": []}) + "\n" for line in lines))
    assert [logged.source["task"] for logged in read(root)] == ["push the block", "lift it", "push the block"]
