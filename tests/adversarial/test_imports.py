"""Imports of logs that are small on disk and huge in memory."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.adversarial.hostile_logs import ATTACKS, SUMS, long_texts, many_choices, short_episodes

from worldline.data import array_size, limited_process
from worldline.data.base import ReadOptions
from worldline.data.formats.tables.layout import MANY_EPISODES
from worldline.data.importing import import_logs
from worldline.data.limited_process import import_untrusted
from worldline.data.open_logs import open_logs
from worldline.data.store import open_store
from worldline.data.store_notes import correct_schema
from worldline.errors import ConfigError, DataError, InputError
from worldline.workflows.check import check

LIMIT = 10**8
MAX_PEAK_KB, MAX_S, MAX_CPU_S = 500_000, 60.0, 30.0
SMALL_PROCESS = 600_000_000
"""A limit of memory with which libraries load, but not much more."""


@pytest.mark.parametrize("name", ATTACKS)
def test_logs_that_would_take_too_much_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(array_size, "memory_bytes", lambda: array_size.SHARE * LIMIT)
    attack, scale, message = ATTACKS[name]
    logs = attack(tmp_path, scale)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises((DataError, ConfigError), match=message):
        import_logs(logs, tmp_path / "store")
    assert time.process_time() < started + MAX_CPU_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + MAX_PEAK_KB
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "many columns")) for name in SUMS]
)
def test_logs_that_are_too_large_together_fill_only_their_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(limited_process, "memory_bytes", lambda: limited_process.MEMORY_SHARE * SMALL_PROCESS)
    attack, scale = SUMS[name]
    with pytest.raises(DataError):
        import_untrusted(attack(tmp_path, scale), tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_the_command_refuses_them_at_full_size(tmp_path: Path, name: str) -> None:
    attack = ATTACKS[name][0]
    logs, started = attack(tmp_path, 1.0), time.monotonic()
    code = (
        "import sys\nfrom worldline.cli.main import app\nfrom worldline.data import limited_process\n"
        f"limited_process.memory_bytes = lambda: {2 * SMALL_PROCESS}\n"
        f"sys.argv = ['worldline', 'import', {str(logs)!r}, {str(tmp_path / 'store')!r}, '--untrusted']\n"
        "try:\n    app()\nexcept SystemExit as end:\n    print(end.code)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # ru_maxrss counts the parent, too
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert time.monotonic() - started < 2 * MAX_S
    status, peak = done.stdout.split()[-2:]
    assert status == "1", done.stdout + done.stderr
    assert int(peak) < MAX_PEAK_KB


def test_a_text_that_is_repeated_takes_the_memory_of_one(tmp_path: Path) -> None:
    logs = long_texts(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = import_logs(logs, tmp_path / "store")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + MAX_PEAK_KB
    (finding,) = report.findings
    assert finding.signal == "note"
    assert "text of more than 10000 bytes and is left out" in finding.problem


def test_thousands_of_short_episodes_need_a_name(tmp_path: Path) -> None:
    logs = short_episodes(tmp_path, 0.03)
    with pytest.raises(DataError, match=r"6000 episodes of 3 rows on average.*column 'episode'"):
        open_logs(logs)
    assert len(open_logs(logs, reading=ReadOptions(episode="episode"))) == 6000


@pytest.mark.parametrize(("header", "gap_s"), [("episode,other", None), ("number,time", 0.5)])
def test_episodes_of_a_single_row_are_counted_before_reading(tmp_path: Path, header: str, gap_s: float | None) -> None:
    rows = "".join(f"{row},{row},{row % 3},{row % 2}\n" for row in range(20 * MANY_EPISODES))
    (tmp_path / "log.csv").write_text(f"{header},temperature,valve_command\n{rows}")
    started = time.process_time()
    with pytest.raises(DataError, match=r"20000 of the 20000 episodes have a single row.*--episode.*--gap-s"):
        open_logs(tmp_path / "log.csv", reading=ReadOptions(gap_s=gap_s))
    assert time.process_time() - started < MAX_CPU_S


def write_log(path: Path, texts: list[str]) -> None:
    """An HDF5 file of two episodes, with a text for each row."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["observation"], file["action"] = rng.normal(size=(60, 2)), rng.normal(size=(60, 1))
        file["ep_len"], file["task"] = np.array([30, 30]), texts


def test_a_library_that_hangs_is_stopped_and_the_store_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path / "good.h5", ["push"] * 60)
    report = import_untrusted(tmp_path / "good.h5", tmp_path / "store")
    assert (report.num_episodes, report.columns[0].name) == (2, "action")
    write_log(tmp_path / "bad.h5", ["lift"] * 60)
    content = bytearray((tmp_path / "bad.h5").read_bytes())
    heap = content.find(b"GCOL")
    content[heap + 24 : heap + 32] = struct.pack("<Q", 2**64 - 16)  # the length of a text, on which libhdf5 hangs
    (tmp_path / "bad.h5").write_bytes(content)
    monkeypatch.setattr(limited_process, "TIME_S", 3)
    for name in ("store", "new"):
        with pytest.raises(DataError, match=r"bad\.h5: reading took more than 3 s and was stopped"):
            import_untrusted(tmp_path / "bad.h5", tmp_path / name, keep_going=True)
    assert len(open_store(tmp_path / "store")) == 2
    assert not (tmp_path / "new").exists()


def test_errors_of_the_process_are_those_of_an_import(tmp_path: Path) -> None:
    write_log(tmp_path / "log.h5", ["push"] * 60)
    with pytest.raises(InputError, match="no importer is called 'hdf'"):
        import_untrusted(tmp_path / "log.h5", tmp_path / "store", importer="hdf")


def test_links_to_other_files_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["password"] = rng.normal(size=(60, 1))
    with h5py.File(tmp_path / "log.h5", "w") as file:
        file["observation"], file["action"] = rng.normal(size=(60, 2)), rng.normal(size=(60, 1))
        file["ep_len"], file["ep_offset"] = np.array([30, 30]), np.array([0, 30])
        file["pressure"] = h5py.ExternalLink("secret.h5", "/password")
    logs = open_logs(tmp_path / "log.h5")
    assert "pressure" not in {signal.name for signal in logs.schema.signals}
    assert "Not read, because they are links to other files: pressure." in logs.unclear


def test_a_store_whose_schema_declares_too_many_values(tmp_path: Path) -> None:
    logs, store = many_choices(tmp_path, 1e-8), tmp_path / "store"
    import_logs(logs, store)
    text = (store / "schema.json").read_text()
    (store / "schema.json").write_text(text.replace('"num_values": 10', f'"num_values": {10**9}'))
    with pytest.raises(DataError, match=r"valve_command.*1000000000 values \(num_values\) would take"):
        check(store)
    changed = correct_schema(store, {"valve_command": {"role": "exogenous"}})
    assert changed.schema["valve_command"].num_values == 10**9


def test_many_short_episodes_are_no_attack(tmp_path: Path) -> None:
    count, rng = 20_000, np.random.default_rng(0)
    with h5py.File(tmp_path / "short.h5", "w") as file:
        file.create_dataset("observation", data=rng.integers(0, 2, (2 * count, 1)) / 10, compression="gzip")
        file.create_dataset("action", data=rng.integers(0, 2, (2 * count, 1)) / 10, compression="gzip")
        file.create_dataset("ep_len", data=np.full(count, 2), compression="gzip")
    assert len(open_logs(tmp_path / "short.h5")) == count
