from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from worldline.data.importing import import_logs
from worldline.data.schema_edits import apply_edits, edit_command, parse_edits
from worldline.data.store import Store, open_store
from worldline.data.store_notes import correct_schema
from worldline.episode import Episode
from worldline.errors import ConfigError, DataError, InputError
from worldline.schema import Kind, Role, Schema, Signal

VECTOR, DISCRETE = Kind.VECTOR, Kind.DISCRETE


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three episodes of a tank: level, a heater that was taken for a measurement, a gear, and inflow as action."""
    signals = (
        Signal(name="level", role=Role.OBSERVATION, kind=VECTOR, shape=(1,), unit="?"),
        Signal(name="heater", role=Role.OBSERVATION, kind=VECTOR, shape=(1,), unit="?"),
        Signal(name="gear", role=Role.OBSERVATION, kind=VECTOR, shape=(1,)),
        Signal(name="inflow", role=Role.ACTION, kind=VECTOR, shape=(1,), low=(0.0,), high=(5.0,)),
    )
    made = Store.create(tmp_path / "store", Schema(signals=signals, step_s=1.0))
    for number in range(3):
        rows = np.arange(6, dtype=np.float32)[:, None]
        made.append(
            Episode(
                observations={"level": rows + number, "heater": 10 * rows + number, "gear": rows % 3},
                actions={"inflow": rows[:-1] % 5}, exogenous={}, rewards={},
                observed={"level": np.arange(6) != 2} if number == 1 else {}, terminated=False, truncated=True,
            ),
            {"file": f"{number}.csv"},
        )  # fmt: skip
    return made


def by_hand(store: Store, signal_name: str, **values: object) -> None:
    """Edits a signal in `schema.json`."""
    file = store.path / "schema.json"
    tree = json.loads(file.read_text())
    next(signal for signal in tree["signals"] if signal["name"] == signal_name).update(values)
    file.write_text(json.dumps(tree))


def test_an_observation_becomes_an_action_with_the_logged_bounds(store: Store) -> None:
    changed = correct_schema(store, {"heater": {"role": "action", "unit": "%"}})
    heater = changed.schema["heater"]
    assert (heater.role, heater.unit, heater.low, heater.high) == (Role.ACTION, "%", (0.0,), (52.0,))
    again = open_store(store.path)
    for number in range(3):
        episode = again.verify(number)
        assert episode.actions["heater"][:, 0].tolist() == [10 * k + number for k in range(5)]
        assert episode.observations["level"][:, 0].tolist() == [k + number for k in range(6)]
        assert again.entry(number).source == {"file": f"{number}.csv"}
    assert again.verify(1).observed["level"].tolist() == [True, True, False, True, True, True]


def test_an_action_that_becomes_an_observation_is_missing_at_the_end(store: Store) -> None:
    changed = correct_schema(store, {"inflow": {"role": "observation"}, "heater": {"role": "action"}})
    episode = changed.verify(0)
    assert episode.observed["inflow"].tolist() == [True] * 5 + [False]
    assert episode.observations["inflow"][:, 0].tolist() == [0, 1, 2, 3, 4, 4]


def test_units_bounds_and_entities_change_no_block(store: Store) -> None:
    before = {file.name: file.read_bytes() for file in (store.path / "blocks").iterdir()}
    edits = {"level": {"unit": "m", "entity": "tank"}, "inflow": {"low": -1, "high": 9}, "": {"step_s": 60}}
    changed = correct_schema(store, edits)
    assert (changed.schema["level"].unit, changed.schema["level"].entity) == ("m", "tank")
    assert (changed.schema["inflow"].low, changed.schema["inflow"].high, changed.schema.step_s) == (
        (-1.0,),
        (9.0,),
        60.0,
    )
    assert {file.name: file.read_bytes() for file in (store.path / "blocks").iterdir()} == before
    assert [open_store(store.path).verify(number).num_steps for number in range(3)] == [5, 5, 5]


def test_kinds_change_with_their_values(store: Store) -> None:
    changed = correct_schema(store, {"gear": {"kind": "discrete"}})
    assert (changed.schema["gear"].kind, changed.schema["gear"].num_values) == (DISCRETE, 3)
    assert changed.verify(0).observations["gear"].tolist() == [0, 1, 2, 0, 1, 2]
    back = correct_schema(changed, {"gear": {"kind": "vector", "unit": "1"}})
    assert back.verify(0).observations["gear"][:, 0].tolist() == [0, 1, 2, 0, 1, 2]


def test_a_signal_can_be_dropped(store: Store) -> None:
    changed = correct_schema(store.path, {"gear": {"role": "ignore"}})
    assert [signal.name for signal in changed.schema.signals] == ["level", "heater", "inflow"]
    assert not (store.path / "blocks" / "gear.raw").exists()
    assert changed.verify(2).num_steps == 5


@pytest.mark.parametrize(("edits", "error", "words"), [
    ({"level": {"role": "action"}}, DataError, r"episode 1, signal 'level', step 2: it has missing values"),
    ({"inflow": {"high": 3}}, DataError, r"episode 0, signal 'inflow', step 4: the value \[4.0\] is outside"),
    ({"inflow": {"low": 8}}, ConfigError, "low .* exceeds high"),
    ({"camera": {"role": "action"}}, ConfigError, "no column is called 'camera'"),
    ({"level": {"kind": "image"}}, ConfigError, "cannot become image"),
    ({n: {"role": "action"} for n in ("level", "heater", "gear")}, InputError, "no observation"),
])  # fmt: skip
def test_what_cannot_be_is_refused_and_changes_nothing(store: Store, edits, error, words) -> None:
    before = {file: file.read_bytes() for file in store.path.rglob("*") if file.is_file()}
    with pytest.raises(error, match=words):
        correct_schema(store, edits)
    assert {file: file.read_bytes() for file in store.path.rglob("*") if file.is_file()} == before
    assert [file.name for file in store.path.parent.iterdir()] == ["store"]


@pytest.mark.parametrize(("text", "said"), [
    ("level=acton", "level: role is 'acton'"),
    ("heatr=action", "'heatr'. Did you mean 'heater'"),
    ("inflow.high=wide", "inflow: high is 'wide': Expected `float"),
    ("gear.shape=3", "gear: shape is '3'"),
    ("level.colour=red", "unknown field `colour` (known: role, unit"),
    ("step_s=-1", "step_s must be"),
])  # fmt: skip
def test_a_mistake_is_named(store: Store, text: str, said: str) -> None:
    edits = parse_edits([text], [signal.name for signal in store.schema.signals])
    with pytest.raises(ConfigError) as caught:
        apply_edits(store.schema, edits, where="schema.json")
    assert str(caught.value).startswith("schema.json: ")
    assert said in str(caught.value)


def test_texts_of_edits() -> None:
    edits = parse_edits(["a.b=action", "a.b.low=0,-1.5", "a.b.unit=m/s", "a.b.entity=none", "g.num_values=4"], ["a.b"])
    assert edits == {"a.b": {"role": "action", "low": [0, -1.5], "unit": "m/s", "entity": None}, "g": {"num_values": 4}}
    assert edit_command("s", ["tank level.unit=%"]) == "worldline schema s 'tank level.unit=%'"


@pytest.mark.parametrize(("draft_is_lost", "role"), [(False, Role.ACTION), (True, Role.OBSERVATION)])
def test_a_correction_that_is_killed_between_its_renames_is_completed(
    store: Store, monkeypatch: pytest.MonkeyPatch, draft_is_lost: bool, role: Role
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr("worldline.data.draft_folder._finish", lambda *_: sys.exit(9))
        if not draft_is_lost:
            killed.setattr("worldline.data.store.shutil.rmtree", lambda *_, **__: None)  # a kill deletes nothing
        with pytest.raises(SystemExit):
            correct_schema(store, {"heater": {"role": "action"}})
    assert not store.path.exists()
    again = open_store(store.path)
    assert again.schema["heater"].role is role
    assert [len(again.verify(number).actions) for number in range(3)] == [2 if role is Role.ACTION else 1] * 3
    assert list(store.path.parent.iterdir()) == [store.path]


def test_a_schema_that_is_edited_by_hand_is_applied_when_the_store_is_opened(store: Store) -> None:
    by_hand(store, "heater", role="action", unit="%", low=[0], high=[60])
    opened = open_store(store.path)
    assert opened.schema["heater"].role is Role.ACTION
    for number in range(3):
        assert opened.verify(number).actions["heater"][0, 0] == number
    by_hand(store, "level", unit="m", entity="tank")
    assert open_store(store.path).verify(1).observed["level"].sum() == 5


def test_an_edit_by_hand_that_does_not_fit_is_named(store: Store) -> None:
    by_hand(store, "inflow", high=[3.0])
    with pytest.raises(DataError, match=r"schema\.json, episode 0, signal 'inflow', step 4"):
        open_store(store.path)
    by_hand(store, "inflow", high=[5.0])
    by_hand(store, "gear", name="gears")
    with pytest.raises(InputError, match=r"signal 'gear' of the store is missing.* gear=ignore"):
        open_store(store.path)


def test_a_changed_store_takes_its_logs_again_without_doubles(tmp_path: Path) -> None:
    rows = [f"{k},{k * 0.5},{k // 5 % 4},{k % 7}.5" for k in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["time,level,heater,inflow", *rows]) + "\n")
    edits = {"heater": {"role": "observation"}, "inflow": {"role": "action"}}
    import_logs(tmp_path / "a.csv", tmp_path / "store", edits=edits)
    correct_schema(tmp_path / "store", {"heater": {"role": "action"}})
    report = import_logs(tmp_path / "a.csv", tmp_path / "store")
    assert (report.files[0].present, report.files[0].kept) == (1, 0)


def write_npz(folder: Path, **extra: object) -> Path:
    folder.mkdir()
    level, goal_state, feed = (np.random.default_rng(0).random((num, 1)) for num in (6, 6, 5))
    np.savez(folder / "a.npz", level=level, goal_state=goal_state, feed=feed, **extra)
    return folder
