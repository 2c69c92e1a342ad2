from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from worldline.cli.main import app
from worldline.data.store import open_store
from worldline.schema import Role

RUN = CliRunner()


def run(*arguments: object, code: int = 0) -> str:
    shown = RUN.invoke(app, ["import", *map(str, arguments)])
    assert shown.exit_code == code, shown.output
    return shown.output


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Three good episodes, and one that is cut short."""
    folder = tmp_path / "logs"
    folder.mkdir()
    for number in range(4):
        draw = np.random.default_rng(number)
        camera = draw.integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
        np.savez(folder / f"{number}.npz", camera=camera, x=draw.random((6, 2)), action=draw.random((5, 1)))
    whole = (folder / "2.npz").read_bytes()
    (folder / "2.npz").write_bytes(whole[: len(whole) // 2])
    return folder


def test_it_stops_at_what_cannot_be_used_and_goes_on_when_told(tmp_path: Path, logs: Path) -> None:
    said = run(logs, tmp_path / "store", code=1)
    assert "worldline: 2.npz" in said
    assert "holds 2 episodes; --keep-going" in said
    said = run(logs, tmp_path / "store", "--keep-going", "--json", tmp_path / "figures.json")
    assert "error: 2.npz, episode 2" in said
    assert "Read as npz: 1 episodes added, 2 already present, 1 left out." in said
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["added"], figures["present"], figures["left_out"]) == (1, 2, 1)
    assert figures["files"]["2.npz"] == {"added": 0, "present": 0, "left_out": 1}
    assert len(open_store(tmp_path / "store")) == 3


def test_pictures_are_scaled_and_rounded(tmp_path: Path, logs: Path) -> None:
    run(logs / "0.npz", tmp_path / "store", "--size", "8x4", "--max-error", 2)
    store = open_store(tmp_path / "store")
    assert store.schema["camera"].shape == (8, 4, 3)
    assert store.card.max_error == {"camera": 2}
    for size in ("8x4x2", "x", "-3", "wide"):
        assert "--size" in run(logs / "0.npz", tmp_path / "other", "--size", size, code=1)


def test_a_schema_can_be_given(tmp_path: Path, logs: Path) -> None:
    run(logs / "0.npz", tmp_path / "store")
    written = json.loads((tmp_path / "store" / "schema.json").read_text())
    written["step_s"] = 0.1
    (tmp_path / "mine.json").write_text(json.dumps(written))
    run(logs / "0.npz", tmp_path / "other", "--schema", tmp_path / "mine.json")
    assert open_store(tmp_path / "other").schema.step_s == 0.1
    assert "lacks.json" in run(logs / "0.npz", tmp_path / "third", "--schema", tmp_path / "lacks.json", code=1)


def test_options_of_other_formats_are_refused(tmp_path: Path, logs: Path) -> None:
    said = run(logs, tmp_path / "store", "--rate", "10", "--rule", "linear", code=1)
    assert "npz logs take no rate_hz, rule" in said
    assert not (tmp_path / "store").exists()
    assert "no importer is called 'npy'" in run(logs, tmp_path / "store", "--as", "npy", code=1)


def test_logs_without_an_action_fail_and_leave_nothing(tmp_path: Path) -> None:
    rows = [f"{k},{np.sin(k / 9):.4f},{k // 25 % 7}.5" for k in range(300)]
    (tmp_path / "plant.csv").write_text("\n".join(["time,level,inflow", *rows]) + "\n")
    said = run(tmp_path / "plant.csv", tmp_path / "store", code=1)
    assert "no column is known to be an action" in said
    assert "--action inflow" in said
    assert [file.name for file in tmp_path.iterdir()] == ["plant.csv"]
    said = run(tmp_path / "plant.csv", tmp_path / "store", "--action", "inflow")
    assert open_store(tmp_path / "store").schema["inflow"].role is Role.ACTION
    assert said.rstrip().endswith(f"Next:   worldline check {tmp_path / 'store'}")
