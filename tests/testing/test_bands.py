"""Faults of bands, trust and horizons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.testing.exact_world import GRID, HORIZON, SIZES, WITHIN, Exact, toy_case, toy_episodes
from tests.testing.planted import WORLD_EPISODES, altered, catches, gappy, instead, named, world_case

from worldline.testing.clauses import breaches
from worldline.world.base import Forecast

PerStepQuantiles = instead(Exact, half_width=lambda self, level: np.interp(level, WITHIN, GRID) * SIZES)


class MeanOutsideItsBand(Exact):
    def forecast(self, mean, half, horizon):
        return Forecast(mean=mean + 3 * half, low=mean - half, high=mean + half, horizon=horizon)


WORLD_FAULTS = [
    (
        altered(Exact, "ConstantBand", half_width=np.ones_like),
        "coverage",
        "of 40 trajectories are inside",
    ),
    (altered(Exact, "EdgesCrossed", half_width=lambda half: -half), "coverage", "the mean is outside the 0.5 band"),
    (MeanOutsideItsBand, "coverage", "the mean is outside"),
    (altered(Exact, "BandTooWide", half_width=lambda half: 3.0 * half), "coverage", "too many"),
    (PerStepQuantiles, "coverage", "too few"),
    (
        altered(Exact, "TrustConstant", trust=lambda trust: np.full(len(trust), 0.8)),
        "trust_is_p_value",
        "in 50% of pairs",
    ),
    (altered(Exact, "TrustAboveOne", trust=lambda trust: 100 * trust), "trust_is_p_value", r"outside \[0, 1\]"),
]


HORIZON_HONEST = named("world", "horizon_honest")


class BlindAfterTwo(Exact):
    """Knows two steps, and then goes the other way; its horizon says so."""

    claimed = 2

    def predict(self, *args, **rest):
        found = super().predict(*args, **rest)
        forecast = found.signals["position"]
        mean = np.concatenate([forecast.mean[..., :2, :], -forecast.mean[..., 2:, :]], -2)
        return replace(
            found, signals={"position": replace(forecast, mean=mean, horizon=self.reported(forecast.horizon))}
        )

    def reported(self, horizon):
        return np.full_like(horizon, self.claimed) if isinstance(horizon, np.ndarray) else self.claimed


class Persistent(Exact):
    """Everything stays as it is: no better than persistence at any step."""

    def path(self, history, push, wind):
        here = self.seen(history)[0][:, -1, None]
        return np.stack([np.repeat(here, push.shape[1], 1)] * push.shape[2], 1)


class PersistentWithoutHorizon(Persistent):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, half, np.zeros_like(horizon))


BeyondTheEnd = instead(Exact, forecast=lambda self, mean, half, horizon: Exact.forecast(self, mean, half, horizon + 1))


class OneForTheBatch(Exact):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, half, horizon[:1])


class UncalibratedWithHorizon(Exact):
    calibrated = False

    def forecast(self, mean, half, horizon):
        return super().forecast(mean, half, horizon + 2)


@pytest.mark.parametrize("world", [BlindAfterTwo, PersistentWithoutHorizon])
@pytest.mark.parametrize("seed", range(3))
def test_an_honest_horizon_passes(world: Callable[[], Exact], seed: int) -> None:
    assert breaches(toy_case(world(), toy_episodes(seed)), [HORIZON_HONEST]) == []


WORLD_FAULTS += [
    (
        altered(BlindAfterTwo, "OneTooFar", claimed=3),
        "horizon_honest",
        "step 3 is within the horizon, but without skill",
    ),
    (BeyondTheEnd, "horizon_honest", "expected 0 to 6"),
    (OneForTheBatch, "horizon_honest", r"horizon has shape \(1,\), expected \(40,\)"),
    (UncalibratedWithHorizon, "horizon_honest", "expected 0 without a calibration"),
]


def test_a_nearly_exact_prediction_is_skill_though_persistence_is_better() -> None:
    calm = [
        replace(one, observations={**one.observations, "position": np.repeat(one.observations["position"][:1], 15, 0)})
        for one in toy_episodes()
    ]

    class NearlyStill(Persistent):
        def path(self, history, push, wind):
            return super().path(history, push, wind) + 0.1

    assert breaches(toy_case(NearlyStill(), calm), [HORIZON_HONEST]) == []


def test_missing_values_do_not_count() -> None:
    episodes = gappy(WORLD_EPISODES, 4, 1e3)
    HORIZON_HONEST(toy_case(Exact(), episodes))
    with pytest.raises(AssertionError, match="without skill"):
        HORIZON_HONEST(toy_case(altered(BlindAfterTwo, "HorizonForever", claimed=HORIZON)(), episodes))


test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
