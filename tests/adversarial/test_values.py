"""Values that are not finite: in weights, in calibrations, and in the answers of engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.world.tampering import tamper_tensors
from tests.world.tiny import CALM, _jepa
from tests.world.wrapped import Wrapped

from worldline.audit.queries import window_forecasts
from worldline.catalog.fallback import FallbackWorld
from worldline.catalog.versions import Catalog
from worldline.data.windows import forecast_windows
from worldline.engines.base import Engine, EngineBelief, Samples
from worldline.engines.baselines import Linear
from worldline.episode import Future
from worldline.errors import BundleError, EngineError
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.world.bundle_io import open_world, save_world
from worldline.world.calibration import Calibration
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

EPISODES = CALM.episodes(24, 12, seed=0)
LINEAR = Linear.fit(EPISODES[:12], CALM.schema, context=1)
PLANNER = CrossEntropy(num_candidates=8, num_elites=4, num_iterations=2)
GOAL = Goal(targets={"position": np.zeros(2)})
HISTORY = EPISODES[0].history(2, 3)
AHEAD = {name: value[2:6] for name, value in EPISODES[0].actions.items()}


class Broken(Wrapped):
    """Predicts `value` instead of positions from a step on."""

    def __init__(self, *, first: int, value: float = np.nan) -> None:
        super().__init__(LINEAR)
        self.first, self.value = first, value

    def imagine(self, belief: EngineBelief, future: Future, **options: Any) -> Samples:
        found = LINEAR.imagine(belief, future, **options)
        positions = np.array(found.signals["position"])
        positions[:, :, :, self.first - 1 :] = self.value
        return Samples(signals={**found.signals, "position": positions})


def calibration_of(engine: Engine) -> Calibration:
    return calibrate(engine, EPISODES[12:], horizon=4, num_windows=1, seed=0, with_causes=False)


def world_of(engine: Engine) -> LocalWorld:
    return LocalWorld(engine, calibration_of(LINEAR), PLANNER)


VERBS: dict[str, Callable[[LocalWorld | FallbackWorld], object]] = {
    "predict": lambda world: world.predict(HISTORY, AHEAD),
    "score": lambda world: world.score(HISTORY, {name: value[None] for name, value in AHEAD.items()}, GOAL),
    "plan": lambda world: world.plan(HISTORY, GOAL, horizon=4),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_errors_and_the_next_world_is_asked(verb: str, value: float) -> None:
    broken, good = world_of(Broken(first=3, value=value)), world_of(LINEAR)
    with pytest.raises(EngineError, match=rf"returned {value} for 'position' at step 3"):
        VERBS[verb](broken)
    both = FallbackWorld([broken, good])
    VERBS[verb](both)
    assert list(both.tally().values()) == [0, 1]


def test_surprise_what_if_and_trust_refuse_values_that_are_not_finite() -> None:
    broken = world_of(Broken(first=1))
    with pytest.raises(EngineError, match="returned nan for 'position' at step 1"):
        broken.surprise(EPISODES[0])
    with pytest.raises(EngineError, match="returned nan"):
        broken.what_if(EPISODES[0], 2, AHEAD)
    with pytest.raises(EngineError, match="returned nan"):
        broken.encode(EPISODES[0].history())


def test_measurements_keep_the_windows_beside_one_that_is_not_finite() -> None:
    """Predictions that are not finite are left out of an audit; those of other windows are kept."""

    class Partly(Broken):
        """Only wrong for histories that end above 0."""

        def imagine(self, belief: EngineBelief, future: Future, **options: Any) -> Samples:
            found, good = super().imagine(belief, future, **options), LINEAR.imagine(belief, future, **options)
            starts = LINEAR.imagine(belief, future, **options).signals["position"][:, :, :, :1, :1]
            mixed = np.where(starts > 0, found.signals["position"], good.signals["position"])
            return Samples(signals={**found.signals, "position": mixed})

    windows = forecast_windows([(one, 3) for one in EPISODES[:6]], length=1, horizon=4, targets=["position"])
    good = window_forecasts(world_of(LINEAR), windows)["position"].mean
    found = window_forecasts(world_of(Partly(first=3)), windows)["position"].mean
    wrong = good[:, 0, 0] > 0
    assert 0 < wrong.sum() < 6
    np.testing.assert_allclose(found[~wrong], good[~wrong])
    assert np.isnan(found[wrong]).all()


def test_an_engine_that_predicts_no_numbers_is_not_calibrated() -> None:
    with pytest.raises(EngineError, match="returned nan for 'position' at step 2"):
        calibration_of(Broken(first=2))


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """The bundle of an untrained network."""
    engine = _jepa(CALM.schema, ("position",))
    save_world(tmp_path / "world", LocalWorld(engine, calibration_of(engine), PLANNER))
    return tmp_path / "world"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["model", "heads/readout", "heads/distance", "heads/mahalanobis"])
def test_weights_that_are_not_finite_are_refused(learned: Path, tmp_path: Path, name: str, value: float) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        next(one for one in tensors.values() if one.is_floating_point()).view(-1)[0] = value

    tamper_tensors(learned, f"{name}.safetensors", change)
    with pytest.raises(BundleError, match=r"1 of .* are NaN or infinite"):
        open_world(learned)
    with pytest.raises(BundleError, match="NaN or infinite"):
        Catalog(tmp_path / "catalog").publish(learned, "toy", alias="prod")
    assert not list((tmp_path / "catalog").rglob("*.safetensors"))


def test_a_diverged_network_is_not_saved(learned: Path, tmp_path: Path) -> None:
    world = open_world(learned)
    next(world.engine.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(BundleError, match="NaN or infinite"):
        save_world(tmp_path / "again", world)
    assert not (tmp_path / "again").exists()


Change = Callable[[dict[str, torch.Tensor]], None]


def spoil(part: str, at: object, value: float) -> Change:
    return lambda tensors: tensors[part].__setitem__(at, value)


SPOILED = {
    "scale of NaN": spoil("scale/position", (1, 0), np.nan),
    "infinite score": spoil("scores/position", (0, 0), np.inf),
    "spread of NaN": spoil("spread/position", 0, np.nan),
    "residual of infinity": spoil("residuals/position", (0, 0, 0), np.inf),
    "infinite logged range": spoil("logged_range/position", (0, 0), np.inf),
    "whitening of NaN": spoil("ood/whitening", (0, 0, 0), np.nan),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_calibration_that_is_not_finite_is_refused(tmp_path: Path, name: str) -> None:
    save_world(tmp_path / "world", world_of(LINEAR))
    open_world(tmp_path / "world")
    tamper_tensors(tmp_path / "world", "calibration.safetensors", SPOILED[name])
    with pytest.raises(BundleError, match="calibration"):
        open_world(tmp_path / "world")


def test_a_calibration_without_values_of_some_windows_is_valid(tmp_path: Path) -> None:
    """NaN at the end of the scores means that a window observed nothing."""
    calibration = calibration_of(LINEAR)
    scores = {name: value.copy() for name, value in calibration.scores.items()}
    scores["position"][:, -2:] = np.nan
    save_world(tmp_path / "world", LocalWorld(LINEAR, replace(calibration, scores=scores), PLANNER))
    assert open_world(tmp_path / "world").calibration is not None
