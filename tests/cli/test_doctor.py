from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tests.cli.running import failed, run

from worldline.workflows import doctor


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements are repeated once."""
    monkeypatch.setattr(doctor, "REPEATS", 1)


def test_the_report_has_measured_rates_and_leaves_nothing(tmp_path: Path) -> None:
    folder, threads = tmp_path / "disk", torch.get_num_threads()
    folder.mkdir()
    shown = run("doctor", folder, "--json", tmp_path / "doctor.json").output
    for title in ("Machine", "Extras", "Rates", "What the rates mean", "Next:   worldline demo"):
        assert title in shown
    assert list(folder.iterdir()) == []
    assert torch.get_num_threads() == threads
    report = json.loads((tmp_path / "doctor.json").read_text())
    assert report["broken"] == []
    assert report["extras"].keys() == doctor.PURPOSES.keys()
    rates = report["rates"]
    assert {name for name, row in rates.items() if "disk" in row} == {"write, MB/s", "read, MB/s", "4 KiB reads/s"}
    assert {name for name, row in rates.items() if "1 thread" in row} == {
        "float32 products, GFLOP/s", "bfloat16 products, GFLOP/s", "updates/s", "plans/s",
    }  # fmt: skip
    assert all(0 < value < math.inf for row in rates.values() for value in row.values())
    assert report["facts"]["cores"] < 2 or all("1 thread" not in row or len(row) > 1 for row in rates.values())


def test_a_broken_core_ends_with_an_error_and_a_missing_extra_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks = {"serve": ("fastapi>=9 (not installed)",)}
    monkeypatch.setattr(doctor, "unmet", lambda distribution, extra="": lacks.get(extra, ()))
    shown = run("doctor", tmp_path, env={"COLUMNS": "200"}).output
    assert "fastapi>=9 (not installed)" in shown
    assert "To install serve: pip install" in shown
    lacks[""] = ("torch>=99 (2.10 installed)",)
    shown = run("doctor", tmp_path, code=1, env={"COLUMNS": "200"}).output
    assert "The core needs torch>=99 (2.10 installed). Install that version." in shown


def test_a_folder_without_write_access_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "new"))

    monkeypatch.setattr(doctor.tempfile, "TemporaryDirectory", refuse)
    assert failed("doctor", tmp_path).endswith("new: Permission denied. Get write access, or choose another path.")
    assert "is not a folder" in failed("doctor", tmp_path / "missing")
