from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.forecast.tiny_chronos import PATCHES, tiny_chronos

from worldline.bundle import read_bundle, write_bundle
from worldline.engines.forecast.engine import ForecastEngine
from worldline.engines.forecast.forecasters import Chronos, Fracast
from worldline.episode import Episode, Future, History
from worldline.errors import BundleError, ConfigError, DataError, MissingExtraError
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_engine, check_world
from worldline.testing.toys import Integrator
from worldline.world.bundle_io import open_world, save_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(noise=0.2)
WAVE = Schema(
    signals=(
        Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m"),
        Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,)),
        Signal(name="mode", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3),
        Signal(name="air", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,), unit="degC"),
    )
)


@pytest.fixture(scope="module")
def chronos(tmp_path_factory: pytest.TempPathFactory) -> Chronos:
    return Chronos.from_folder(tiny_chronos(tmp_path_factory.mktemp("chronos")))


def over(forecaster: Any, schema: Schema = WAVE, context: int = 40) -> ForecastEngine:
    signals = [signal for signal in schema.observations if signal.kind is Kind.VECTOR]
    typical = {signal.name: np.full(signal.shape, 3.0, np.float32) for signal in signals}
    names = tuple(signal.name for signal in signals)
    return ForecastEngine(schema=schema, forecaster=forecaster, inputs=names, context=context, typical=typical)


def waves(length: int, worlds: int = 1) -> History:
    """Two sines with periods of 12 and 20 steps, and random inputs."""
    draw, steps = np.random.default_rng(0), np.arange(length)
    level = np.stack([np.sin(2 * np.pi * steps / 12), 100 + 5 * np.sin(2 * np.pi * steps / 20)], 1)
    leading = (worlds, length - 1)
    return History(
        observations={"level": np.repeat(level[None], worlds, 0).astype(np.float32)},
        actions={"valve": draw.uniform(-1, 1, (*leading, 1)).astype(np.float32), "mode": draw.integers(0, 3, leading)},
        exogenous={"air": draw.normal(size=(*leading, 1)).astype(np.float32)},
    )


def ahead(steps: int, worlds: int = 1, versions: int = 1, seed: int = 1) -> Future:
    draw, leading = np.random.default_rng(seed), (worlds, versions, steps)
    return Future(
        actions={"valve": draw.uniform(-1, 1, (*leading, 1)).astype(np.float32), "mode": draw.integers(0, 3, leading)},
        exogenous={"air": draw.normal(size=(worlds, steps, 1)).astype(np.float32)},
    )


def means(engine: ForecastEngine, history: History, future: Future) -> np.ndarray[Any, Any]:
    belief = engine.observe(None, history, seed=0)
    return engine.imagine(belief, future, num_samples=1, seed=0).signals["level"][:, :, 0]


def test_a_sine_is_continued() -> None:
    steps = 200 + np.arange(24)
    truth = np.stack([np.sin(2 * np.pi * steps / 12), 100 + 5 * np.sin(2 * np.pi * steps / 20)], 1)
    history = waves(200)
    error = np.abs(means(over(Fracast(), context=200), history, ahead(24))[0, 0] - truth).mean(0)
    unchanged = np.abs(history.observations["level"][0, -1] - truth).mean(0)
    assert (error < 0.4 * unchanged).all()


@pytest.mark.parametrize("kind", ["fracast", "chronos"])
def test_the_contract_of_engines(kind: str, chronos: Chronos) -> None:
    engine = over({"fracast": Fracast(), "chronos": chronos}[kind], TOY.schema, context=4)
    check_engine(engine, TOY.episodes(4, 14, seed=2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fracast", "chronos"])
def test_the_contract_of_worlds(kind: str, chronos: Chronos) -> None:
    engine = over({"fracast": Fracast(), "chronos": chronos}[kind], TOY.schema, context=4)
    calibration = calibrate(engine, TOY.episodes(60, 14, seed=4), horizon=6, num_windows=1, seed=0)
    world = LocalWorld(engine, calibration, CrossEntropy(num_candidates=8, num_iterations=2, num_elites=2))
    goal = Goal(targets={"position": np.array([1.0, -0.5], np.float32)})
    check_world(world, TOY.episodes(30, 14, seed=5), goal, horizon=6, num_calibration=calibration.num_episodes)


@settings(max_examples=20, deadline=None)
@given(step=st.integers(0, 13), worlds=st.integers(1, 2), versions=st.integers(1, 3))
def test_later_inputs_do_not_change_earlier_steps(chronos: Chronos, step: int, worlds: int, versions: int) -> None:
    engine, history = over(chronos), waves(30, worlds)
    base, other = (ahead(14, worlds, versions, seed) for seed in (1, 2))
    mixed = Future(
        actions={
            n: np.concatenate([v[:, :, :step], other.actions[n][:, :, step:]], 2) for n, v in base.actions.items()
        },
        exogenous={
            n: np.concatenate([v[:, :step], other.exogenous[n][:, step:]], 1) for n, v in base.exogenous.items()
        },
    )
    one, two = means(engine, history, base), means(engine, history, mixed)
    np.testing.assert_allclose(one[:, :, :step], two[:, :, :step], rtol=1e-4, atol=1e-4)
    assert (np.abs(one[:, :, step] - two[:, :, step]) > 1e-6).any()  # the input of a step changes it


@pytest.mark.parametrize("kind", ["fracast", "chronos"])
def test_future_observations_do_not_change_a_forecast(kind: str, chronos: Chronos) -> None:
    engine = over({"fracast": Fracast(), "chronos": chronos}[kind], TOY.schema, context=8)
    episode = TOY.episodes(1, 30, seed=0)[0]
    seen = episode.observations["position"]
    observations = {"position": np.concatenate([seen[:12], np.full_like(seen[12:], 99)])}
    changed = Episode(observations=observations, actions=episode.actions, exogenous=episode.exogenous, seed=0)
    forecasts = []
    for logged in (episode, changed):
        world = LocalWorld(engine, None, CrossEntropy())
        now = logged.history(at=11, length=8)
        plan, weather = ({n: v[11:17] for n, v in group.items()} for group in (logged.actions, logged.exogenous))
        forecasts.append(world.predict(now, plan, exogenous=weather).signals["position"].mean)
    np.testing.assert_array_equal(forecasts[0], forecasts[1])


def test_fracast_ignores_actions_and_says_so(chronos: Chronos) -> None:
    blind, aware = over(Fracast()), over(chronos)
    assert not blind.describe().action_conditioned
    assert aware.describe().action_conditioned
    paths = means(blind, waves(30), ahead(6, versions=3))
    np.testing.assert_array_equal(paths[:, 0], paths[:, 2])
    assert not np.allclose(*means(aware, waves(30), ahead(6, versions=2))[0])


@pytest.mark.parametrize("kind", ["fracast", "chronos"])
def test_gaps_short_histories_and_long_horizons(kind: str, chronos: Chronos) -> None:
    engine, history = over({"fracast": Fracast(), "chronos": chronos}[kind]), waves(30)
    # One observation: the forecast stays near it.
    alone = means(engine, history.window(0, 1, axis=1), ahead(4))
    assert np.isfinite(alone).all()
    # Never observed: near the typical value, which is 3 here.
    unseen = History(
        observations=history.observations,
        actions=history.actions,
        exogenous=history.exogenous,
        observed={"level": np.zeros((1, 30), bool)},
    )
    assert np.isfinite(means(engine, unseen, ahead(4))).all()
    if kind == "fracast":
        np.testing.assert_allclose(alone[0, 0, :, 1], 100, atol=0.5)
        np.testing.assert_allclose(means(engine, unseen, ahead(4)), 3, atol=0.5)
    # A hidden value does not count.
    spoiled = history.observations["level"].copy()
    spoiled[0, 20] = 1e6
    mask = {"level": np.arange(30)[None] != 20}
    hidden = [
        History(observations={"level": v}, actions=history.actions, exogenous=history.exogenous, observed=mask)
        for v in (spoiled, history.observations["level"])
    ]
    np.testing.assert_array_equal(*(means(engine, one, ahead(4)) for one in hidden))
    # Beyond one pass of the network it goes on from its own medians.
    longer = means(engine, history, ahead(60))
    assert longer.shape == (1, 1, 60, 2)
    assert np.isfinite(longer).all()


def test_observing_step_by_step_equals_observing_at_once(chronos: Chronos) -> None:
    engine, history = over(chronos), waves(30)
    belief = engine.observe(None, history.window(0, 20, axis=1), seed=0)
    for now in range(20, 30):
        belief = engine.observe(belief, history.step(now), seed=0)
    together = engine.observe(None, history, seed=0)
    np.testing.assert_array_equal(belief.rows, together.rows)


def test_an_angle_goes_on_past_its_period() -> None:
    bounds: Any = {"low": (0.0,), "high": (360.0,), "period": 360.0}
    turning = Signal(name="angle", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), **bounds)
    engine = over(Fracast(), Schema(signals=(turning, WAVE["valve"])), context=100)
    angle = (10.0 * np.arange(100) % 360)[None, :, None].astype(np.float32)
    history = History(observations={"angle": angle}, actions={"valve": np.zeros((1, 99, 1), np.float32)})
    belief = engine.observe(None, history, seed=0)
    future = Future(actions={"valve": np.zeros((1, 1, 6, 1), np.float32)})
    path = engine.imagine(belief, future, num_samples=1, seed=0).signals["angle"][0, 0, 0, :, 0]
    error = turning.difference(path, 10.0 * np.arange(100, 106))
    assert np.abs(error).max() < 15  # 60 degrees further after six steps; a jump by 360 would be a failure


@pytest.mark.parametrize("kind", ["fracast", "chronos"])
def test_a_bundle_brings_the_forecaster_back(kind: str, chronos: Chronos, tmp_path: Path) -> None:
    engine = over({"fracast": Fracast(), "chronos": chronos}[kind])
    save_world(tmp_path / "world", LocalWorld(engine, None, CrossEntropy()))
    again = open_world(tmp_path / "world").engine
    assert isinstance(again, ForecastEngine)
    np.testing.assert_array_equal(means(again, waves(30), ahead(6)), means(engine, waves(30), ahead(6)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forecaster": "other"}, "expected fracast or chronos"),
        ({"settings": {"version": "9.9", "sha256": "0"}}, "weights of fracast '9.9'"),
        ({"inputs": ["valve"]}, "array 'typical/level' is unknown"),
        ({"context": 5000}, "from 1 to 2048"),
        ({"context": 0}, "context is 0"),
    ],
)
def test_damaged_bundles_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    bundle = save_world(tmp_path / "world", LocalWorld(over(Fracast()), None, CrossEntropy()))
    stored = json.loads(bundle.text("engine.json"))
    stored["config"] |= changes
    contents: dict[str, Any] = {n: bundle.text(n) for n in bundle.files if not n.endswith(".safetensors")}
    contents |= {"engine.json": json.dumps(stored), "engine.safetensors": bundle.tensors("engine.safetensors")}
    write_bundle(tmp_path / "damaged", contents, model="forecast", notes=bundle.manifest.notes)
    with pytest.raises(BundleError, match=message):
        open_world(tmp_path / "damaged")
    assert read_bundle(tmp_path / "world").files == bundle.files


def test_folders_with_another_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no Chronos-2 model can be read.*config.json"):
        Chronos.from_folder(tmp_path)
    folder = tiny_chronos(tmp_path / "chronos")
    config = json.loads((folder / "config.json").read_text())
    for changed, message in (
        ({"model_type": "t5"}, "config.json has no chronos_config"),
        ({**config, "d_model": 24}, "the weights do not fit the settings"),
        ({**config, "d_model": 10**9}, "d_model is 1000000000"),
        ({**config, "num_layers": 10**9}, "num_layers is 1000000000"),
        ({**config, "feed_forward_proj": "gated-gelu"}, "no Chronos-2 network has these settings"),
        ({**config, "chronos_config": {}}, "no Chronos-2 network has these settings"),
        ({**config, "chronos_config": {**PATCHES, "max_output_patches": 0}}, "no Chronos-2 network has these settings"),
    ):
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match=message):
            Chronos.from_folder(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(DataError, match="Give a local folder of Chronos-2"):
        Chronos.from_folder(folder)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fracast", None)
    monkeypatch.setitem(sys.modules, "chronos.chronos2", None)
    for build in (Fracast, lambda: Chronos({}, {})):
        with pytest.raises(MissingExtraError, match=r"worldline\[forecast\]|\[forecast\]"):
            build()


def test_arguments_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"context is 3000\. Give a number from 1 to 2048"):
        over(Fracast(), context=3000)
    with pytest.raises(ConfigError, match=r"inputs are none\. Name some of: level"):
        ForecastEngine(schema=WAVE, forecaster=Fracast(), inputs=(), context=4, typical={})
