from __future__ import annotations

import datetime as dt
import decimal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from worldline.data.base import ReadOptions
from worldline.data.formats.tables.columns import table_of
from worldline.data.importing import import_logs
from worldline.data.open_logs import open_logs
from worldline.data.store import open_store
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.schema import NOOP, Role

ROWS = 40
LEVEL = np.sin(np.arange(ROWS) / 5)
HEATER = np.repeat([0.0, 30.0, 70.0, 10.0], ROWS // 4)


def frame(rows: int = ROWS) -> pd.DataFrame:
    index = pd.date_range("2025-03-30 00:50", periods=rows, freq="1min", tz="Europe/Berlin")
    return pd.DataFrame({"tank level [m]": LEVEL[:rows], "heater [%]": HEATER[:rows]}, index=index)


@pytest.mark.parametrize("kind", ["pandas", "polars", "columns"])
def test_a_frame_is_a_table(tmp_path, kind):
    given = frame()  # its clock goes forward by an hour in the middle
    if kind == "polars":
        given = pl.from_pandas(given.reset_index(names="time"))
    elif kind == "columns":
        given = {"time": 60.0 * np.arange(ROWS), "tank level [m]": LEVEL, "heater [%]": HEATER}
    report = import_logs(given, tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert (report.importer, len(store), store.schema.step_s) == ("memory", 1, 60.0)
    assert [(one.name, one.role, one.unit) for one in store.schema.signals] == [
        ("tank level", Role.OBSERVATION, "m"),
        ("heater", Role.ACTION, "%"),
    ]
    episode = store.episode(0)
    assert (episode.step_s, episode.observations["tank level"][:, 0].tolist()) == (None, LEVEL.tolist())
    assert episode.actions["heater"][:, 0].tolist() == HEATER[:-1].tolist()


def test_columns_of_every_kind_have_their_type_without_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    kinds = {
        "count": pd.array([1, None, 3], "Int32"),
        "share": [0.5, np.nan, 1.5],
        "flag": pd.Series([True, None, False], dtype=object),
        "word": pd.Categorical(["a", None, "b"]),
        "list": [[1, 2], [3, 4], [5, 6]],
        "price": [decimal.Decimal("1.5")] * 3,
        "day": [dt.date(2024, 5, 31), None, dt.date(2024, 6, 1)],
        "clock": [dt.time(1, 2)] * 3,
        "bytes": [b"1"] * 3,
    }
    table = table_of(pd.DataFrame(kinds), Path("frame"))
    assert [finding.signal for finding in table.findings] == ["bytes"]
    found = {name: (column.values.dtype.str[1:3], column.missing.tolist()) for name, column in table.columns.items()}
    missing = [False, True, False]
    whole = [False] * 3
    assert found == {
        "count": ("i4", missing), "share": ("f8", missing), "flag": ("b1", missing), "word": ("O", missing),
        "list": ("i8", whole), "price": ("f8", whole), "day": ("M8", missing), "clock": ("m8", whole),
    }  # fmt: skip
    assert table.columns["clock"].values[0] == np.timedelta64(62, "m")


def test_several_frames_and_a_selection_of_rows(tmp_path):
    report = import_logs([frame(), frame(20)], tmp_path / "store")
    assert [file.file for file in report.files] == ["frame 0", "frame 1"]
    assert open_store(tmp_path / "store").num_steps.tolist() == [ROWS - 1, 19]
    numbered = frame().reset_index(drop=True)
    found = open_logs(numbered[numbered["heater [%]"] > 5]).schema
    assert [signal.name for signal in found.signals] == ["tank level", "heater"]


def test_arrays_of_different_lengths_are_episodes(tmp_path):
    one = {"level": LEVEL, "heater": HEATER[:-1], "time": 2.0 * np.arange(ROWS)}
    other = {name: values[: 20 - (name == "heater")] for name, values in one.items()}
    other |= {"terminated": np.True_, "seed": 7, "observed.level": np.arange(20) != 3}
    import_logs([one, other], tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert (store.schema.step_s, store.num_steps.tolist()) == (2.0, [ROWS - 1, 19])
    episode = store.episode(1)
    assert (episode.terminated, episode.seed) == (True, 7)
    assert np.flatnonzero(~episode.observed["level"]).tolist() == [3]


def test_episodes_keep_their_roles(tmp_path, make_episode, schema, assert_equal):
    episodes = [make_episode(number, 6 + number, ("position",)) for number in range(3)]
    inferred = open_logs(episodes).schema
    assert {one.name: one.role for one in inferred.signals} == {one.name: one.role for one in schema.signals}
    import_logs(episodes, tmp_path / "store", schema)
    store = open_store(tmp_path / "store")
    for number, episode in enumerate(episodes):
        assert_equal(store.episode(number), episode)


def test_corrections_and_options_apply(tmp_path):
    logs = open_logs(frame(), edits={"heater": {"role": "observation"}, "tank level": {"role": "action"}})
    assert (logs.schema["heater"].role, logs.schema["tank level"].low) == (Role.OBSERVATION, (LEVEL.min(),))
    import_logs(frame(), tmp_path / "store", edits={"heater": {"role": "observation"}})
    assert open_store(tmp_path / "store").schema.actions == (NOOP,)
    assert open_logs(frame(), reading=ReadOptions(rate_hz=1 / 120)).schema.step_s == 120.0
    with pytest.raises(InputError, match="rate_hz"):
        open_logs([{"level": LEVEL, "heater": HEATER[:-1]}], reading=ReadOptions(rate_hz=1.0))


@pytest.mark.parametrize("given", [[], 3, [1, 2], np.zeros((3, 3)), pl.LazyFrame({"x": [1]})])
def test_other_objects_are_refused(given):
    with pytest.raises(InputError, match="Give a pandas or polars frame"):
        open_logs(given)


def test_an_episode_without_a_step_is_left_out(tmp_path):
    def episode(rows: int) -> Episode:
        return Episode(
            observations={"level": LEVEL[:rows, None]}, actions={"heater": HEATER[: rows - 1, None]}, exogenous={},
            rewards={}, observed={}, terminated=False, truncated=True,
        )  # fmt: skip

    report = import_logs([episode(30), episode(1)], tmp_path / "store")
    assert (report.num_episodes, [file.left_out for file in report.files]) == (1, [0, 1])
    (finding,) = report.findings
    assert "a single observation and is left out" in finding.problem
