from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from worldline.config import to_json
from worldline.data.base import ReadOptions
from worldline.data.checks import Severity, check_episode
from worldline.data.formats.npz import read_npz
from worldline.errors import ConfigError, DataError
from worldline.schema import Kind, Role, Schema, Signal


def save(path: Path, num_steps: int = 4, **arrays: object) -> None:
    draw = np.random.default_rng(num_steps)
    defaults = {
        "camera": draw.integers(0, 256, (num_steps + 1, 6, 6, 3)).astype(np.uint8),
        "position": draw.normal(size=(num_steps + 1, 2)),
        "action": draw.normal(size=(num_steps, 1)).astype(np.float32),
    }
    np.savez_compressed(path, **{name: values for name, values in (defaults | arrays).items() if values is not None})


def test_episodes_come_in_the_order_of_their_names_with_all_they_hold(tmp_path):
    mask = np.array([True, False, True, True, True])
    save(tmp_path / "b.npz", 3, truncated=np.array([0, 0, 1]), seed=7)
    save(tmp_path / "a.npz", 4, terminated=True, **{"observed.position": mask})
    logs = read_npz.open(tmp_path, None, ReadOptions())
    first, second = logs.read()
    assert ((first.file, second.file), len(logs)) == (("a.npz", "b.npz"), 2)
    assert first.source == {"file": "a.npz"}
    assert (first.episode.terminated, first.episode.truncated, first.episode.seed) == (True, False, None)
    assert (second.episode.terminated, second.episode.truncated, second.episode.seed) == (False, True, 7)
    np.testing.assert_array_equal(first.episode.observed["position"], mask)
    with np.load(tmp_path / "a.npz") as archive:
        np.testing.assert_array_equal(first.episode.observations["camera"], archive["camera"])
        np.testing.assert_array_equal(first.episode.observations["position"], archive["position"], strict=True)
    assert check_episode(first.episode, logs.schema) == ()


def test_one_file_is_a_log_too(tmp_path):
    save(tmp_path / "a.npz")
    save(tmp_path / "b.npz")
    assert len(read_npz.open(tmp_path / "b.npz", None, ReadOptions())) == 1
    assert read_npz.recognises(tmp_path)
    assert read_npz.recognises(tmp_path / "a.npz")
    (tmp_path / "empty").mkdir()
    assert not read_npz.recognises(tmp_path / "empty")


def test_a_schema_beside_the_files_is_used(tmp_path):
    save(tmp_path / "a.npz", extra=np.zeros(9))
    signals = (
        Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m"),
        Signal(name="action", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="l/min"),
    )
    (tmp_path / "schema.json").write_text(to_json(Schema(signals=signals, step_s=0.1)))
    logs = read_npz.open(tmp_path, None, ReadOptions())
    assert (logs.schema.signals, logs.unclear) == (signals, ())
    (logged,) = logs.read()
    assert {finding.signal for finding in logged.findings} == {"camera", "extra"}
    assert {finding.severity for finding in logged.findings} == {Severity.WARNING}
    (tmp_path / "schema.json").write_text('{"signals": 3}')
    with pytest.raises(ConfigError, match=r"schema\.json"):
        read_npz.open(tmp_path, None, ReadOptions())


def test_the_rate_comes_from_times(tmp_path):
    save(tmp_path / "a.npz", time=np.arange(5) * 0.2)
    save(tmp_path / "b.npz", time=np.array([0, 0.2, 0.4, 0.6, 1.4]))
    logs = read_npz.open(tmp_path, None, ReadOptions())
    assert logs.schema.step_s == pytest.approx(0.2)
    said = "\n".join(logs.unclear)
    assert "time: read as seconds" in said
    assert "vary by more than 1 %" in said
    assert all(not logged.findings for logged in logs.read())


def test_what_is_no_signal_is_left_out_and_said_to_be(tmp_path):
    save(tmp_path / "a.npz", done=np.zeros(4, bool), label=np.array("calm"), **{"inner/speed": np.zeros((5, 1))})
    (tmp_path / "notes.txt").write_text("x")
    logs = read_npz.open(tmp_path, None, ReadOptions())
    assert [signal.name for signal in logs.schema.signals] == ["camera", "position", "inner.speed", "action"]
    said = "\n".join(logs.unclear)
    assert "done: looks like an end flag" in said
    assert "notes.txt" in said
    (logged,) = logs.read()
    assert {finding.signal for finding in logged.findings} == {"done"}
    assert logged.source == {"file": "a.npz", "label": "calm"}


@pytest.mark.parametrize("names", [("arm/x", "arm.x"), ("place", "place")])
def test_a_signal_that_is_named_twice_is_an_error(tmp_path, names):
    save(tmp_path / "a.npz")
    save(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a name is there twice is the point
        for name in names:
            with archive.open(f"{name}.npy", "w") as stream:
                np.save(stream, np.zeros((5, 1)))
    good, bad = read_npz.open(tmp_path, None, ReadOptions()).read()
    assert good.episode is not None
    assert bad.episode is None
    (finding,) = bad.findings
    assert f"two arrays named {names[1]}" in finding.problem


@example(cut=0.0, where=0.8546426351091011, bit=0, flip=True)  # says that a part is encrypted
@given(cut=st.floats(0, 1), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), flip=st.booleans())
@settings(max_examples=24, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_an_error_or_changes_nothing(tmp_path_factory, cut, where, bit, flip):
    folder = tmp_path_factory.mktemp("npz")
    save(folder / "a.npz")
    (whole,) = read_npz.open(folder, None, ReadOptions()).read()
    content = bytearray((folder / "a.npz").read_bytes())
    if flip:
        content[int(where * len(content))] ^= 1 << bit
    else:
        del content[int(cut * len(content)) :]
    (folder / "a.npz").write_bytes(content)
    try:
        (logged,) = read_npz.open(folder, None, ReadOptions()).read()
    except DataError:
        return
    if logged.episode is None:
        assert logged.findings
        return
    for name, values in logged.episode.observations.items():  # a flipped name is another signal; values have checksums
        if name in whole.episode.observations:
            np.testing.assert_array_equal(values, whole.episode.observations[name], strict=True)


def test_an_unreadable_file_among_good_ones_is_a_finding(tmp_path):
    for name in "abc":
        save(tmp_path / f"{name}.npz")
    whole = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(whole[: len(whole) // 2])
    broken = bytearray((tmp_path / "c.npz").read_bytes())
    broken[200:260] = bytes(60)  # the headers are fine, the picture is not
    (tmp_path / "c.npz").write_bytes(broken)
    (tmp_path / "d.npz").write_bytes(b"")
    np.savez(tmp_path / "e.npz", position=np.array([{}], object), action=np.zeros(1))
    logs = read_npz.open(tmp_path, None, ReadOptions())
    results = list(logs.read())
    assert [logged.episode is not None for logged in results] == [True, False, False, False, False]
    for logged in results[1:]:
        assert logged.findings[-1].file == logged.file
        assert "cannot be read" in logged.findings[-1].problem


def test_several_episodes_in_one_file_are_found(tmp_path):
    save(tmp_path / "a.npz", terminated=np.array([0, 1, 0, 1]))
    with pytest.raises(DataError, match=r"a\.npz, step 1: .*terminated is set before the end.*Save each"):
        read_npz.open(tmp_path, None, ReadOptions())


def test_nan_is_a_missing_observation(tmp_path):
    position = np.zeros((5, 2))
    position[2, 1] = np.nan
    save(tmp_path / "a.npz", position=position)
    (logged,) = read_npz.open(tmp_path, None, ReadOptions()).read()
    assert logged.episode.observed["position"].tolist() == [True, True, False, True, True]
