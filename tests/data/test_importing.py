from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from tests.data.stores import stored

from worldline.data import importing
from worldline.data.checks import Severity
from worldline.data.importing import import_logs
from worldline.data.open_logs import open_logs
from worldline.data.store import open_store
from worldline.data.store_notes import correct_schema
from worldline.errors import DataError, InputError
from worldline.progress import Progress


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
    save(logs / "bad_action.npz", action=None)
    save(logs / "bad_dtype.npz", position=np.zeros((5, 2), np.complex64))
    save(logs / "bad_length.npz", action=np.zeros((5, 1), np.float32))
    save(logs / "bad_nan.npz", action=np.array([[0], [1], [0], [np.nan]], np.float32))
    save(logs / "bad_shape.npz", position=np.zeros((5, 3), np.float32))
    (logs / "bad_zip.npz").write_bytes(b"PK\x03\x04 and then nothing")
    return logs


def test_all_that_is_good_is_kept_and_all_else_is_named(tmp_path, mixed):
    ticks = []
    report = import_logs(mixed, tmp_path / "store", keep_going=True, progress=lambda p: ticks.append((p.step, p.total)))
    assert ticks == [(n, 11) for n in range(1, 12)]
    assert [file.file for file in report.files] == sorted(path.name for path in mixed.iterdir())
    assert {file.file for file in report.files if file.left_out} == {p.name for p in mixed.glob("bad*")}
    assert report.num_episodes == len(open_store(report.destination)) == 5
    found = {finding.file: finding for finding in report.findings if finding.severity is Severity.ERROR}
    assert found.keys() == {path.name for path in mixed.glob("bad*")}
    words = {
        "bad_action.npz": "missing", "bad_dtype.npz": "complex64", "bad_length.npz": "expected 6 rows, got 5",
        "bad_nan.npz": "the value is missing", "bad_shape.npz": "got (3,)", "bad_zip.npz": "cannot be read",
    }  # fmt: skip
    for file, word in words.items():
        assert word in found[file].problem
        assert found[file].fix
    assert (found["bad_nan.npz"].signal, found["bad_nan.npz"].step) == ("action", 3)
    assert found["bad_nan.npz"].episode == sorted(words).index("bad_nan.npz")
    assert "bad_nan.npz, episode 3, signal 'action', step 3: " in str(found["bad_nan.npz"])
    store = open_store(report.destination)
    assert store.schema == report.schema
    assert [entry.source["file"] for entry in store.entries()] == [f"good{n}.npz" for n in range(5)]


def test_an_error_in_the_first_episode_leaves_nothing(tmp_path, mixed):
    with pytest.raises(DataError, match=r"bad_action\.npz"):
        import_logs(mixed, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_importing_again_adds_what_is_new_and_doubles_nothing(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(3):
        save(logs / f"{number}.npz", seed=number)
    import_logs(logs, tmp_path / "store")
    save(logs / "3.npz", 6, seed=3)
    schema = open_store(tmp_path / "store").schema
    wide = dataclasses.replace(schema["action"], low=(-9.0,), high=(9.0,))
    report = import_logs(logs, tmp_path / "other", dataclasses.replace(schema, signals=(schema["position"], wide)))
    report = import_logs(logs, tmp_path / "other")  # with the schema of the store
    assert (report.num_episodes, sum(file.present for file in report.files)) == (0, 4)
    save(logs / "2.npz", 4, seed=10)
    report = import_logs(logs, tmp_path / "other")
    assert {file.file: (file.kept, file.present) for file in report.files if file.kept} == {"2.npz": (1, 0)}
    (finding,) = report.findings
    assert (finding.severity, finding.file) == (Severity.WARNING, "2.npz")
    assert "same origin" in finding.problem
    assert len(open_store(tmp_path / "other")) == 5


def test_a_store_of_other_signals_is_not_added_to(tmp_path, schema, make_episode):
    save(tmp_path / "a.npz")
    store = stored(tmp_path / "store", schema, [make_episode(0, 4)])
    with pytest.raises(InputError, match="another schema"):
        import_logs(tmp_path / "a.npz", store.path, open_logs(tmp_path / "a.npz").schema)
    assert len(open_store(store.path)) == 1


def test_two_imports_into_one_store_are_refused(tmp_path, mixed):
    import_logs(mixed, tmp_path / "store", keep_going=True)
    save(mixed / "new.npz", seed=20)
    refused = []

    def again(now: Progress) -> None:
        with pytest.raises(InputError, match="is running"):
            import_logs(mixed, tmp_path / "store", keep_going=True)
        refused.append(now.step)

    assert import_logs(mixed, tmp_path / "store", keep_going=True, progress=again).num_episodes == 1
    assert len(refused) == 12
    assert len(open_store(tmp_path / "store")) == 6


IMPORTER = """
    import sys
    from worldline.data.importing import import_logs
    import_logs(sys.argv[1], sys.argv[2], progress=lambda now: print(now.step, flush=True))
"""


def test_episodes_that_are_equal_are_as_many_as_they_were(tmp_path, schema, make_episode):
    """A store without sources, with one episode twice."""
    store = stored(tmp_path / "one", schema, (make_episode(number, 4) for number in (0, 1, 1)))
    assert import_logs(store.path, tmp_path / "two").num_episodes == 3
    assert import_logs(store.path, tmp_path / "two").num_episodes == 0


def test_what_another_import_added_meanwhile_is_not_added_again(tmp_path, monkeypatch):
    for number in range(3):
        save(tmp_path / f"{number}.npz", seed=number)
    save(tmp_path / "store.npz", seed=9)
    import_logs(tmp_path / "store.npz", tmp_path / "store", open_logs(tmp_path).schema)
    opened = importing.open_logs

    def late(*arguments, **settings):
        logs = opened(*arguments, **settings)
        with monkeypatch.context() as patch:
            patch.setattr(importing, "open_logs", opened)
            import_logs(tmp_path, tmp_path / "store")
        return logs

    monkeypatch.setattr(importing, "open_logs", late)
    assert import_logs(tmp_path, tmp_path / "store").num_episodes == 0
    assert len(open_store(tmp_path / "store")) == 4


def test_a_file_that_cannot_be_used_never_stops_the_others(tmp_path):
    save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        arrays = dict(archive)
    np.savez(tmp_path / "big.npz", **arrays, seed=np.uint64(2**63 + 1))
    np.savez(tmp_path / "nan.npz", **arrays, seed=np.float64("nan"))
    np.savez(tmp_path / "text.npz", **arrays, time=np.array(list("abcde")))
    report = import_logs(tmp_path, tmp_path / "store", keep_going=True)
    errors = {finding.file for finding in report.findings if finding.severity is Severity.ERROR}
    assert errors == {"big.npz", "nan.npz"}
    assert any(finding.signal == "time" and finding.file == "text.npz" for finding in report.findings)


def test_numbers_that_would_be_rounded_are_named(tmp_path):
    save(tmp_path / "a.npz", stamp=2**53 + 1 + np.arange(5))
    save(tmp_path / "b.npz", seed=1, stamp=2**53 + 2 * np.arange(5))
    report = import_logs(tmp_path, tmp_path / "store", keep_going=True)
    (finding,) = [f for f in report.findings if f.severity is Severity.ERROR]
    assert (finding.file, finding.signal) == ("a.npz", "stamp")


@pytest.mark.parametrize("after", [3, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 9))])
def test_an_import_that_is_killed_goes_on_to_the_same_store(tmp_path, after):
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(12):
        save(logs / f"{number:02}.npz", 4 + number % 3, seed=number)
    command = [sys.executable, "-c", textwrap.dedent(IMPORTER), str(logs), str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == after:
                break
        process.send_signal(signal.SIGKILL)
    whole = open_store(tmp_path / "store")
    assert after <= len(whole) < 12
    for number in range(len(whole)):
        whole.verify(number)
    report = import_logs(logs, tmp_path / "store")
    assert report.num_episodes == 12 - len(whole)
    import_logs(logs, tmp_path / "fresh")
    assert open_store(tmp_path / "store").content_hash() == open_store(tmp_path / "fresh").content_hash()


def test_pictures_may_lose_what_was_allowed(tmp_path):
    camera = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    save(tmp_path / "a.npz", camera=camera)
    import_logs(tmp_path / "a.npz", tmp_path / "store", max_error=3)
    store = open_store(tmp_path / "store")
    assert (store.card.max_error, store.card.notes["importer"]) == ({"camera": 3}, "npz")
    assert store.card.notes["source"] == "a.npz"
    assert 0 < np.abs(store.read("camera", 0, 0, 5).astype(int) - camera).max() <= 3
    assert import_logs(tmp_path / "a.npz", tmp_path / "store").num_episodes == 0  # it is known again
    with pytest.raises(InputError, match="another schema or max_error"):
        import_logs(tmp_path / "a.npz", tmp_path / "store", max_error=4)
    save(tmp_path / "b.npz")
    with pytest.raises(InputError, match="apply to images"):
        import_logs(tmp_path / "b.npz", tmp_path / "other", max_error=3)


def test_where_nothing_can_be_used_the_first_reason_is_given(tmp_path):
    save(tmp_path / "a.npz", position=np.full((5, 2), np.inf, np.float32))
    with pytest.raises(DataError, match=r"none of the episodes can be used.*a\.npz.*position.*inf"):
        import_logs(tmp_path, tmp_path / "store", keep_going=True)
    assert not (tmp_path / "store").exists()


def test_a_store_is_a_log_and_a_corrected_schema_is_applied(tmp_path, schema, make_episode, assert_equal):
    takes = [{"take": number} for number in range(3)]
    store = stored(tmp_path / "one", schema, (make_episode(number, 4, ("gear",)) for number in range(3)), takes)
    corrected = dataclasses.replace(schema, step_s=0.25)
    report = import_logs(store.path, tmp_path / "two", corrected)
    copy = open_store(report.destination)
    assert copy.schema == corrected
    assert (report.findings, report.unclear) == ((), ())
    for number in range(3):
        assert_equal(copy.episode(number), store.episode(number))
        assert copy.entry(number).source == {"take": number}
    assert open_logs(store.path).schema == schema


def test_a_damaged_episode_of_a_store_is_named_and_the_others_are_kept(tmp_path, schema, make_episode):
    store = stored(tmp_path / "one", schema, (make_episode(number, 4) for number in range(3)))
    block = store.path / "blocks" / "camera.lz4"
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 255
    block.write_bytes(content)
    report = import_logs(store.path, tmp_path / "two", keep_going=True)
    (finding,) = report.findings
    assert (finding.severity, finding.episode, report.num_episodes) == (Severity.ERROR, 1, 2)


def test_actions_beyond_inferred_bounds_are_a_finding_with_a_command(tmp_path):
    def write(name: str, top: float) -> Path:
        rows = [f"{k},{k * 0.5},{top * (k % 7) / 6:.1f}" for k in range(40)]
        (tmp_path / name).write_text("\n".join(["time,level,heater", *rows]) + "\n")
        return tmp_path / name

    store = tmp_path / "store"
    import_logs(write("a.csv", 60.0), store)
    report = import_logs(write("b.csv", 90.0), store)
    assert report.num_episodes == 1
    (finding,) = report.findings
    assert (finding.signal, finding.severity) == ("heater", Severity.WARNING)
    assert f"worldline schema {store} heater.high=90" in finding.fix
    correct_schema(store, {"heater": {"high": 90}})
    assert not import_logs(write("c.csv", 80.0), store).findings
    with pytest.raises(DataError, match="outside"):  # the bounds were set by the user
        import_logs(write("d.csv", 95.0), store)


def test_a_column_that_one_file_has_is_left_out_with_a_line(tmp_path):
    (tmp_path / "logs").mkdir()
    for name, more in (("a", ""), ("b", ",extra")):
        rows = [f"{k},{k * 0.5},{k % 7}.5" + (f",{k % 3}.5" if more else "") for k in range(40)]
        (tmp_path / "logs" / f"{name}.csv").write_text("\n".join([f"time,level,heater{more}", *rows]) + "\n")
    report = import_logs(tmp_path / "logs", tmp_path / "store")
    assert (report.num_episodes, report.findings) == (2, ())
    assert "extra: left out, because only 1 of 2 files have it." in report.unclear


def test_grey_pictures_are_scaled_again(tmp_path):
    camera = np.random.default_rng(0).integers(0, 256, (5, 16, 16)).astype(np.uint8)
    save(tmp_path / "a.npz", camera=camera)
    assert import_logs(tmp_path / "a.npz", tmp_path / "store", size=(8, 8)).num_episodes == 1
    assert import_logs(tmp_path / "a.npz", tmp_path / "store").num_episodes == 0
    save(tmp_path / "b.npz", camera=camera[:, ::2, ::2].copy())
    wide = open_store(tmp_path / "store").schema
    import_logs(tmp_path / "b.npz", tmp_path / "small", wide)
    assert import_logs(tmp_path / "a.npz", tmp_path / "small", size=(8, 8)).num_episodes == 1
