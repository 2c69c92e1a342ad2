"""An engine of a package of its own: found by its name, and as its contract says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.stores import stored

import worldline
from worldline.engines.base import Parts, Storable
from worldline.episode import Episode, History
from worldline.errors import DataError, InputError
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


def test_it_knows_where_the_trend_does_not_hold(engine: Any) -> None:
    """Moves end at a wall that is 1 m away."""
    schema = replace(TOY.schema, signals=tuple(s for s in TOY.schema.signals if s.name != "wind"))
    draw, walks = np.random.default_rng(0), []
    for _ in range(300):
        push = draw.uniform(-1, 1, (10, 2)).astype(np.float32)
        path = [draw.uniform(-1, 1, 2)]
        for one in push:
            path.append(np.clip(path[-1] + one, -1, 1))
        walks.append(Episode(observations={"position": np.array(path, np.float32)}, actions={"push": push}))
    found = type(engine).fit(walks, schema)
    planner, into_the_wall = CrossEntropy(), {"push": np.array([[0.9, 0.0]], np.float32)}
    now = History(
        observations={"position": np.array([[0.8, 0.0]], np.float32)}, actions={"push": np.zeros((0, 2), np.float32)}
    )
    kinds = {"nearest": found, "linear": load("engine", "linear").fit(walks, schema, context=1)}
    ends = {
        name: LocalWorld(one, None, planner).predict(now, into_the_wall).signals["position"].mean[0, 0]
        for name, one in kinds.items()
    }
    assert ends["nearest"] == pytest.approx(1.0, abs=0.1), ends
    assert ends["linear"] > 1.2


def test_it_comes_back_from_its_parts(engine: Any, episodes: Sequence[Episode]) -> None:
    assert isinstance(engine, Storable)
    parts = engine.to_parts()
    again = type(engine).from_parts(TOY.schema, parts)
    assert again.describe() == engine.describe()
    history, actions = episodes[0].history(5, 3), {"push": episodes[0].actions["push"][5:9]}
    wind = {"wind": episodes[0].exogenous["wind"][5:9]}
    means = [
        LocalWorld(one, None, CrossEntropy()).predict(history, actions, exogenous=wind).signals["position"].mean
        for one in (engine, again)
    ]
    np.testing.assert_array_equal(*means)


@pytest.mark.parametrize(
    ("arrays", "config", "message"),
    [
        ({"steps": np.zeros((9, 2))}, {}, "steps is float64"),
        ({"trend": None}, {}, "trend is object"),
        ({"changes": np.full((840, 2), np.nan)}, {}, "changes is float64"),
        ({"scale": np.zeros(6)}, {}, "a scale is not above 0"),
        ({"typical.position": np.zeros(3, np.float32)}, {}, "a typical value is missing"),
        ({}, {"num_neighbours": 840}, "num_neighbours is 840"),
        ({}, {"num_neighbours": True}, "num_neighbours is True"),
    ],
)
def test_parts_of_a_stranger_are_checked(
    engine: Any, arrays: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    parts = engine.to_parts()
    changed = {name: value for name, value in {**parts.arrays, **arrays}.items() if value is not None}
    with pytest.raises(DataError, match=message):
        type(engine).from_parts(TOY.schema, Parts(config={**parts.config, **config}, arrays=changed))


def test_what_it_cannot_look_up_is_refused(engine: Any) -> None:
    with pytest.raises(DataError, match="3 steps are complete, expected more than num_neighbours 8"):
        type(engine).fit(TOY.episodes(1, 3, seed=0), TOY.schema)
    camera_only = replace(TOY.schema, signals=TOY.schema.signals[1:])
    with pytest.raises(InputError, match="looks up vectors"):
        type(engine).fit(TOY.episodes(1, 3, seed=0), camera_only)
