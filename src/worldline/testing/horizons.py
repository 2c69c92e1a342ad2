"""The clause on `Forecast.horizon`: the last step with skill over persistence and the mean of the signal."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.testing.clauses import as_float, clause, has_shape, holds
from worldline.testing.log_windows import ROUNDS
from worldline.testing.prediction_case import observed_values
from worldline.testing.world_case import WorldCase
from worldline.world.base import Forecast
from worldline.world.prediction_errors import mean_of

Floats = NDArray[np.floating]

MAX_SKILLED_ERROR: Final = 0.05
"""A squared error below this share of the signal's variance is skill, even if persistence is better."""


@clause("Forecast.horizon; up to this step the world beats persistence and the mean of the signal")
def horizon_honest(case: WorldCase) -> None:
    """Up to `horizon` the world beats persistence and the mean, or is nearly exact; the next step lacks skill."""
    rounds = [replace(case, seed=case.seed + number).windows() for number in range(ROUNDS)]
    answers = list(map(case.predict, rounds))
    calibrated = answers[0].calibrated
    for name in case.card.predicts:
        reached = np.asarray(answers[0].signals[name].horizon)
        has_shape(f"signal {name!r}: horizon", reached, (rounds[0].num_worlds,))
        most = case.horizon if calibrated else 0
        expected = f"0 to {most}" if calibrated else "0 without a calibration"
        holds((reached >= 0) & (reached <= most), f"signal {name!r}: horizon {reached.tolist()}, expected {expected}")
    for name in case.vectors if calibrated else ():
        forecasts = [answer.signals[name] for answer in answers]
        errors = np.stack([_errors(case, name, *pair) for pair in zip(rounds, forecasts, strict=True)], 1)
        reached = np.stack([np.asarray(forecast.horizon) for forecast in forecasts])
        for step in range(case.horizon):
            what = f"signal {name!r}: step {step + 1} is"
            within = _by_episode(errors[..., step], reached > step)
            holds(not _lacks_skill(case, *within), f"{what} within the horizon, but without skill: {_figures(within)}")
            after = _by_episode(errors[..., step], reached == step)
            holds(not _has_skill(case, *after), f"{what} just after the horizon, but with skill: {_figures(after)}")


def _errors(case: WorldCase, name: str, windows: ForecastWindows, forecast: Forecast) -> Floats:
    """Squared errors [3, W, T] in variances of the signal: of the prediction, of persistence and of the mean.

    NaN where the ground truth or the present was not observed.
    """
    signal, truth = case.card.schema[name], as_float(windows.truth[name])
    every = observed_values(case.episodes, name)
    middle = mean_of(signal, every[None])[0]
    squares = np.square(signal.difference(every, middle)).sum(-1)
    variance = max(float(squares.mean()), 1e-12)
    guesses = np.broadcast_arrays(as_float(forecast.mean), _last(windows, name)[:, None], middle)
    errors = np.stack([np.square(signal.difference(guess, truth)).sum(-1) / variance for guess in guesses])
    return np.where(windows.known[name].astype(bool) & ~np.isnan(errors).any(0), errors, np.nan)


def _last(windows: ForecastWindows, name: str) -> Floats:
    """The last observed value [W, size]; NaN if there is none."""
    known: NDArray[np.bool_] = windows.history.observed[name].astype(bool)
    last = known.shape[1] - 1 - known[:, ::-1].argmax(1)
    values: Floats = as_float(windows.history.observations[name])[np.arange(len(known)), last]
    values[~known.any(axis=1)] = np.nan
    return values


def _by_episode(errors: Floats, chosen: NDArray[np.bool_]) -> Floats:
    """Errors [3, R, W] at a step, averaged over the chosen windows [R, W] of each of the episodes that has any."""
    kept = np.where(chosen, errors, np.nan)
    return np.asarray(np.nanmean(kept[:, :, ~np.isnan(kept[0]).all(0)], axis=1))


def _lacks_skill(case: WorldCase, model: Floats, persistence: Floats, mean: Floats) -> bool:
    worse = _above_zero(case, model - persistence) or _above_zero(case, model - mean)
    return worse and _above_zero(case, model - MAX_SKILLED_ERROR)


def _has_skill(case: WorldCase, model: Floats, persistence: Floats, mean: Floats) -> bool:
    least = persistence if _average(persistence) < _average(mean) else mean
    return _above_zero(case, least / 2 - model) or _above_zero(case, MAX_SKILLED_ERROR / 2 - model)


def _above_zero(case: WorldCase, values: Floats) -> bool:
    """Whether the mean over episodes is above 0 by more than chance and calibration explain."""
    if len(values) < 2:
        return False
    # The horizon was chosen on calibration episodes, whose mean error is as uncertain as this one.
    share = 1.0 if case.num_calibration is None else 1 + len(values) / max(1, case.num_calibration)
    doubt = float(values.std(ddof=1)) * math.sqrt(share / len(values))
    return float(values.mean()) > NormalDist().inv_cdf(1 - case.alpha / case.horizon) * doubt + 1e-9


def _average(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _figures(errors: Floats) -> str:
    model, persistence, mean = (f"{_average(values):.3g}" for values in errors)
    return f"the squared error is {model} of the variance, that of persistence {persistence}, of the mean {mean}"
