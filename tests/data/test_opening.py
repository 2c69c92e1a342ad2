from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from worldline.data.checks import Severity
from worldline.data.opening import import_logs, open_logs
from worldline.data.store import Store, is_store, open_store
from worldline.errors import DataError, InputError


def save(path, num_steps=4, *, seed=0, **changes):
    draw = np.random.default_rng(seed)
    arrays = {
        "position": draw.normal(size=(num_steps + 1, 2)).astype(np.float32),
        "action": draw.normal(size=(num_steps, 1)).astype(np.float32),
    }
    np.savez(path, **{name: values for name, values in (arrays | changes).items() if values is not None})


@pytest.fixture
def mixed(tmp_path):
    """Five good episodes, and six with one fault each."""
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(5):
        save(logs / f"good{number}.npz", 4, seed=number)
    position = np.zeros((5, 2), np.float32)
    position[3, 1] = np.nan
    save(logs / "bad_action.npz", action=None)
    save(logs / "bad_dtype.npz", position=np.zeros((5, 2), np.complex64))
    save(logs / "bad_length.npz", action=np.zeros((5, 1), np.float32))
    save(logs / "bad_nan.npz", position=position)
    save(logs / "bad_shape.npz", position=np.zeros((5, 3), np.float32))
    (logs / "bad_zip.npz").write_bytes(b"PK\x03\x04 and then nothing")
    return logs


def test_all_that_is_good_is_kept_and_all_else_is_named(tmp_path, mixed):
    ticks = []
    report = import_logs(mixed, tmp_path / "store", progress=lambda done, total: ticks.append((done, total)))
    assert ticks == [(n, 11) for n in range(1, 12)]
    assert [file.file for file in report.files] == sorted(path.name for path in mixed.iterdir())
    assert {file.file for file in report.files if file.left_out} == {p.name for p in mixed.glob("bad*")}
    assert report.num_episodes == len(open_store(report.destination)) == 5
    found = {finding.file: finding for finding in report.findings if finding.severity is Severity.ERROR}
    assert found.keys() == {path.name for path in mixed.glob("bad*")}
    words = {
        "bad_action.npz": "missing",
        "bad_dtype.npz": "complex64",
        "bad_length.npz": "rows where",
        "bad_nan.npz": "nan",
        "bad_shape.npz": "shape (3,)",
        "bad_zip.npz": "cannot be read",
    }
    for file, word in words.items():
        assert word in found[file].problem
        assert found[file].fix
    assert (found["bad_nan.npz"].signal, found["bad_nan.npz"].step) == ("position", 3)
    assert found["bad_nan.npz"].episode == sorted(words).index("bad_nan.npz")
    assert "bad_nan.npz, episode 3, signal 'position', step 3: " in str(found["bad_nan.npz"])
    store = open_store(report.destination)
    assert store.schema == report.schema
    assert [entry.source["file"] for entry in store.entries] == [f"good{n}.npz" for n in range(5)]


def test_constant_actions_stop_the_import_and_leave_nothing(tmp_path):
    for number in range(2):
        save(tmp_path / f"{number}.npz", seed=number, action=np.ones((4, 1), np.float32))
    with pytest.raises(DataError, match="no action ever changes"):
        import_logs(tmp_path, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_one_constant_component_is_a_warning(tmp_path):
    draw = np.random.default_rng(0)
    save(tmp_path / "a.npz", action=np.stack([draw.normal(size=4), np.ones(4)], 1))
    report = import_logs(tmp_path, tmp_path / "store")
    (finding,) = report.findings
    assert finding.severity is Severity.WARNING
    assert "component 1" in finding.problem


def test_equal_lengths_are_no_guess(tmp_path):
    save(tmp_path / "a.npz", action=np.zeros((5, 1), np.float32))
    with pytest.raises(DataError, match=r"T\+1 observations.*drop the last action"):
        open_logs(tmp_path)


def test_where_nothing_can_be_used_the_first_reason_is_given(tmp_path):
    save(tmp_path / "a.npz", position=np.full((5, 2), np.inf, np.float32))
    with pytest.raises(DataError, match=r"none of the episodes can be used.*a\.npz.*position.*inf"):
        import_logs(tmp_path, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_store_is_a_log_and_a_corrected_schema_is_applied(tmp_path, schema, make_episode, assert_equal):
    store = Store.create(tmp_path / "one", schema)
    for number in range(3):
        store.append(make_episode(number, 4, ("gear",)), {"take": number})
    corrected = dataclasses.replace(schema, step_s=0.25)
    report = import_logs(store.path, tmp_path / "two", corrected)
    copy = open_store(report.destination)
    assert copy.schema == corrected
    assert (report.findings, report.unclear) == ((), ())
    for number in range(3):
        assert_equal(copy.episode(number), store.episode(number))
        assert copy.entries[number].source == {"take": number}
    assert open_logs(store.path).schema == schema


def test_what_no_importer_knows_is_refused_with_a_hint(tmp_path):
    with pytest.raises(DataError, match="nothing here"):
        open_logs(tmp_path / "none")
    (tmp_path / "log.csv").write_text("a,b")
    for path in (tmp_path, tmp_path / "log.csv"):
        with pytest.raises(DataError, match=r"no importer knows.*npz, store"):
            open_logs(path)


def test_an_existing_destination_is_left_alone(tmp_path, mixed):
    import_logs(mixed, tmp_path / "store")
    with pytest.raises(InputError, match="not empty"):
        import_logs(mixed, tmp_path / "store")
    assert is_store(tmp_path / "store")
