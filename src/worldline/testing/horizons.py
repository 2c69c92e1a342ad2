"""The clause on `Forecast.horizon`: the last step with skill over persistence and the mean of the signal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows as Cut
from worldline.testing.clauses import Clause, as_float
from worldline.testing.log_windows import ROUNDS, observed_of
from worldline.testing.world_case import WorldCase
from worldline.world.base import Forecast
from worldline.world.prediction_errors import mean_of

Floats = NDArray[np.floating]

MAX_SKILLED_ERROR: Final = 0.05
"""A squared error below this share of the signal's variance is skill, even if persistence is better."""

HORIZON = Clause(
    name="world.horizon",
    look="Forecast.horizon; up to this step the world beats persistence and the mean of the signal",
)


@dataclass(frozen=True, kw_only=True)
class Skill:
    """Squared errors in variances of the signal, of W windows or of E episodes at one step.

    NaN where the ground truth or the present was not observed.

    Args:
        model: of the predicted mean.
        persistence: of the last observed value.
        mean: of the mean of the signal.
    """

    model: Floats
    persistence: Floats
    mean: Floats


@dataclass(frozen=True, kw_only=True)
class HorizonRound:
    """Skill and stated horizons on one window of each episode.

    Args:
        skill: [W, T].
        horizon: stated by the world [W], 0 to T.
    """

    skill: Skill
    horizon: NDArray[np.integer]


def horizon_honest(case: WorldCase) -> None:
    """Up to `horizon` the world beats persistence and the mean, or is nearly exact; the next step lacks skill."""
    cut = case.cut()
    prediction = case.predict(cut)
    for name in case.card.predicts:
        reached = np.asarray(prediction.signals[name].horizon)
        problem = f"signal {name!r}: horizon {reached.tolist()} for T = {case.horizon} and W = {cut.num_worlds}"
        HORIZON.holds(reached.shape == (cut.num_worlds,), problem)
        HORIZON.holds(bool((reached >= 0).all() and (reached <= case.horizon).all()), problem)
        problem = f"signal {name!r}: the horizon is {reached.max()}, expected 0 without a calibration"
        HORIZON.holds(prediction.calibrated or bool((reached == 0).all()), problem)
    if not prediction.calibrated or not case.vectors:
        return
    more = [replace(case, seed=case.seed + number).cut() for number in range(1, ROUNDS)]
    answers = [(cut, prediction), *((each, case.predict(each)) for each in more)]
    for name in case.vectors:
        rounds = [_round(case, name, each, answer.signals[name]) for each, answer in answers]
        for step in range(case.horizon):
            within = _by_episode(rounds, step, [one.horizon > step for one in rounds])
            worse = _above_zero(case, within.model - within.persistence) or _above_zero(
                case, within.model - within.mean
            )
            problem = f"signal {name!r}: step {step + 1} is within the horizon, but without skill: {_figures(within)}"
            HORIZON.holds(not (worse and _above_zero(case, within.model - MAX_SKILLED_ERROR)), problem)
            after = _by_episode(rounds, step, [one.horizon == step for one in rounds])
            least = after.persistence if _average(after.persistence) < _average(after.mean) else after.mean
            better = _above_zero(case, least / 2 - after.model) or _above_zero(
                case, MAX_SKILLED_ERROR / 2 - after.model
            )
            problem = f"signal {name!r}: step {step + 1} is just after the horizon, but with skill: {_figures(after)}"
            HORIZON.holds(not better, problem)


def _round(case: WorldCase, name: str, cut: Cut, forecast: Forecast) -> HorizonRound:
    """The errors and stated horizons on one window of each episode."""
    signal, truth = case.card.schema[name], as_float(cut.truth[name])
    every = np.concatenate(
        [as_float(episode.observations[name])[observed_of(episode, name)] for episode in case.episodes]
    )
    middle = mean_of(signal, every[None])[0]
    variance = max(float(np.square(signal.difference(every, middle)).sum(-1).mean()), 1e-12)

    def error(values: Floats) -> Floats:
        found = np.square(signal.difference(values, truth)).sum(-1) / variance
        return np.where(cut.known[name].astype(bool), found, np.nan)

    return HorizonRound(
        skill=Skill(
            model=error(as_float(forecast.mean)), persistence=error(_last(cut, name)[:, None]), mean=error(middle)
        ),
        horizon=np.asarray(forecast.horizon),
    )


def _last(cut: Cut, name: str) -> Floats:
    """The last observed value [W, size]; NaN if there is none."""
    known: NDArray[np.bool_] = cut.history.observed[name].astype(bool)
    last = known.shape[1] - 1 - known[:, ::-1].argmax(1)
    found: Floats = as_float(cut.history.observations[name])[np.arange(len(known)), last]
    found[~known.any(axis=1)] = np.nan
    return found


def _by_episode(rounds: Sequence[HorizonRound], step: int, chosen: Sequence[NDArray[np.bool_]]) -> Skill:
    """The errors at a step, averaged over the chosen windows of each episode that has any."""

    def mean(values: Sequence[Floats]) -> Floats:
        kept = np.stack([np.where(some, value[:, step], np.nan) for some, value in zip(chosen, values, strict=True)])
        return np.asarray(np.nanmean(kept[:, ~np.isnan(kept).all(0)], axis=0))

    parts = [one.skill for one in rounds]
    return Skill(
        model=mean([part.model for part in parts]),
        persistence=mean([part.persistence for part in parts]),
        mean=mean([part.mean for part in parts]),
    )


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


def _figures(skill: Skill) -> str:
    return (
        f"the squared error is {_average(skill.model):.3g} of the variance, that of persistence "
        f"{_average(skill.persistence):.3g}, of the mean {_average(skill.mean):.3g}"
    )
