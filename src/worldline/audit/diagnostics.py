"""Error, use of the actions and band coverage of any world on held-out episodes, through `World.predict` alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from worldline.audit.queries import LOWEST_LEVEL, inside_band, predicted_vectors, window_forecasts
from worldline.data.windows import ForecastWindows
from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.schema import Signal
from worldline.stats import (
    Curve,
    Estimate,
    Floats,
    Rate,
    cluster_rate,
    draw_clusters,
    ratio_estimate,
    rmse_curve,
    skill_curve,
)
from worldline.world.base import Forecast, World

LEVELS: Final = (0.5, 0.8, 0.9)
"""Levels of measured bands: the highest that the calibration supports."""


@dataclass(frozen=True, kw_only=True)
class ErrorCurve:
    """Open-loop error of a world at each step.

    Args:
        world: name of the world; "" for the world under test.
        signal: a vector signal.
        rmse: root mean square over windows and components, in the signal's unit.
    """

    world: str
    signal: str
    rmse: Curve


@dataclass(frozen=True, kw_only=True)
class SkillCurve:
    """Relative reduction of the error against a baseline, on the same windows.

    Args:
        against: name of the baseline.
        signal: a vector signal.
        skill: 1 - error / error of the baseline; 0 is equal, 1 is perfect, negative is worse.
    """

    against: str
    signal: str
    skill: Curve


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Relative growth of the error when the true actions are replaced.

    Args:
        change: "zeroed" (0, or the nearest allowed value), or "shuffled" (actions of another episode).
        signal: a vector signal; None for all signals together, each divided by its standard deviation.
        increase: relative growth; 0 means that the actions make no difference, 1 that the error doubles.
    """

    change: Literal["zeroed", "shuffled"]
    signal: str | None
    increase: Estimate


@dataclass(frozen=True, kw_only=True)
class Band:
    """Nominal and measured coverage of a simultaneous prediction band.

    Args:
        signal: a vector signal.
        level: nominal share of whole trajectories inside the band, 0 to 1.
        coverage: measured share; its interval accounts for the dependence of windows of one episode.
        width: [T], mean over windows and components, in the signal's unit.
        horizon: median over windows of the last step at which the band is informative.
    """

    signal: str
    level: float
    coverage: Rate
    width: tuple[float, ...]
    horizon: int


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """Results of `diagnose`.

    Args:
        units: unit of each measured signal.
        step_s: seconds per step; None if unknown.
        horizon: T, steps.
        horizons: steps to report, each from 1 to T.
        num_episodes: held-out episodes that were long enough.
        num_short: episodes that were too short and left out.
        num_windows: windows cut from the long episodes.
        errors: curves of the world (`world` is ""), then of the baselines.
        skills: against every baseline.
        gaps: empty if the error of the world is 0.
        bands: one per signal; empty if the world is not calibrated.
    """

    units: Mapping[str, str]
    step_s: float | None
    horizon: int
    horizons: tuple[int, ...]
    num_episodes: int
    num_short: int
    num_windows: int
    errors: tuple[ErrorCurve, ...]
    skills: tuple[SkillCurve, ...]
    gaps: tuple[Gap, ...]
    bands: tuple[Band, ...]

    @property
    def own(self) -> list[ErrorCurve]:
        """The errors of the world under test."""
        return [error for error in self.errors if not error.world]

    def errors_of(self, signal: str) -> dict[str, Curve]:
        """The error of each world that predicts the signal; "" is the world under test."""
        return {error.world: error.rmse for error in self.errors if error.signal == signal}

    def skills_of(self, signal: str) -> dict[str, Curve]:
        """The skill of the signal against each baseline that has one."""
        return {curve.against: curve.skill for curve in self.skills if curve.signal == signal}


def diagnose(
    world: World,
    windows: ForecastWindows,
    *,
    comparisons: Mapping[str, World],
    horizons: Sequence[int],
    level: float | None = LEVELS[-1],
    num_given: int | None = None,
    seed: int,
) -> Diagnostics:
    """Measures `world` on windows of held-out episodes, which it must not have been fitted or calibrated on.

    Args:
        world: world under test.
        windows: see `evenly_spaced_windows`.
        comparisons: baselines to measure on the same windows, by name; "" is reserved.
        horizons: steps to report, each from 1 to T.
        level: of the bands, in (0, 1); None to measure none.
        num_given: episodes including those that were too short for a window; None for the episodes of the windows.
        seed: seed of the bootstrap and the shuffling.

    Raises:
        InputError: the world predicts no vector signal.
    """
    card = world.describe()
    signals = predicted_vectors(world, windows.truth)
    if not signals:
        raise InputError(f"{card.name} predicts no vector signal of these episodes. Fit a readout head first.")
    num_episodes = int(windows.episode.max()) + 1
    weights = draw_clusters(num_episodes, seed)
    clusters = windows.episode, weights
    own = window_forecasts(world, windows, level=level or LOWEST_LEVEL)
    means = {"": _means(own), **{name: _means(window_forecasts(other, windows)) for name, other in comparisons.items()}}
    errors = {name: squared_errors(mean, windows, signals) for name, mean in means.items()}
    return Diagnostics(
        units={signal.name: signal.unit for signal in signals},
        step_s=card.schema.step_s,
        horizon=windows.horizon,
        horizons=tuple(horizons),
        num_episodes=num_episodes,
        num_short=(num_given or num_episodes) - num_episodes,
        num_windows=len(windows.episode),
        errors=tuple(
            ErrorCurve(world=name, signal=signal, rmse=rmse_curve(error, windows.known[signal], *clusters))
            for name, per_signal in errors.items()
            for signal, error in per_signal.items()
        ),
        skills=tuple(_skill_curves(errors, windows, weights)),
        gaps=_gaps(world, errors[""], windows, signals, weights, seed),
        bands=() if level is None else measure_bands(own, windows, signals, level),
    )


def _means(predicted: Mapping[str, Forecast]) -> dict[str, Floats]:
    """Mean [W, T, n] of each predicted vector signal."""
    return {name: forecast.mean.astype(float) for name, forecast in predicted.items()}


def squared_errors(
    means: Mapping[str, Floats], windows: ForecastWindows, signals: Sequence[Signal]
) -> dict[str, Floats]:
    """Squared error [W, T] of each predicted signal, mean over components; 0 at unobserved steps."""
    errors = {}
    for signal in signals:
        if signal.name in means:
            error = signal.difference(means[signal.name], windows.truth[signal.name].astype(float))
            errors[signal.name] = np.where(windows.known[signal.name], (error**2).mean(-1), 0.0)
    return errors


def _skill_curves(
    errors: Mapping[str, Mapping[str, Floats]], windows: ForecastWindows, weights: Floats
) -> Iterator[SkillCurve]:
    """Skill is defined only if the baseline has an error above 0 at every step."""
    for against, (name, own) in product(filter(None, errors), errors[""].items()):
        if (theirs := errors[against].get(name)) is not None:
            skill = skill_curve(own, theirs, windows.known[name], windows.episode, weights)
            if skill is not None:
                yield SkillCurve(against=against, signal=name, skill=skill)


def _gaps(
    world: World,
    true: Mapping[str, Floats],
    windows: ForecastWindows,
    signals: Sequence[Signal],
    weights: Floats,
    seed: int,
) -> tuple[Gap, ...]:
    schema = world.describe().schema
    if not schema.has_choice:
        return ()
    other = rows_of_other_episodes(windows.episode, 1, np.random.default_rng(seed))[:, 0]
    changes: dict[Literal["zeroed", "shuffled"], Arrays] = {
        "zeroed": {name: schema[name].bounded(np.zeros_like(values)) for name, values in windows.actions.items()},
        "shuffled": {name: values[other] for name, values in windows.actions.items()},
    }
    spreads = {name: float(windows.truth[name][windows.known[name]].astype(float).var(0).mean()) for name in true}
    scales = {name: np.array(1 / spread) for name, spread in spreads.items() if spread > 0}
    gaps = []
    for change, actions in changes.items():
        wrong = squared_errors(_means(window_forecasts(world, windows, actions)), windows, signals)
        pairs: dict[str | None, tuple[Floats, Floats]] = {name: (true[name], wrong[name]) for name in true}
        if scales:
            overall = [np.stack([scales[k] * error[k] for k in scales]).sum(0) for error in (true, wrong)]
            pairs = {None: (overall[0], overall[1]), **pairs}
        for name, (before, after) in pairs.items():
            if before.sum() > 0:
                sums = np.stack([after.sum(1), before.sum(1)], 1)
                increase = ratio_estimate(sums, windows.episode, weights, lambda growth: np.sqrt(growth) - 1)
                gaps.append(Gap(change=change, signal=name, increase=increase))
    return tuple(gaps)


def rows_of_other_episodes(
    episode: NDArray[np.integer], num_drawn: int, draw: np.random.Generator
) -> NDArray[np.integer]:
    """Uniformly drawn rows [W, N] of other episodes for each row; some occur twice if there are few.

    Args:
        episode: of each row [W]; sorted.
        num_drawn: N.
        draw: for the draws.
    """
    starts = np.searchsorted(episode, episode)
    sizes = np.searchsorted(episode, episode, side="right") - starts
    drawn = draw.integers(0, (len(episode) - sizes)[:, None], (len(episode), num_drawn))
    # The draw counts the rows of other episodes only, so those from the own episode on are skipped.
    return np.asarray(np.where(drawn >= starts[:, None], drawn + sizes[:, None], drawn))


def measure_bands(
    predicted: Mapping[str, Forecast], windows: ForecastWindows, signals: Sequence[Signal], level: float
) -> tuple[Band, ...]:
    """Coverage and width of the bands of `signals`, without those that have none.

    Args:
        predicted: from `window_forecasts`.
        windows: the windows.
        signals: predicted vector signals.
        level: of the bands.
    """
    bands = []
    for signal in signals:
        forecast = predicted[signal.name]
        if forecast.low is not None and forecast.high is not None:
            coverage = cluster_rate(inside_band(windows, signal, forecast.low, forecast.high), windows.episode)
            width = tuple(map(float, (forecast.high - forecast.low).mean((0, 2))))
            last = int(np.median(forecast.horizon))
            bands.append(Band(signal=signal.name, level=level, coverage=coverage, width=width, horizon=last))
    return tuple(bands)
