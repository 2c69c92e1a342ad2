"""Measures of an audit: leak of future actions, trusted horizons, exact band coverage, effective rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from worldline.audit.diagnostics import Diagnostics
from worldline.audit.measured import JointCoverage, LeakCheck, Rank, Trusted
from worldline.audit.queries import LOWEST_LEVEL, inside_band, predicted_vectors, window_forecasts
from worldline.data.windows import ForecastWindows, evenly_spaced, evenly_spaced_windows
from worldline.episode import Arrays, Episode
from worldline.schema import Signal
from worldline.stats import Floats, tails, wilson
from worldline.world.base import Prediction, World

MAX_ROUNDING_SHARE: Final = 1e-5
"""Share of a standard deviation up to which a difference counts as rounding."""
ROUNDING: Final = 8 * float(np.finfo(np.float32).eps)
"""Rounding of float32 arithmetic, relative to the largest value."""
MAX_LEAK_WINDOWS: Final = 32
GATE: Final = 0.05
"""Share of a signal's variance below which the error of a baseline is negligible.

The world need not beat a negligible error. Its skill may be worse than 0 by at most this share.
"""
MAX_FALSE_ALARM: Final = 0.005
"""Significance level of the coverage test, divided by the number of signals (Bonferroni)."""
MAX_UNBOUNDED_SHARE: Final = 0.5
"""Share of windows with an unbounded band above which the band counts as too wide."""
MIN_VARIANCE_SHARE: Final = 0.05
"""Share of the variance of the observations below which predictions hardly depend on the history."""
ACTION_BLIND: Final = "action_blind"
PERSISTENCE: Final = "persistence"
MAX_STILL_ERROR: Final = 0.01
"""Relative error from which a world wrongly moves a constant signal; absolute if the signal is 0."""


def leak_check(world: World, windows: ForecastWindows) -> LeakCheck:
    """Tests at some steps of the horizon whether predictions up to the step depend on later actions.

    A difference is divided by the standard deviation over windows, so that a constant offset does not hide it.

    Args:
        world: world under audit.
        windows: at least two windows; the first 32 are used.
    """
    few = windows.select(slice(MAX_LEAK_WINDOWS))
    base = _predict(world, few, few.actions)
    count, worst, where = 0, 0.0, ""
    for step in sorted({1, few.horizon // 2, few.horizon - 1} - {0, few.horizon}):
        # Later actions come from another window, reversed in time.
        later = {name: np.roll(values, 1, axis=0)[:, step:][:, ::-1] for name, values in few.actions.items()}
        actions = {name: np.concatenate([values[:, :step], later[name]], 1) for name, values in few.actions.items()}
        other = _predict(world, few, actions)
        for name, part in product(base.signals, ("mean", "low", "high")):
            before, after = (getattr(answer.signals[name], part) for answer in (base, other))
            if before is not None and after is not None:
                apart = _apart(before[:, :step].astype(float), after[:, :step].astype(float))
                count += apart.size
                if float(apart.max()) > worst:
                    worst, where = float(apart.max()), name
    return LeakCheck(num_checked=count, worst=worst, signal=where, leaks=worst > MAX_ROUNDING_SHARE)


def _apart(early: NDArray[np.floating], late: NDArray[np.floating]) -> NDArray[np.floating]:
    """Differences [W, T, *shape] divided by the standard deviation of `early` over windows; 0 for rounding.

    Each component of a vector has its own deviation. If it is 0, the largest absolute value replaces it.
    """
    finite = np.ma.masked_invalid(early)
    axes = (0, 1) if early.ndim == 3 else None
    size = np.abs(finite).max(axes)
    deviation = np.sqrt(finite.var(0).mean(0 if early.ndim == 3 else None))
    size, deviation = (np.ma.filled(masked, 0.0) for masked in (size, deviation))
    scale = np.where(deviation > ROUNDING * size, deviation, np.where(size > 0, size, 1.0))
    same = (early == late) | (np.isnan(early) & np.isnan(late))
    apart = np.abs(np.subtract(late, early, where=~same, out=np.zeros_like(early)))
    apart = np.nan_to_num(apart, nan=np.inf, posinf=np.inf)
    return np.where(apart > ROUNDING * size, apart, 0.0) / scale


def _predict(world: World, windows: ForecastWindows, actions: Arrays) -> Prediction:
    return world.predict(windows.history, actions, exogenous=dict(windows.exogenous) or None, level=LOWEST_LEVEL)


def trusted_horizons(
    measured: Diagnostics, deviation: Mapping[str, float], size: Mapping[str, float]
) -> tuple[Trusted, ...]:
    """The last step of each signal up to which the world beats the baselines at every step.

    * The world must beat persistence.
    * It must beat the action-blind model if actions reduce the error of a linear model.
    * It must not be significantly worse than the linear model, which is optimal for linear dynamics.
    * If the error of a baseline is negligible (see `GATE`), the world must only not be worse.
    * A constant signal is left out, unless the world wrongly moves it.

    Args:
        measured: diagnostics of the graded episodes; its baselines include persistence.
        deviation: standard deviation of each signal; 0 for a constant signal.
        size: largest absolute value of each signal.
    """
    trusted = []
    for signal in (error.signal for error in measured.own):
        rmse = {world: np.array(error.value) for world, error in measured.errors_of(signal).items()}
        own = rmse.pop("")
        if not deviation.get(signal):
            still = own <= MAX_STILL_ERROR * (size[signal] or 1.0)  # NaN is not still
            if (~still & ~np.isnan(rmse[PERSISTENCE])).any():
                trusted.append(Trusted(signal=signal, steps=0, of=measured.horizon, stops=PERSISTENCE))
            continue
        last, stops = measured.horizon, ""
        small = np.sqrt(GATE) * deviation[signal]
        skills = measured.skills_of(signal)
        # Baselines with skill come first: in a tie of horizons, the first one stops it.
        for against, theirs in sorted(rmse.items(), key=lambda baseline: baseline[0] not in skills):
            if against in skills:
                low, high = np.array(skills[against].low), np.array(skills[against].high)
                negligible = (theirs < small) | (against == "linear")
                if against == ACTION_BLIND and "linear" in rmse:
                    negligible |= rmse["linear"] > (1 - GATE) * theirs
                good = np.where(negligible, high >= -GATE, low > 0)
            else:  # the baseline is exact at some step, so there is no skill
                good = np.where(theirs < small, own <= small, own < theirs)
            bad_steps = np.flatnonzero(~(good | np.isnan(theirs)))
            if len(bad_steps) and bad_steps[0] < last:
                last, stops = int(bad_steps[0]), against
        trusted.append(Trusted(signal=signal, steps=last, of=measured.horizon, stops=stops))
    return tuple(trusted)


def joint_coverage(
    world: World, windows: ForecastWindows, *, level: float | None, num_calibration: int | None, seed: int
) -> tuple[JointCoverage, ...]:
    """Counts the whole trajectories inside the band, with exact tail probabilities.

    Only one window per episode is counted: windows of one episode are dependent.

    Args:
        world: world under audit.
        windows: of at least one episode.
        level: level of the band; None without bands.
        num_calibration: episodes that calibrated the band; None if unknown, then the level is taken as exact.
        seed: chooses the window of each episode.
    """
    if level is None:
        return ()
    draw = np.random.default_rng([seed, 13])
    rows = [np.flatnonzero(windows.episode == number) for number in np.unique(windows.episode)]
    kept = np.array([int(draw.choice(row)) for row in rows])
    predicted, signals = window_forecasts(world, windows, level=level), predicted_vectors(world, windows.truth)
    alpha, counts = MAX_FALSE_ALARM / max(len(signals), 1), []
    for signal in signals:
        low, high = predicted[signal.name].low, predicted[signal.name].high
        if low is None or high is None:
            continue
        known = np.asarray(windows.known[signal.name].any(-1))
        inside = inside_band(windows, signal, low, high)[kept[known[kept]]]
        if not len(inside):
            continue
        count, trials = int(inside.sum()), len(inside)
        unbounded = np.isinf(np.asarray(high - low)).any((1, 2))[kept]
        endless = float(unbounded.mean()) > MAX_UNBOUNDED_SHARE
        chance = tails(count, trials, level, num_calibration)
        counts.append(
            JointCoverage(
                signal=signal.name,
                level=level,
                inside=wilson(count, trials),
                too_few=chance.low,
                too_many=chance.high,
                verdict="narrow" if chance.low < alpha else "wide" if chance.high < alpha or endless else "holds",
            )
        )
    return tuple(counts)


def rank_of(world: World, windows: ForecastWindows, signals: Sequence[Signal]) -> Rank:
    """Effective rank over windows of one-step predictions and of the ground truth.

    Args:
        world: world under audit.
        windows: at least one.
        signals: vector observations that the world predicts.
    """
    means = {name: forecast.mean for name, forecast in window_forecasts(world, windows).items()}
    predicted, real = (_first_steps(windows, signals, values) for values in (means, windows.truth))
    share = float(predicted.var(0).sum() / max(float(real.var(0).sum()), 1e-12))
    return Rank(
        predicted=participation(predicted),
        real=participation(real),
        num_components=predicted.shape[1],
        spread=share,
        collapsed=share < MIN_VARIANCE_SHARE,
    )


def _first_steps(windows: ForecastWindows, signals: Sequence[Signal], values: Arrays) -> Floats:
    """The values at the first step [W, components], divided by the standard deviations of the truth; 0 if unknown."""
    parts = []
    for signal in signals:
        known = windows.known[signal.name][..., None]
        own, truth = (np.where(known, source[signal.name].astype(float), 0.0) for source in (values, windows.truth))
        deviation = signal.deviations(truth).std((0, 1))
        parts.append((signal.deviations(own) / np.where(deviation > 0, deviation, 1.0))[:, 0])
    return np.concatenate(parts, 1)


def participation(table: Float[np.ndarray, "n d"]) -> float:
    """Participation ratio of the variances along the principal axes; 0 for a constant table.

    Source: Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement", section 2.
    """
    covariance = np.atleast_2d(np.cov(table.T))
    squares = float((covariance**2).sum())
    return float(np.trace(covariance) ** 2 / squares) if squares > 1e-20 else 0.0


def one_step_errors(
    world: World, episodes: Sequence[Episode], signals: Sequence[Signal], *, context: int, per_episode: int
) -> tuple[Float[np.ndarray, "k d"], Int[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """One-step prediction errors, with the episode and the observation index of each.

    Args:
        world: world under audit.
        episodes: graded episodes; those that are too short are left out.
        signals: vector observations that the world predicts.
        context: H, observations given.
        per_episode: windows per episode.

    Returns:
        Observation minus prediction; NaN where it was not observed.
    """
    long = {number: episode for number, episode in enumerate(episodes) if episode.num_steps >= context}
    windows = evenly_spaced_windows(list(long.values()), length=context, horizon=1, per_episode=per_episode)
    predicted, parts = window_forecasts(world, windows), []
    for signal in signals:
        mean = predicted[signal.name].mean[:, 0].astype(float)
        error = signal.difference(windows.truth[signal.name][:, 0].astype(float), mean)
        parts.append(np.where(windows.known[signal.name][:, :1], error, np.nan))
    presents = [evenly_spaced(episode.num_steps, context, 1, per_episode) for episode in long.values()]
    return np.concatenate(parts, 1), np.array(list(long))[windows.episode], np.concatenate(presents) + 1
