"""Logs that hold actions too late or too early: a counter as observation, and actions that name their step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldline.data.base import ReadOptions, noted_lag
from worldline.data.importing import import_logs
from worldline.data.open_logs import open_logs
from worldline.data.store import Store, open_store
from worldline.episode import Episode
from worldline.errors import InputError

ROWS = 12
EDITS = {"heater": {"role": "action"}, "level": {"role": "observation"}, "wind": {"role": "exogenous"}}


def columns(first: int = 0) -> dict[str, np.ndarray]:
    """Row t holds observation t, the action of step t-1, which led to it, and the wind during step t."""
    steps = np.arange(first, first + ROWS)
    return {"level": 10.0 * steps, "heater": steps - 1.0, "wind": 0.1 * steps}


def as_csv(folder: Path) -> Path:
    table = columns()
    lines = [",".join(table), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
    (folder / "late.csv").write_text("\n".join(lines) + "\n")
    return folder / "late.csv"


def as_frame(_: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(columns())


def as_npz(folder: Path) -> Path:
    arrays = columns()
    arrays = {name: values if name == "level" else values[:-1] for name, values in arrays.items()}
    (folder / "npz").mkdir()
    np.savez(folder / "npz" / "0.npz", **arrays, terminated=True)
    return folder / "npz"


def as_episodes(_: Path) -> list[Episode]:
    arrays = {name: values[:, None] for name, values in columns().items()}
    return [
        Episode(
            observations={"level": arrays["level"]},
            actions={"heater": arrays["heater"][:-1]},
            exogenous={"wind": arrays["wind"][:-1]},
        )
    ]


def imported(logs: object, destination: Path, lag: int | None, **more: Any) -> Store:
    edits = None if isinstance(logs, list) or destination.exists() else EDITS
    import_logs(logs, destination, edits=edits, reading=ReadOptions(action_lag=lag, **more))
    return open_store(destination)


def assert_aligned(episode: Episode, num_steps: int) -> None:
    """Action t and the wind belong to the step from observation t to t+1."""
    assert episode.num_steps == num_steps
    level = episode.observations["level"][:, 0]
    np.testing.assert_allclose(np.diff(level), 10.0)
    np.testing.assert_allclose(10 * episode.actions["heater"][:, 0], level[:-1])
    np.testing.assert_allclose(100 * episode.exogenous["wind"][:, 0], level[:-1])


@pytest.mark.parametrize("write", [as_csv, as_npz, as_episodes])
def test_late_actions_are_moved_in_every_format(tmp_path: Path, write: Any) -> None:
    store = imported(write(tmp_path), tmp_path / "store", 1)
    assert_aligned(store.episode(0), ROWS - 2)
    assert not store.entry(0).terminated, "the terminal observation has no action"
    assert store.card.notes["action_lag"] == "1"
    assert "The actions were moved 1" in store.card.notes["assumed"]


@pytest.mark.parametrize(("lag", "first"), [(2, -2), (-1, 20), (-3, 40)])
def test_the_sign_says_where_the_actions_are(tmp_path: Path, lag: int, first: float) -> None:
    episode = imported(as_csv(tmp_path), tmp_path / "store", lag).episode(0)
    assert episode.num_steps == ROWS - 1 - abs(lag)
    ahead = lag - 1
    np.testing.assert_allclose(episode.actions["heater"][:, 0] - ahead, episode.observations["level"][:-1, 0] / 10)
    assert episode.observations["level"][0, 0] == (0 if lag > 0 else -10 * lag)


def test_a_store_is_imported_as_its_logs_are(tmp_path: Path) -> None:
    logs = as_csv(tmp_path)
    imported(logs, tmp_path / "store", None)
    aligned = imported(tmp_path / "store", tmp_path / "aligned", 1)
    assert aligned.entry(0).digest == imported(logs, tmp_path / "other", 1).entry(0).digest
    assert noted_lag(aligned.card.notes) == 1
    report = import_logs(logs, tmp_path / "aligned")
    assert (report.num_episodes, report.files[0].present) == (0, 1), "the same logs add nothing"
    assert noted_lag(imported(tmp_path / "aligned", tmp_path / "copy", None).card.notes) == 1
    assert_aligned(open_store(tmp_path / "copy").episode(0), ROWS - 2)


def test_more_logs_of_a_store_are_read_as_the_first(tmp_path: Path) -> None:
    frame = as_frame(tmp_path)
    imported(frame, tmp_path / "store", 1)
    more = frame.assign(level=frame["level"] + 100, heater=frame["heater"] + 10, wind=frame["wind"] + 1)
    store = imported(more.iloc[:-2], tmp_path / "store", None)
    assert len(store) == 2
    assert_aligned(store.episode(1), ROWS - 4)
    for lag in (0, 2):
        with pytest.raises(InputError, match=f"was imported with --action-lag 1, and these logs are read with {lag}"):
            imported(more, tmp_path / "store", lag)
    with pytest.raises(InputError, match="--action-lag 1, and these logs are read with 0"):
        import_logs(open_logs(more, store.schema), tmp_path / "store")


def test_a_store_with_another_lag_is_added_only_if_the_user_says_how(tmp_path: Path) -> None:
    frame = as_frame(tmp_path)
    imported(frame, tmp_path / "late", None)
    imported(frame, tmp_path / "store", 1)
    with pytest.raises(InputError, match=r"Give --action-lag 1 to move the actions of .*late, or --action-lag 0"):
        imported(tmp_path / "late", tmp_path / "store", None)
    assert len(imported(tmp_path / "late", tmp_path / "store", 1)) == 1
    assert len(imported(tmp_path / "late", tmp_path / "store", 0)) == 2


def test_episodes_without_a_remaining_step_are_named(tmp_path: Path) -> None:
    reading = ReadOptions(action_lag=1, max_steps=10)
    report = import_logs(as_csv(tmp_path), tmp_path / "store", edits=EDITS, reading=reading)
    assert open_store(tmp_path / "store").num_steps.tolist() == [9]
    (left_out,) = [finding for finding in report.findings if "no step remains" in finding.problem]
    assert (left_out.file, left_out.episode) == ("late.csv", 1)


def test_arrays_of_wrong_lengths_are_refused_as_without_the_option(tmp_path: Path) -> None:
    folder = as_npz(tmp_path)
    arrays = dict(np.load(folder / "0.npz"))
    np.savez(folder / "1.npz", **{**arrays, "heater": np.arange(ROWS + 1.0)})
    report = import_logs(folder, tmp_path / "store", edits=EDITS, keep_going=True, reading=ReadOptions(action_lag=1))
    assert report.num_episodes == 1
    assert any("rows" in finding.problem and finding.file == "1.npz" for finding in report.findings)
