"""Faults of bands, trust and horizons."""

import numpy as np
from tests.testing.exact_world import GRID, SIZES, WITHIN, Exact
from tests.testing.planted import altered, catches, instead, world_case

from worldline.world.base import Forecast

PerStepQuantiles = instead(Exact, half_width=lambda self, level: np.interp(level, WITHIN, GRID) * SIZES)


class MeanOutsideItsBand(Exact):
    def forecast(self, mean, half, horizon):
        return Forecast(mean=mean + 3 * half, low=mean - half, high=mean + half, horizon=horizon)


WORLD_FAULTS = [
    (altered(Exact, "ConstantBand", half_width=np.ones_like), "coverage", "of 40 trajectories are inside"),
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


BeyondTheEnd = instead(Exact, forecast=lambda self, mean, half, horizon: Exact.forecast(self, mean, half, horizon + 1))


class OneForTheBatch(Exact):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, half, horizon[:1])


class UncalibratedWithHorizon(Exact):
    calibrated = False

    def forecast(self, mean, half, horizon):
        return super().forecast(mean, half, horizon + 2)


WORLD_FAULTS += [
    (BeyondTheEnd, "prediction_shapes", "expected 0 to 6"),
    (OneForTheBatch, "prediction_shapes", r"horizon of .* has shape \(1,\), expected \(40,\)"),
    (UncalibratedWithHorizon, "prediction_shapes", "expected 0 to 0"),
]


test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
