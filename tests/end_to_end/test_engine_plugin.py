"""An engine of a package of its own: found by its name, and as its contract says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.data.stores import stored

import worldline
from worldline.episode import Episode
from worldline.planning.planners.cem import CrossEntropy
from worldline.registry import load, names
from worldline.testing import check_engine
from worldline.testing.clauses import CLAUSES
from worldline.testing.toys import Integrator
from worldline.world.bundle_io import save_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(noise=0.2, camera=False)


@pytest.fixture(scope="module")
def engine(engine_plugin: Path) -> Any:
    assert "nearest" in names("engine")
    return load("engine", "nearest").fit(TOY.episodes(60, 14, seed=1), TOY.schema)


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return TOY.episodes(40, 14, seed=2)


def test_it_is_an_engine(engine: Any, episodes: Sequence[Episode]) -> None:
    check_engine(engine, episodes)


@pytest.fixture(scope="module")
def bundle(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated world over it."""
    calibration = calibrate(engine, TOY.episodes(120, 14, seed=3), horizon=4, num_windows=4, seed=0)
    folder = tmp_path_factory.mktemp("nearest") / "world"
    save_world(folder, LocalWorld(engine, calibration, CrossEntropy(num_candidates=32, num_iterations=2)))
    return folder


def test_its_bundle_conforms_in_a_process_of_its_own(
    bundle: Path, engine_plugin: Path, episodes: Sequence[Episode], tmp_path: Path
) -> None:
    logs = stored(tmp_path / "logs", TOY.schema, episodes)
    command = [sys.executable, "-W", "error", "-c", "from worldline.cli.main import app; app()"]
    command += ["conform", str(bundle), str(logs.path), "--json", str(tmp_path / "found.json")]
    path = os.pathsep.join([str(engine_plugin), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    clauses = json.loads((tmp_path / "found.json").read_text())["clauses"]
    assert {one["verdict"] for one in clauses} == {"holds"}
    assert worldline.open(bundle).describe().engine == "nearest"
    assert len(clauses) == len(CLAUSES["world"])
