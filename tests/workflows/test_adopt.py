from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.data.stores import stored
from tests.engines.forecast.tiny_chronos import tiny_chronos
from typer.testing import CliRunner

import worldline
from worldline.audit.training_measurements import Trial
from worldline.cli.main import app
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import ConfigError, DataError, InputError, UnsupportedError
from worldline.schema import Kind, Role, Schema, Signal
from worldline.stats import Estimate
from worldline.workflows import choosing, training
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import Options
from worldline.world import fit_calibration

SCHEMA = Schema(
    signals=(
        Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m"),
        Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,)),
    )
)


def waves(count: int, steps: int) -> Sequence[Episode]:
    """Sines with noise and a random phase; the valve does nothing."""
    episodes = []
    for seed in range(count):
        draw = np.random.default_rng(seed)
        level = np.sin(2 * np.pi * (np.arange(steps + 1) + draw.integers(12)) / 12) + 0.05 * draw.normal(size=steps + 1)
        valve = draw.uniform(-1, 1, (steps, 1)).astype(np.float32)
        episodes.append(Episode(observations={"level": level[:, None].astype(np.float32)}, actions={"valve": valve}))
    return episodes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("waves") / "store", SCHEMA, waves(20, 50))


@pytest.fixture(autouse=True)
def _few_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_calibration, "SCALE_WINDOWS", 24)
    monkeypatch.setattr(training, "MIN_WINDOWS", 24)
    monkeypatch.setattr(training, "FORECAST_EPISODES", 8)
    monkeypatch.setattr(training, "FORECAST_LENGTHS", (3,))


def test_fracast_becomes_a_world(store: Store, tmp_path: Path) -> None:
    world = worldline.adopt("fracast", store, tmp_path / "world", horizon=6, progress=None)
    card = world.describe()
    assert (card.engine, card.action_conditioned, card.band_horizon) == ("forecast", False, 6)
    episode = waves(30, 50)[-1]
    now, plan = episode.history(at=40), {"valve": episode.actions["valve"][40:46]}
    forecast = world.predict(now, plan, level=0.5).signals["level"]
    truth = episode.observations["level"][41:47]
    assert forecast.low is not None
    assert forecast.high is not None
    assert np.abs(forecast.mean - truth).mean() < 0.5 * np.abs(truth - episode.observations["level"][40]).mean()
    assert (forecast.low < forecast.high).all()
    with pytest.raises(UnsupportedError, match="not action-conditioned"):
        world.plan(now, worldline.Goal(targets={"level": np.zeros(1)}), horizon=4)
    again = worldline.open(tmp_path / "world").predict(now, plan, level=0.5).signals["level"]
    np.testing.assert_array_equal(again.mean, forecast.mean)
    run = json.loads((tmp_path / "world" / "run.json").read_text())
    assert any("ignores the actions" in finding for finding in run["findings"])
    assert "fracast" in (tmp_path / "world" / "report.html").read_text()
    settings = tomllib.loads((tmp_path / "world" / "run.toml").read_text())
    assert settings["learn"]["recipe"] == "fracast"


def test_a_folder_of_chronos_becomes_a_world_that_plans(store: Store, tmp_path: Path) -> None:
    folder = tiny_chronos(tmp_path / "chronos")
    arguments = ["adopt", str(folder), str(store.path), "--out", str(tmp_path / "world"), "--horizon", "4"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    shutil.rmtree(folder)  # the bundle holds the weights
    world = worldline.open(tmp_path / "world")
    assert world.describe().action_conditioned
    plan = world.plan(waves(1, 50)[0].history(at=40), worldline.Goal(targets={"level": np.zeros(1)}), horizon=2)
    assert plan.actions["valve"].shape == (2, 1)


def test_bad_input_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="horizon is 60, and fracast forecasts at most 48 steps"):
        worldline.adopt("fracast", store, tmp_path / "long", horizon=60, progress=None)
    with pytest.raises(DataError, match="Give a local folder of Chronos-2"):
        worldline.adopt(tmp_path / "nothing", store, tmp_path / "other", progress=None)
    with pytest.raises(InputError, match="Add --weights FOLDER"):
        worldline.learn(store, tmp_path / "none", recipe="chronos", progress=None)
    short = stored(tmp_path / "short", SCHEMA, waves(20, 2))
    with pytest.raises(DataError, match="have 4 observations, need 2"):
        worldline.adopt("fracast", short, tmp_path / "brief", progress=None)
    assert not (tmp_path / "long").exists()


def trial(name: str, error: float) -> Trial:
    return Trial(name=name, errors=(error,), relative=Estimate.around(error, error, error), learn_s=1.0)


@pytest.mark.parametrize(("error", "chosen"), [(0.85, "fracast"), (0.92, "linear"), (1.5, "linear")])
def test_the_forecaster_wins_by_a_clear_gain_only(error: float, chosen: str) -> None:
    assert choosing.best([trial("linear", 1.0), trial("ensemble", 0.99), trial("fracast", error)]) == chosen


def test_learn_lists_the_forecaster_and_keeps_it_if_it_wins(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "CANDIDATES", ("linear",))
    monkeypatch.setattr(choosing, "MIN_FORECAST_GAIN", -1e9)
    monkeypatch.setattr("worldline.workflows.learn.beats", lambda *_: True)
    result = learn_logs(store, tmp_path / "world", Options(set={"training": {"num_updates": 10}}, horizon=6))
    assert result.choice is not None
    assert [one.name for one in result.choice.trials] == ["linear", "fracast"]
    assert result.choice.chosen == "fracast"
    assert worldline.open(tmp_path / "world").describe().engine == "forecast"


def test_a_forecaster_that_takes_too_long_is_left_out(store: Store, tmp_path: Path) -> None:
    result = learn_logs(store, tmp_path / "world", Options(budget=0.5))
    assert result.choice is not None
    assert "its forecasts would take" in result.choice.failed["fracast"]
