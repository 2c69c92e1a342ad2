"""Edits of logs at their import: three episodes of ten steps, in which observation and action name episode and row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.stores import stored

from worldline.data import LogEdits, MaskedRows, ReadOptions, import_logs, open_store
from worldline.data import open as open_logs
from worldline.data.checks import Finding, FindingKind, Place
from worldline.data.log_edits import LOG_EDITS
from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.data.store_notes import edit_logs_command, realign_command
from worldline.episode import Episode
from worldline.errors import DataError, InputError, UnknownNameError, WorldlineError
from worldline.schema import Kind, Role, Schema, Signal

STEPS = 10
SCHEMA = Schema(
    signals=(
        Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)),
        Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)),
        Signal(name="heater", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,)),
    )
)
EDITS = LogEdits.parse(drop="0", split="2@4", mask=["lamp:1@3-5", "lamp:2@3-4"])


def arrays(number: int, steps: int = STEPS) -> dict[str, np.ndarray]:
    rows = (100.0 * number + np.arange(steps + 1)).astype(np.float32)[:, None]
    return {"level": rows, "lamp": -rows, "heater": rows[:-1] / 10}


def episode(number: int, steps: int = STEPS) -> Episode:
    made = arrays(number, steps)
    return Episode(observations={"level": made["level"], "lamp": made["lamp"]}, actions={"heater": made["heater"]})


def as_csv(folder: Path) -> Path:
    pandas = pytest.importorskip("pandas")
    tables = [
        pandas.DataFrame({name: np.resize(values[:, 0], STEPS + 1) for name, values in arrays(number).items()})
        for number in range(3)
    ]
    numbered = pandas.concat([table.assign(episode=number) for number, table in enumerate(tables)])
    numbered.to_csv(folder / "log.csv", index=False)
    return folder / "log.csv"


def as_npz(folder: Path) -> Path:
    (folder / "npz").mkdir()
    for number in range(3):
        np.savez(folder / "npz" / f"{number}.npz", **arrays(number))
    return folder / "npz"


def as_episodes(_: Path) -> list[Episode]:
    return [episode(number) for number in range(3)]


def as_stored(folder: Path) -> Store:
    return stored(folder / "logs", SCHEMA, as_episodes(folder))


def as_store(folder: Path) -> Path:
    return as_stored(folder).path


def imported(logs: object, destination: Path, edits: LogEdits | None, **more: Any) -> Store:
    import_logs(logs, destination, SCHEMA, log_edits=edits, **more)
    return open_store(destination)


def levels(store: Store) -> list[list[float]]:
    return [store.episode(number).observations["level"][:, 0].tolist() for number in range(len(store))]


@pytest.mark.parametrize("write", [as_csv, as_npz, as_episodes, as_store])
def test_every_format_takes_the_same_edits(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    store = imported(write(tmp_path), tmp_path / "store", EDITS)
    first, second, third = (store.episode(number) for number in range(3))
    whole = 200.0 + np.arange(STEPS + 1)
    assert levels(store) == [[100.0 + row for row in range(STEPS + 1)], whole[:4].tolist(), whole[4:].tolist()]
    np.testing.assert_allclose(third.actions["heater"][:, 0], third.observations["level"][:-1, 0] / 10)
    assert [one.num_steps for one in (first, second, third)] == [10, 3, 6]
    assert np.flatnonzero(~first.observed["lamp"]).tolist() == [3, 4, 5]
    assert first.observations["lamp"][2:7, 0].tolist() == [-102, -102, -102, -102, -106], "the last known value"
    assert "level" not in first.observed
    assert np.flatnonzero(~second.observed["lamp"]).tolist() == [3]
    assert np.flatnonzero(~third.observed["lamp"]).tolist() == [0]
    assert store.card.notes[LOG_EDITS] == "--drop 0 --split 2@4 --mask lamp:1@3-5,lamp:2@3-4"
    assert "The logs were edited: --drop 0 " in store.card.notes["assumed"]


def test_texts_and_edits_are_equal() -> None:
    edits = LogEdits.parse(
        drop=["12, 40-42", "3"], split="7@310,7@600", mask=["set, a:3@100-200,set, a:4", "a:b:1@0-0", "none"]
    )
    assert edits == LogEdits(
        drop=(12, 40, 41, 42, 3),
        splits=((7, 310), (7, 600)),
        masks=(
            MaskedRows(signal="set, a", episode=3, rows=(100, 200)),
            MaskedRows(signal="set, a", episode=4),
            MaskedRows(signal="a:b", episode=1, rows=(0, 0)),
        ),
    )
    options = dict(zip(edits.options[::2], edits.options[1::2], strict=True))
    assert options["--drop"] == "3,12,40-42"
    again = LogEdits.parse(drop=options["--drop"], split=options["--split"], mask=options["--mask"])
    assert again.options == edits.options
    assert (LogEdits.parse(drop="none"), LogEdits().options) == (LogEdits(), ())


@pytest.mark.parametrize(("option", "text", "rest"), [
    ("drop", "1,x", "'x'"),
    ("drop", "5-3", "'5-3'"),
    ("drop", "-1", "'-1'"),
    ("split", "7", "'7'"),
    ("split", "7@", "'7@'"),
    ("mask", "lamp", "'lamp'"),
    ("mask", "lamp:1@9-2", "'lamp:1@9-2'"),
    ("mask", "lamp:1@9", "'lamp:1@9'"),
])  # fmt: skip
def test_malformed_texts_are_refused_with_an_example(option: str, text: str, rest: str) -> None:
    with pytest.raises(InputError, match=f"--{option} {text}: expected .* such as .*, got {rest}"):
        LogEdits.parse(**{option: text})


@pytest.mark.parametrize(("edits", "error", "message"), [
    ({"drop": "3"}, InputError, "there is no episode 3. The logs hold 3"),
    ({"split": "9@1"}, InputError, "there is no episode 9"),
    ({"split": "1@0"}, InputError, "split 1@0: episode 1 has 11 rows. Give a row from 1 to 10"),
    ({"mask": "lamb:1"}, UnknownNameError, "no signal is called 'lamb'. Did you mean 'lamp'"),
    ({"mask": "heater:1"}, InputError, "has the role action, and only observations can be missing.*--drop 1"),
    ({"split": "1@11"}, InputError, "split 1@11: episode 1 has 11 rows. Give a row from 1 to 10"),
    ({"mask": "lamp:1@5-11"}, InputError, "mask lamp:1@5-11: episode 1 has the rows 0 to 10"),
])  # fmt: skip
def test_wrong_numbers_and_names_fail_and_leave_nothing(
    tmp_path: Path, edits: Mapping[str, str], error: type[WorldlineError], message: str
) -> None:
    for keep_going in (False, True):
        with pytest.raises(error, match=message):
            imported(as_episodes(tmp_path), tmp_path / "store", LogEdits.parse(**edits), keep_going=keep_going)
        assert list(tmp_path.iterdir()) == []


def test_a_wrong_row_leaves_the_episodes_of_a_store(tmp_path: Path) -> None:
    edits = LogEdits.parse(split="1@4")
    before = imported(as_episodes(tmp_path)[:2], tmp_path / "store", edits).content_hash()
    with pytest.raises(InputError, match="episode 1 has 3 rows"):
        imported([episode(0), episode(5, 2)], tmp_path / "store", edits)
    assert open_store(tmp_path / "store").content_hash() == before


def test_episodes_that_cannot_be_used_can_be_left_out(tmp_path: Path) -> None:
    logs = as_npz(tmp_path)
    (logs / "1.npz").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"1\.npz"):
        imported(logs, tmp_path / "store", LogEdits.parse(split="1@3"))
    assert len(imported(logs, tmp_path / "other", LogEdits.parse(drop="1"))) == 2


def test_a_part_of_one_row_is_left_out_with_a_warning(tmp_path: Path) -> None:
    report = import_logs(as_episodes(tmp_path), tmp_path / "store", log_edits=LogEdits.parse(split="0@10,1@1,1@3"))
    assert open_store(tmp_path / "store").num_steps.tolist() == [9, 1, 7, 10]
    assert [one.episode for one in report.findings if "single observation" in one.problem] == [0, 1]


def test_rows_are_those_before_actions_are_moved(tmp_path: Path) -> None:
    edits = LogEdits.parse(split="0@4", mask="lamp:0@5-5")
    for lag, starts in ((2, [0, 4]), (-2, [2, 6])):
        store = imported(as_episodes(tmp_path)[:1], tmp_path / str(lag), edits, reading=ReadOptions(action_lag=lag))
        assert [rows[0] for rows in levels(store)] == starts
        for number in range(2):
            made = store.episode(number)
            rows = made.observations["level"][:-1, 0]
            np.testing.assert_allclose(10 * made.actions["heater"][:, 0], rows + lag), "of the same part"
    assert store.episode(1).observed == {}, "row 5 is lost"


def test_more_logs_are_read_with_the_same_edits(tmp_path: Path) -> None:
    logs = as_npz(tmp_path)
    store = imported(logs, tmp_path / "store", EDITS)
    np.savez(logs / "3.npz", **arrays(3))
    report = import_logs(logs, store.path, log_edits=EDITS)
    assert (report.num_episodes, sum(file.present for file in report.files)) == (1, 3)
    assert report.findings == ()
    assert len(levels(open_store(store.path))) == 4
    before = open_store(store.path).content_hash()
    for other in (None, LogEdits.parse(drop="1")):
        with pytest.raises(InputError, match=r"store was imported with the edits --drop 0 .* these logs with") as error:
            import_logs(logs, store.path, log_edits=other)
        assert f"worldline import NEW {store.path} --drop none" in str(error.value)
    with pytest.raises(InputError, match="with the edits none, and these logs with --drop 0"):
        imported(logs, imported(logs, tmp_path / "plain", None).path, LogEdits.parse(drop="0"))
    assert open_store(store.path).content_hash() == before
    report = import_logs([episode(7)], store.path, log_edits=LogEdits())
    assert report.num_episodes == 1, "other logs, without edits"


def test_edits_of_a_store_are_those_of_its_episodes(tmp_path: Path) -> None:
    first = imported(as_npz(tmp_path), tmp_path / "first", LogEdits.parse(drop="0", split="2@4"))
    edits = LogEdits.parse(drop="0", split="1@2", mask="level:2")
    second = imported(first.path, tmp_path / "second", edits)
    assert levels(second) == [[200.0, 201.0], [202.0, 203.0], 7 * [0.0]]
    assert [second.entry(number).source["piece"] for number in range(3)] == ["0.0", "0.1", 1]
    assert second.card.notes[LOG_EDITS] == "--drop 0 --split 2@4 then --drop 0 --split 1@2 --mask level:2"
    assert import_logs(first.path, second.path, log_edits=edits).num_episodes == 0, "it is resumed"
    assert import_logs(second.path, tmp_path / "copy").num_episodes == 3
    assert import_logs(second.path, tmp_path / "copy").num_episodes == 0


def test_parts_of_an_episode_stay_apart_and_together(tmp_path: Path) -> None:
    logs = [episode(number) for number in range(10)]
    edits = LogEdits(splits=tuple((number, row) for number in range(8) for row in (3, 6)))
    store = imported(logs, tmp_path / "store", edits)
    sources = [entry.source for entry in store.entries()]
    assert sources[3:6] == [{"episode": 1, "label": "episode 1", "piece": part} for part in range(3)]
    assert sources[-1] == {"episode": 9}
    assert import_logs(logs, store.path, log_edits=edits).num_episodes == 0
    split = split_store(store)
    for part in (split.train, split.validation, split.calibration, split.held_out):
        for number in part:
            same = {other for other, source in enumerate(sources) if source["episode"] == sources[number]["episode"]}
            assert same <= set(part)


def test_a_table_that_was_cut_keeps_its_pieces_together(tmp_path: Path) -> None:
    logs = as_csv(tmp_path)
    store = imported(logs, tmp_path / "store", LogEdits.parse(split="1@2"), reading=ReadOptions(max_steps=5))
    sources = [entry.source for entry in store.entries()][:4]
    assert [source["piece"] for source in sources] == [0, "1.0", "1.1", 0]
    assert len({source["label"] for source in sources[:3]}) == 1


def test_logs_that_are_open_take_no_edits(tmp_path: Path) -> None:
    logs = open_logs(as_episodes(tmp_path), log_edits=LogEdits.parse(drop="1", split="0@5"))
    assert len(logs) == len(list(logs.read())) == 3
    with pytest.raises(InputError, match="given for open logs"):
        import_logs(logs, tmp_path / "store", log_edits=LogEdits())
    import_logs(logs, tmp_path / "store")
    assert open_store(tmp_path / "store").card.notes[LOG_EDITS] == "--drop 1 --split 0@5"


def test_findings_suggest_edits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def finding(kind: FindingKind | None, *places: Place) -> Finding:
        return Finding(problem="odd", fix="Edit it.", signal="lamp", kind=kind, places=places)

    findings = [
        finding(FindingKind.STUCK, Place(episode=1, start=20, stop=50), Place(episode=6, start=0, stop=9)),
        finding(FindingKind.STUCK, Place(episode=3, start=4, stop=7)),
        finding(FindingKind.JOINED, Place(episode=2, start=31), Place(episode=8, start=9)),
        finding(FindingKind.SHIFTED, Place(episode=4, start=11)),
        finding(FindingKind.CHANGED, Place(episode=6)),
    ]
    options = ("--drop", "4,6-9", "--split", "2@31", "--mask", "lamp:1@20-49,lamp:3@4-6")
    command = edit_logs_command(Path("my store"), findings, 10)
    assert command == ("import", "my store", "my store-edited", *options)
    assert edit_logs_command(Path("store"), [finding(None)], 10) == ()
    monkeypatch.chdir(tmp_path)
    assert edit_logs_command(Path(), findings, 10)[:3] == ("import", ".", f"{tmp_path}-edited")
    assert realign_command(Path(), 1)[2] == f"{tmp_path}-aligned"


def test_an_irregular_episode_is_reported_as_without_edits(tmp_path: Path) -> None:
    wrong = replace(episode(1), actions={"heater": episode(1).actions["heater"][:4]})
    with pytest.raises(DataError, match="expected 10 rows, got 4"):
        imported([episode(0), wrong], tmp_path / "store", LogEdits.parse(split="1@5", mask="lamp:1@3-4"))
