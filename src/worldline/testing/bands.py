"""Statistical clauses on prediction bands, trust and horizons.

They count over episodes. `WorldCase.alpha` is the false alarm rate of each clause for a correct world.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.stats import separation, tails
from worldline.testing.cases import WorldCase
from worldline.testing.clauses import clause
from worldline.testing.comparing import Floats, as_float, existing, has_shape, holds
from worldline.testing.log_edits import corrupt, observed_values
from worldline.testing.predictions import ROUNDS
from worldline.world.base import Forecast, Prediction
from worldline.world.prediction_errors import mean_of

LEVELS: Final = (0.5, 0.8, 0.95)
"""Levels at which bands are checked."""

EXACT: Final = 1e-3
"""A band narrower than this share of its signal's standard deviation counts as no band: the world is exact."""

MAX_SKILLED_ERROR: Final = 0.05
"""A squared error below this share of the signal's variance is skill, even if persistence is better."""


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
            edge = 1e-6 * (np.abs(mean).max() + 1)
            holds(
                (low <= mean + edge) & (mean <= high + edge), f"signal {name!r}: the mean is outside the {level} band"
            )
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


@clause("world", "Forecast.horizon; up to this step the world beats persistence and the mean of the signal")
def horizon_honest(case: WorldCase) -> None:
    """Up to `horizon` the world beats persistence and the mean, or is nearly exact."""
    rounds = [replace(case, seed=case.seed + number).windows() for number in range(ROUNDS)]
    answers = list(map(case.predict, rounds))
    calibrated = answers[0].calibrated
    most = case.horizon if calibrated else 0
    for name in case.card.predicts:
        horizons = np.stack([np.asarray(answer.signals[name].horizon) for answer in answers])
        has_shape(f"signal {name!r}: horizon", horizons[0], (rounds[0].num_worlds,))
        expected = f"0 to {most}" if calibrated else "0 without a calibration"
        inside = (horizons >= 0) & (horizons <= most)
        holds(inside, f"signal {name!r}: horizon {horizons.tolist()}, expected {expected}")
        if not calibrated or name not in case.vectors:
            continue
        pairs = zip(rounds, (answer.signals[name] for answer in answers), strict=True)
        errors = np.stack([_errors(case, name, *pair) for pair in pairs], 1)
        for step in range(case.horizon):
            kept = np.where(horizons > step, errors[..., step], np.nan)
            # The mean error of each episode that has a window with this step inside the horizon.
            within = np.nanmean(kept[:, :, ~np.isnan(kept[0]).all(0)], axis=1)
            model, persistence, mean = within
            worse = _above_zero(case, model - persistence) or _above_zero(case, model - mean)
            figures = "squared errors of the prediction, of persistence and of the mean, in variances: "
            figures += ", ".join(f"{value:.3g}" for value in within.sum(1) / max(1, len(model)))
            problem = f"signal {name!r}: step {step + 1} is within the horizon, but without skill ({figures})"
            holds(not (worse and _above_zero(case, model - MAX_SKILLED_ERROR)), problem)


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


def _errors(case: WorldCase, name: str, windows: ForecastWindows, forecast: Forecast) -> Floats:
    """Squared errors [3, W, T] in variances of the signal: of the prediction, of persistence and of the mean.

    NaN where the ground truth or the present was not observed.
    """
    signal, truth = case.card.schema[name], as_float(windows.truth[name])
    every = observed_values(case.episodes, name)
    middle = mean_of(signal, every[None])[0]
    squares = np.square(signal.difference(every, middle)).sum(-1)
    variance = max(float(squares.mean()), 1e-12)
    # Persistence repeats the last observed value; NaN if there is none.
    known: NDArray[np.bool_] = windows.history.observed[name].astype(bool)
    last = known.shape[1] - 1 - known[:, ::-1].argmax(1)
    present = as_float(windows.history.observations[name])[np.arange(len(known)), last]
    present[~known.any(axis=1)] = np.nan
    guesses = np.broadcast_arrays(as_float(forecast.mean), present[:, None], middle)
    errors = np.stack([np.square(signal.difference(guess, truth)).sum(-1) / variance for guess in guesses])
    return np.where(windows.known[name].astype(bool) & ~np.isnan(errors).any(0), errors, np.nan)


def _above_zero(case: WorldCase, values: Floats) -> bool:
    """Whether the mean over episodes is above 0 by more than chance and calibration explain."""
    if len(values) < 2:
        return False
    # The horizon was chosen on calibration episodes, whose mean error is as uncertain as this one.
    share = 1.0 if case.num_calibration is None else 1 + len(values) / max(1, case.num_calibration)
    doubt = float(values.std(ddof=1)) * math.sqrt(share / len(values))
    return float(values.mean()) > NormalDist().inv_cdf(1 - case.alpha / case.horizon) * doubt + 1e-9
