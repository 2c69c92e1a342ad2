from __future__ import annotations

import numpy as np
from tests.testing.exact_world import GRID, SIZES, WITHIN, Exact, share_within
from tests.testing.planted import altered, catches, instead, passes, world_case

from worldline.world.base import Forecast

PerStepQuantiles = instead(Exact, half_width=lambda self, level: np.interp(level, WITHIN, GRID) * SIZES)


class MeanOutsideItsBand(Exact):
    def forecast(self, mean, half, horizon):
        return Forecast(mean=mean + 3 * half, low=mean - half, high=mean + half, horizon=horizon)


class TrustOfThePresent(Exact):
    """Judges where it is, not how it got there."""

    def trust(self, history):
        position, _ = self.seen(history)
        return 1 - share_within(np.abs(position[:, -1]).max(1) / self.spread()) ** 2


class TrustFallsWithLength(Exact):
    """Many steps, each of which may be a little odd, and nothing that corrects for it."""

    def trust(self, history):
        position, _ = self.seen(history)
        moved = self.toy.step(position[:, :-1], history.actions["push"], history.exogenous["wind"])
        odd = (np.abs(position[:, 1:] - moved) / 0.3).max((1, 2), initial=0.0)
        return 1 - share_within(odd) ** 2


class Surprised(TrustOfThePresent):
    """By nothing: it cannot tell steps that do not follow."""

    def p_values(self, episode):
        return np.random.default_rng(episode.num_steps).uniform(size=episode.num_steps)


test_what_surprise_cannot_tell_is_not_asked_of_trust = passes([Surprised], ["trust_depends_on_steps"], world_case)

WORLD_FAULTS = [
    (
        altered(Exact, "ConstantBand", half_width=np.ones_like),
        "bands_ordered",
        "the band has the width 2 at every level",
    ),
    (altered(Exact, "EdgesCrossed", half_width=lambda half: -half), "bands_ordered", "low is above the mean"),
    (MeanOutsideItsBand, "bands_ordered", "high is below the mean"),
    (altered(Exact, "BandTooWide", half_width=lambda half: 3.0 * half), "coverage", "too many"),
    (PerStepQuantiles, "coverage", "too few"),
    (
        altered(Exact, "TrustConstant", trust=lambda trust: np.full(len(trust), 0.8)),
        "trust_is_p_value",
        "in 50% of pairs",
    ),
    (altered(Exact, "TrustAboveOne", trust=lambda trust: 100 * trust), "trust_is_p_value", r"outside \[0, 1\]"),
    (TrustOfThePresent, "trust_depends_on_steps", "one observation is from another episode: surprise detects it in 9"),
    (TrustFallsWithLength, "trust_depends_on_steps", "trust of long histories are at most 0.1"),
]
test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
