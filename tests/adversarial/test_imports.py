"""Imports of logs that are small on disk and huge in memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.adversarial.hostile_logs import ATTACKS, SUMS

from worldline.data.base import ReadOptions
from worldline.data.importing import import_logs
from worldline.data.open_logs import open_logs
from worldline.errors import ConfigError, DataError, InputError

LIMIT = 10**8
MAX_PEAK_KB, MAX_S = 500_000, 60.0


def assert_refused(folder: Path, logs: Path, message: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((DataError, ConfigError), match=message):
        import_logs(logs, folder / "store", reading=ReadOptions(max_bytes=LIMIT))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + MAX_PEAK_KB
    assert not (folder / "store").exists()


@pytest.mark.parametrize("name", ATTACKS)
def test_logs_that_would_take_too_much_memory_are_refused(tmp_path: Path, name: str) -> None:
    attack, message = ATTACKS[name]
    scale = {"zip bomb": 0.02, "long video": 0.005, "many pictures": 0.002, "huge chunks": 0.17}.get(name, 0.1)
    assert_refused(tmp_path, attack(tmp_path, scale), message)


@pytest.mark.parametrize("name", SUMS)
def test_logs_that_are_too_large_together_are_refused(tmp_path: Path, name: str) -> None:
    attack, scale, message = SUMS[name]
    assert_refused(tmp_path, attack(tmp_path, scale), message)


def test_many_files_that_are_stored_one_by_one_are_no_sum(tmp_path: Path) -> None:
    rng, shape = np.random.default_rng(0), (21, 20)
    for number in range(40):
        temperature, valve = rng.normal(size=shape), rng.normal(size=(20, 1))
        np.savez(tmp_path / f"{number}.npz", temperature=temperature, valve_action=valve)
    # 40 files of 7 kB with their conversion, and summaries of 2.3 kB each
    report = import_logs(tmp_path, tmp_path / "store", reading=ReadOptions(max_bytes=120_000))
    assert report.num_episodes == 40


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ATTACKS, *SUMS])
def test_the_command_refuses_them_at_full_size(tmp_path: Path, name: str) -> None:
    attack = SUMS[name][0] if name in SUMS else ATTACKS[name][0]
    more = ["--max-bytes", str(LIMIT)] if name in SUMS else []
    logs, started = attack(tmp_path, 1.0), time.monotonic()
    code = (
        "import sys\nfrom worldline.cli.main import app\n"
        f"sys.argv = ['worldline', 'import', {str(logs)!r}, {str(tmp_path / 'store')!r}, *{more!r}]\n"
        "try:\n    app()\nexcept SystemExit as end:\n    print(end.code)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # ru_maxrss counts the parent, too
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert time.monotonic() - started < MAX_S
    status, peak = done.stdout.split()[-2:]
    assert status == "1", done.stdout + done.stderr
    assert int(peak) < MAX_PEAK_KB


def test_the_limit_can_be_raised(tmp_path: Path) -> None:
    rows = 2000
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", temperature=rng.normal(size=(rows + 1, 3)), valve_action=rng.normal(size=(rows, 1)))
    with pytest.raises(DataError, match=r"would take .* kB of memory, and the limit is 50 kB.*--max-bytes"):
        import_logs(tmp_path / "a.npz", tmp_path / "store", reading=ReadOptions(max_bytes=50_000))
    report = import_logs(tmp_path / "a.npz", tmp_path / "store", reading=ReadOptions(max_bytes=500_000))
    assert report.num_episodes == 1
    with pytest.raises(InputError, match="max_bytes is 0"):
        ReadOptions(max_bytes=0)


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
