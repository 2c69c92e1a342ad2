"""Statistical clauses on prediction bands and trust.

They count over episodes. `WorldCase.alpha` is the false alarm rate of each clause for a correct world.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from worldline.stats import separation, tails
from worldline.testing.cases import WorldCase
from worldline.testing.clauses import clause
from worldline.testing.comparing import Floats, as_float, existing, holds
from worldline.testing.log_edits import corrupt, observed_values
from worldline.world.base import Prediction

LEVELS: Final = (0.5, 0.8, 0.95)
"""Levels at which bands are checked."""

EXACT: Final = 1e-3
"""A band narrower than this share of its signal's standard deviation counts as no band: the world is exact."""


@clause(
    "world",
    "Forecast.low and high; the share of whole trajectories inside equals the level",
    applies=WorldCase.calibrated,
)
def coverage(case: WorldCase) -> None:
    """The band contains the mean, and the share of whole trajectories inside is its level, within chance."""
    windows = case.windows()
    for level in levels_of(case):
        prediction = case.predict(windows, level=level)
        for name in case.vectors:
            low, high = band_of(prediction, name)
            mean = as_float(prediction.signals[name].mean)
            slack = 1e-6 * (np.abs(mean).max() + 1)
            inside = (low <= mean + slack) & (mean <= high + slack)
            holds(inside, f"signal {name!r}: the mean is outside the {level} band")
            truth, known = as_float(windows.truth[name]), windows.known[name].astype(bool)
            slack = 1e-5 * (np.nanmax(np.abs(truth)) + 1e-12)  # a rounding error
            inside = (((low - slack <= truth) & (truth <= high + slack)).all(-1) | ~known).all(-1)
            chance = tails(int(inside.sum()), len(inside), level, case.num_calibration)
            problem = f"signal {name!r}: {inside.sum()} of {len(inside)} trajectories are inside the {level} band"
            holds(chance.low >= case.alpha, f"{problem}, too few (chance {chance.low:.2g})")
            # The band of an exact world covers all.
            many = chance.high < case.alpha and not is_exact(case, name, float(np.mean(high - low)))
            holds(not many, f"{problem}, too many (chance {chance.high:.2g})")


@clause("world", "Prediction.trust; a p-value in [0, 1], small if the present state is out of distribution")
def trust_is_p_value(case: WorldCase) -> None:
    """Trust is a p-value in [0, 1], rarely small on real histories and smaller on corrupted ones."""
    windows = case.windows()
    corrupted = replace(windows.history, observations=corrupt(windows.history.observations, case.seed))
    prediction = case.predict(windows)
    real, wild = (as_float(p.trust) for p in (prediction, case.predict(replace(windows, history=corrupted))))
    for name, value in (("real", real), ("corrupted", wild)):
        holds(value.shape == (windows.num_worlds,), f"trust has shape {value.shape} for {windows.num_worlds} worlds")
        fine = ((value >= 0) & (value <= 1)) | (np.isnan(value) & (not prediction.calibrated))
        holds(fine, f"trust of {name} histories is outside [0, 1]")
    if prediction.calibrated:
        seldom_small(case, real, "trust of real histories")
        detects(wild, real, f"trust of corrupted histories (mean {wild.mean():.3g}, of real ones {real.mean():.3g})")


def seldom_small(case: WorldCase, values: Floats, what: str) -> None:
    """Raises BreachError if more p-values are at most 0.1 than chance allows."""
    count = int((values <= 0.1).sum())
    chance = tails(count, len(values), 0.1, case.num_calibration).high
    holds(chance >= case.alpha, f"{count} of {len(values)} {what} are at most 0.1 (chance {chance:.2g})")


def detects(odd: Floats, real: Floats, what: str) -> None:
    """Raises BreachError unless p-values of odd cases are usually below those of real ones."""
    share = separation(odd, real)
    holds(share >= 0.75, f"{what} is below that of real ones in {share:.0%} of pairs (chance: 50%)")


def levels_of(case: WorldCase) -> list[float]:
    """The levels of `LEVELS` that the calibration supports."""
    num = case.num_calibration
    return [level for level in LEVELS if num is None or (num + 1) * (1 - level) >= 1 - 1e-9]


def band_of(prediction: Prediction, name: str) -> tuple[Floats, Floats]:
    """The edges of a band; raises BreachError if there is none."""
    forecast, problem = prediction.signals[name], f"signal {name!r}: a calibrated vector signal has no band"
    return as_float(existing(forecast.low, problem)), as_float(existing(forecast.high, problem))


def is_exact(case: WorldCase, name: str, width: float) -> bool:
    """Whether a band is so narrow that the world is exact."""
    return bool(width <= EXACT * observed_values(case.episodes, name).std(0).mean())
