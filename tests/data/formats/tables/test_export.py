from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.data.stores import random_episode, stored

from worldline.data.exporting import export_store
from worldline.data.formats.tables import export
from worldline.data.importing import import_logs
from worldline.data.open_logs import open_logs
from worldline.data.store import Store, open_store
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Role, Schema, Signal

FILES = pytest.mark.parametrize("file", ["plant.csv", "plant.parquet"])


def vector(name: str, role: Role = Role.OBSERVATION, size: int = 1, **more: Any) -> Signal:
    return Signal(name=name, role=role, kind=Kind.VECTOR, shape=(size,), **more)


SIGNALS = (
    vector("temperature", unit="degC"),
    vector("position", size=2, unit="m", components=("x", "y"), precision="float64"),
    vector("speeds", size=3, unit="m/s", period=4.0),
    Signal(name="gear", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3, components=("a", "b", "c")),
    vector("power", Role.ACTION, unit="kW", low=(-1.0,), high=(1.0,)),
    Signal(name="mode", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=4),
    vector("wind", Role.EXOGENOUS),
    vector("profit", Role.REWARD, unit="?"),
)


def plant(folder: Path, step_s: float | None = 600.0) -> Store:
    """Five episodes with gaps, ends, seeds, a held sensor and properties, three of them pieces of one recording."""
    schema, episodes = Schema(signals=SIGNALS, step_s=step_s), []
    for number in range(5):
        length = 25 + number
        episode = random_episode(
            schema,
            length,
            number,
            observed={"speeds": np.arange(length + 1) % 4 > 0, "gear": np.arange(length + 1) != number}
            if number % 2
            else {},
            terminated=number == 2,
            truncated=number != 2,
            seed=number if number < 4 else None,
        )
        episode.observations["temperature"][:] = np.repeat(episode.observations["temperature"][::5], 5, 0)[: length + 1]
        episodes.append(episode)
    sources: list[Any] = [
        {"file": "raw.csv", "label": str(number // 3), "piece": number, "machine": "M7", "start_s": 1.7e9 + number / 4}
        for number in range(5)
    ]
    return stored(folder / "plant", schema, episodes, sources)


@FILES
@pytest.mark.parametrize("batch", [1, 40, 1000])
def test_an_import_of_a_table_gives_the_exported_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_equal: Any, file: str, batch: int
) -> None:
    monkeypatch.setattr(export, "_BATCH_ROWS", batch)
    store = plant(tmp_path)
    export_store(store, tmp_path / file)
    logs = open_logs(tmp_path / file)
    assert (logs.schema, logs.unclear, len(logs)) == (store.schema, (), 5)
    for number, logged in enumerate(logs.read()):
        ours, theirs = store.episode(number), logged.episode
        assert theirs is not None
        for name, mask in ours.observed.items():  # values under a mask have no meaning
            rows = mask.astype(bool).reshape(-1, *[1] * (ours.observations[name].ndim - 1))
            np.copyto(theirs.observations[name], ours.observations[name], where=~rows)
        assert_equal(theirs, ours)
        label = number // 3 if file.endswith(".csv") else str(number // 3)  # a CSV file holds digits as numbers
        source = {**store.entry(number).source, "episode": number, "label": label}
        assert logged.source == source


def test_a_log_comes_back_as_it_was_imported(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "time": pd.date_range("2025-03-30 00:30", periods=40, freq="10min").strftime("%Y-%m-%d %H:%M:%S"),
            "level [m]": np.random.default_rng(0).normal(size=40).round(3),
            "heater [%]": np.repeat([0.0, 30.0, 70.0, 10.0], 10),
        }
    )
    rows.loc[[3, 17], "level [m]"] = None
    rows.to_csv(tmp_path / "raw.csv", index=False)
    import_logs(tmp_path / "raw.csv", tmp_path / "store")
    export_store(open_store(tmp_path / "store"), tmp_path / "plant.csv")
    back = pd.read_csv(tmp_path / "plant.csv")
    pd.testing.assert_frame_equal(back[["time", "level [m]"]], rows[["time", "level [m]"]])
    assert back["heater [%]"].tolist()[:-1] == rows["heater [%]"].tolist()[:-1]
    assert np.isnan(back["heater [%]"].iloc[-1])  # the action of the last row has no result, and is not stored
    import_logs(tmp_path / "plant.csv", tmp_path / "again")
    first, again = (open_store(tmp_path / name) for name in ("store", "again"))
    assert (again.schema, again.entry(0).digest) == (first.schema, first.entry(0).digest)


def test_steps_of_unequal_length_keep_their_times(tmp_path: Path) -> None:
    schema = Schema(signals=SIGNALS)
    steps = np.random.default_rng(0).uniform(0.1, 5, 30).astype(np.float32)
    store = stored(tmp_path / "store", schema, [random_episode(schema, 30, step_s=steps)])
    export_store(store, tmp_path / "out.csv")
    (logged,) = open_logs(tmp_path / "out.csv").read()
    assert logged.episode is not None
    np.testing.assert_array_equal(logged.episode.step_s, steps)


@FILES
def test_what_a_table_cannot_hold_is_refused(tmp_path: Path, file: str) -> None:
    eye = Signal(name="eye", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(2, 2, 1))
    for signal, said in (
        (eye, r"holds no images, but the store has eye\. .*worldline schema .* eye=ignore"),
        (vector("seed"), r"'seed': a table has another column of this name"),
        (vector("speeds.1"), r"'speeds.1': a table has another column of this name"),
        (vector("flow (wet)"), r"'flow \(wet\)': a table would read it as 'flow' in 'wet'"),
    ):
        schema = Schema(signals=(*SIGNALS, signal))
        store = stored(tmp_path / signal.name, schema, [random_episode(schema, 3)])
        with pytest.raises(InputError, match=said):
            export_store(store, tmp_path / file)
    with pytest.raises(InputError, match="has no episode"):
        export_store(Store.create(tmp_path / "none", Schema(signals=SIGNALS)), tmp_path / file)
    assert not list(tmp_path.glob("*plant*"))


@FILES
def test_nothing_is_written_over_or_from_a_damaged_store(tmp_path: Path, file: str) -> None:
    store = plant(tmp_path)
    schema = tmp_path / f"{file}.schema.json"
    schema.write_text("{}")
    with pytest.raises(InputError, match=r"schema\.json exists"):
        export_store(store, tmp_path / file)
    schema.unlink()
    block = store.path / "blocks" / "position.raw"
    block.write_bytes(block.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match=r"episode 4.*differs from the one that was added"):
        export_store(open_store(store.path), tmp_path / file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plant"]
