"""Statistical clauses on prediction bands and trust.

They count over episodes. `WorldCase.alpha` is the false alarm rate of each clause for a correct world.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.episode import Episode
from worldline.stats import separation, tails
from worldline.testing.clauses import as_float, clause, existing, holds
from worldline.testing.log_windows import random_windows
from worldline.testing.prediction_case import corrupt, observed_values
from worldline.testing.world_case import WorldCase, one_world
from worldline.world.base import Prediction

LEVELS: Final = (0.5, 0.8, 0.95)
"""Levels at which bands are checked."""

EXACT: Final = 1e-3
"""A band narrower than this share of its signal's standard deviation counts as no band: the world is exact."""

STEPS_MORE: Final = 4
"""Observations beyond `Card.context` in the long histories on which trust is checked."""

MAX_LONG_HISTORIES: Final = 30
"""Long histories on which surprise is computed; bounds time."""

MIN_DETECTED: Final = 0.9
"""Share of pairs in which surprise must separate broken steps from real ones for trust to be checked."""

Floats = NDArray[np.floating]


@clause("Forecast.low and high; low <= mean <= high, wider for a higher level", applies=WorldCase.calibrated)
def bands_ordered(case: WorldCase) -> None:
    """The band contains the mean and the bands of lower levels, and is wider than those."""
    windows, levels = case.windows(), levels_of(case)
    asked = [case.predict(windows, level=level) for level in levels]
    for name in case.vectors:
        bands = [band_of(prediction, name) for prediction in asked]
        mean = as_float(asked[0].signals[name].mean)
        slack = 1e-6 * (np.abs(mean).max() + 1)
        for level, (low, high) in zip(levels, bands, strict=True):
            holds(low <= mean + slack, f"signal {name!r}, level {level}: low is above the mean")
            holds(mean <= high + slack, f"signal {name!r}, level {level}: high is below the mean")
        for inner, outer in pairwise(bands):
            inside = (outer[0] <= inner[0] + slack) & (inner[1] <= outer[1] + slack)
            holds(inside, f"signal {name!r}: a band does not contain the band of a lower level")
        narrow, wide = (float(np.mean(high - low)) for low, high in (bands[0], bands[-1]))
        problem = f"signal {name!r}: the band has the width {narrow:.4g} at every level"
        holds(is_exact(case, name, narrow) or wide > narrow * 1.001, problem)


@clause("Forecast.low and high; the share of whole trajectories inside equals the level", applies=WorldCase.calibrated)
def coverage(case: WorldCase) -> None:
    """The share of whole trajectories inside the band equals the level, within the error of the count."""
    windows = case.windows()
    for level in levels_of(case):
        prediction = case.predict(windows, level=level)
        for name in case.vectors:
            low, high = band_of(prediction, name)
            inside = _inside(windows, name, low, high)
            chance = tails(int(inside.sum()), len(inside), level, case.num_calibration)
            problem = f"signal {name!r}: {inside.sum()} of {len(inside)} trajectories are inside the {level} band"
            holds(chance.low >= case.alpha, f"{problem}, too few (chance {chance.low:.2g})")
            # The band of an exact world covers all.
            many = chance.high < case.alpha and not is_exact(case, name, float(np.mean(high - low)))
            holds(not many, f"{problem}, too many (chance {chance.high:.2g})")


@clause("Prediction.trust; a p-value in [0, 1], small if the present state is out of distribution")
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


@clause("Prediction.trust; a p-value that is small if a step is out of distribution", applies=WorldCase.calibrated)
def trust_depends_on_steps(case: WorldCase) -> None:
    """Trust is smaller if a step of the history is implausible although each value is usual.

    Checked on histories longer than `Card.context`, and only if the world's surprise detects such steps.
    """
    length = case.length + STEPS_MORE
    at = length - STEPS_MORE + 1  # has predecessors, and is not in the context of the present
    long = [episode for episode in case.episodes if episode.num_steps >= length - 1 + case.horizon]
    if len(long) < 2:
        return
    windows = random_windows(long, length=length, horizon=case.horizon, seed=case.seed)
    changed = {name: value.copy() for name, value in windows.history.observations.items()}
    for value in changed.values():
        value[:, at] = np.roll(value[:, at], 1, axis=0)
    broken = replace(windows, history=replace(windows.history, observations=changed))
    few = range(min(MAX_LONG_HISTORIES, windows.num_worlds))
    share = separation(*(_min_p_values(case, histories.select(few), at) for histories in (broken, windows)))
    if share < MIN_DETECTED:
        return
    real, odd = as_float(case.predict(windows).trust), as_float(case.predict(broken).trust)
    seldom_small(case, real, "trust of long histories")
    detects(odd, real, f"one observation is from another episode: surprise detects it in {share:.0%} of pairs; trust")


def seldom_small(case: WorldCase, values: Floats, what: str) -> None:
    """Raises BreachError if more p-values are at most 0.1 than chance allows."""
    count = int((values <= 0.1).sum())
    chance = tails(count, len(values), 0.1, case.num_calibration).high
    holds(chance >= case.alpha, f"{count} of {len(values)} {what} are at most 0.1 (chance {chance:.2g})")


def detects(odd: Floats, real: Floats, what: str) -> None:
    """Raises BreachError unless p-values of odd cases are usually below those of real ones."""
    share = separation(odd, real)
    holds(share >= 0.75, f"{what} is below that of real ones in {share:.0%} of pairs (chance: 50%)")


def _min_p_values(case: WorldCase, windows: ForecastWindows, at: int) -> Floats:
    """The smallest p-value over signals of the step that leads to observation `at` of each history [W]."""
    episodes = [Episode(**vars(one_world(windows, world).history)) for world in range(windows.num_worlds)]
    p_values = [case.world.surprise(episode).p_values.values() for episode in episodes]
    return np.asarray([min(float(value[at - 1]) for value in values) for values in p_values])


def levels_of(case: WorldCase) -> list[float]:
    """The levels of `LEVELS` that the calibration supports."""
    num = case.num_calibration
    return [level for level in LEVELS if num is None or (num + 1) * (1 - level) >= 1 - 1e-9]


def band_of(prediction: Prediction, name: str) -> tuple[Floats, Floats]:
    """The edges of a band; raises BreachError if there is none."""
    forecast, problem = prediction.signals[name], f"signal {name!r}: a calibrated vector signal has no band"
    return as_float(existing(forecast.low, problem)), as_float(existing(forecast.high, problem))


def _inside(windows: ForecastWindows, name: str, low: Floats, high: Floats) -> NDArray[np.bool_]:
    """Whether each whole trajectory [W] is inside at its known steps, up to a rounding error."""
    truth = as_float(windows.truth[name])
    slack = 1e-5 * (np.nanmax(np.abs(truth)) + 1e-12)
    inside = ((low - slack <= truth) & (truth <= high + slack)).all(-1)
    return np.asarray((inside | ~windows.known[name].astype(bool)).all(-1))


def is_exact(case: WorldCase, name: str, width: float) -> bool:
    """Whether a band is so narrow that the world is exact."""
    return bool(width <= EXACT * observed_values(case.episodes, name).std(0).mean())
