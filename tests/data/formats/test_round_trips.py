"""What every exporter promises: its importer gives the same episodes, and damage never passes for data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.formats.damage import DAMAGES, FEW, Damage, assert_read_or_refused, damage_file
from tests.data.stores import stored

from worldline.config import to_json
from worldline.data.base import LoggedEpisode
from worldline.data.exporting import export_store
from worldline.data.open_logs import open_logs
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import ConfigError
from worldline.schema import NOOP, Role, Schema

MASKS = st.sets(st.sampled_from(["camera", "position", "gear"])).map(lambda names: tuple(sorted(names)))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SOURCES = st.dictionaries(TEXTS.filter(bool), TEXTS | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9), max_size=3)
SHAPES = st.lists(st.tuples(st.integers(1, 6), MASKS, SOURCES), min_size=1, max_size=4)
OUT = {"hdf5": "out.h5", "lerobot": "out"}
CHECKED = {"hdf5": "out.h5", "lerobot": "**/*.parquet"}
"""Files of each format in which any damage is noticed."""
FORMATS = pytest.mark.parametrize("name", OUT)


def exported(folder: Path, name: str, schema: Schema, episodes: list[Episode], sources: Any = None) -> Store:
    store = stored(folder / "store", schema, episodes, sources or ())
    export_store(store, folder / OUT[name], exporter=name)
    return store


def read(path: Path) -> list[LoggedEpisode]:
    return list(open_logs(path).read())


@FORMATS
@given(shapes=SHAPES)
@FEW
def test_an_export_is_read_back_bit_for_bit(
    name: str, tmp_path_factory: Any, schema: Schema, make_episode: Any, assert_equal: Any, shapes: Any
) -> None:
    folder = tmp_path_factory.mktemp("round")
    episodes = [make_episode(3 + number, steps, masked) for number, (steps, masked, _) in enumerate(shapes)]
    sources = [{"file": f"{n}.npz", "task": "push it", "take": 1.5} | one for n, (*_, one) in enumerate(shapes)]
    store = exported(folder, name, schema, episodes, sources)
    logs = open_logs(folder / OUT[name])
    assert (logs.schema, logs.unclear, len(logs)) == (schema, (), len(episodes))
    for number, logged in enumerate(logs.read()):
        assert (logged.number, logged.findings) == (number, ())
        assert_equal(logged.episode, store.episode(number))
        place = {"file": logged.file, "episode": number}
        kept = {(f"source.{key}" if key in place else key): value for key, value in sources[number].items()}
        assert logged.source == kept | place
    assert {path.name for path in folder.iterdir()} == {"store", OUT[name]}


@FORMATS
def test_a_schema_beside_the_logs_is_used(name: str, tmp_path: Path, schema: Schema, make_episode: Any) -> None:
    out = exported(tmp_path, name, schema, [make_episode(0, 3)]).path.with_name(OUT[name])
    signals = (replace(schema["position"], unit="m/s"), replace(schema["push"], role=Role.EXOGENOUS))
    beside = (out if out.is_dir() else tmp_path) / "schema.json"
    beside.write_text(to_json(Schema(signals=signals)))
    logs = open_logs(out)
    assert logs.schema.signals == (*signals, NOOP)
    assert "camera" in "\n".join(logs.unclear)
    (logged,) = logs.read()
    assert logged.episode is not None
    assert (logged.episode.observations.keys(), logged.episode.exogenous.keys()) == ({"position"}, {"push"})
    beside.write_text('{"signals": 3}')
    with pytest.raises(ConfigError, match=r"schema\.json"):
        open_logs(out)


@pytest.fixture(scope="module", params=list(OUT))
def export(request: Any, tmp_path_factory: Any, schema: Schema, make_episode: Callable[..., Episode]) -> Any:
    folder = tmp_path_factory.mktemp("fuzz")
    return request.param, exported(folder, request.param, schema, [make_episode(3, 3, ("gear",)), make_episode(1, 2)])


@given(number=st.integers(0, 99), damage=DAMAGES)
@FEW
def test_damage_to_an_export_never_passes_for_data(
    tmp_path_factory: Any, export: Any, assert_equal: Any, number: int, damage: Damage
) -> None:
    name, store = export
    whole, folder = store.path.with_name(OUT[name]), tmp_path_factory.mktemp("damaged")
    copy = (shutil.copytree if whole.is_dir() else shutil.copy)(whole, folder / whole.name)
    files = sorted(file for file in (copy if copy.is_dir() else folder).glob(CHECKED[name]) if file.is_file())
    damage_file(files[number % len(files)], damage)
    for logged in assert_read_or_refused(read, copy):
        if logged.episode is not None:
            assert_equal(logged.episode, store.episode(logged.number))
