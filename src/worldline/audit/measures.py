"""What an audit asks a world beside its diagnosis: leaks, trusted horizons, exact coverage, rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from worldline.audit.audit_evidence import JointCoverage, LeakCheck, Rank, Trusted
from worldline.audit.cases import Cases, cut, forecasts, spread
from worldline.audit.diagnostics import Diagnostics
from worldline.episode import Arrays, Episode, History
from worldline.schema import Kind, Signal
from worldline.stats import tails, wilson
from worldline.world.base import Forecast, Prediction, World

EXACT: Final = 1e-5
"""Share of a deviation that is rounding."""
ROUNDING: Final = 8 * float(np.finfo(np.float32).eps)
"""What arithmetic in float32 may change, relative to the largest value."""
NUM_LEAK: Final = 32
GATE: Final = 0.05
"""Of a signal's variance: an error below it is nothing to beat; it must only not be exceeded by as much."""
RARE: Final = 0.005
"""Chance of a count of trajectories at which a promise is broken, shared by the signals."""
HALF: Final = 0.5
"""Share of the windows of which a band without an end makes it one that says nothing."""
COLLAPSED: Final = 0.05
BLIND: Final = "action_blind"
STAYS: Final = "persistence"
MOVED: Final = 0.01
"""Error, as a share of the size of a signal that never moves (of 1 where that is 0), from which a world moves it."""


def leak_check(world: World, cases: Cases) -> LeakCheck:
    """Whether predictions up to a step change with the actions after it, for some steps of the horizon.

    A change counts as the share of the deviation over windows that it makes, so that no offset hides it.

    Args:
        world: under audit.
        cases: at least two windows; the first 32 are taken.
    """
    few = _first(cases, NUM_LEAK)
    horizon = next(iter(few.actions.values())).shape[1]
    base = _predict(world, few, few.actions)
    count, worst, where = 0, 0.0, ""
    for step in sorted({1, horizon // 2, horizon - 1} - {0, horizon}):
        other = _predict(world, few, {k: _otherwise(v, step) for k, v in few.actions.items()})
        for name, one in base.signals.items():
            for before, after in _told(one, other.signals[name]):
                apart = _apart(before[:, :step].astype(float), after[:, :step].astype(float))
                count += apart.size
                if float(apart.max()) > worst:
                    worst, where = float(apart.max()), name
    return LeakCheck(num_checked=count, worst=worst, signal=where, leaks=worst > EXACT)


def _told(one: Forecast, other: Forecast) -> list[tuple[NDArray[np.generic], NDArray[np.generic]]]:
    """Means and edges of two forecasts, in pairs."""
    pairs = [(one.mean, other.mean), (one.low, other.low), (one.high, other.high)]
    return [(before, after) for before, after in pairs if before is not None and after is not None]


def _apart(early: NDArray[np.floating], late: NDArray[np.floating]) -> NDArray[np.floating]:
    """Differences of [W, T, *shape] over the deviation of `early` over windows; 0 where they are rounding.

    Each component of a vector has its own deviation. Where that is 0 the largest value stands for it.
    """
    told = np.ma.masked_invalid(early)
    axes = (0, 1) if early.ndim == 3 else None
    size = np.abs(told).max(axes)
    deviation = np.sqrt(told.var(0).mean(0 if early.ndim == 3 else None))
    size, deviation = (np.ma.filled(one, 0.0) for one in (size, deviation))
    scale = np.where(deviation > ROUNDING * size, deviation, np.where(size > 0, size, 1.0))
    same = (early == late) | (np.isnan(early) & np.isnan(late))
    apart = np.abs(np.subtract(late, early, where=~same, out=np.zeros_like(early)))
    apart = np.nan_to_num(apart, nan=np.inf, posinf=np.inf)
    return np.where(apart > ROUNDING * size, apart, 0.0) / scale


def _otherwise(values: NDArray[np.generic], step: int) -> NDArray[np.generic]:
    """From `step` on the actions of another window, backwards in time, so that held ones differ too."""
    changed = values.copy()
    changed[:, step:] = np.roll(values, 1, axis=0)[:, step:][:, ::-1]
    return changed


def _first(cases: Cases, count: int) -> Cases:
    """The first windows."""
    past = cases.history
    return replace(
        cases,
        history=History(
            observations=_rows(past.observations, count),
            actions=_rows(past.actions, count),
            exogenous=_rows(past.exogenous, count),
            observed=_rows(past.observed, count),
        ),
        actions=_rows(cases.actions, count),
        exogenous=_rows(cases.exogenous, count),
        truth=_rows(cases.truth, count),
        known={name: value[:count] for name, value in cases.known.items()},
        episode=cases.episode[:count],
    )


def _rows(arrays: Arrays, count: int) -> dict[str, NDArray[np.generic]]:
    return {name: value[:count] for name, value in arrays.items()}


def _predict(world: World, cases: Cases, actions: Arrays) -> Prediction:
    return world.predict(cases.history, actions, exogenous=dict(cases.exogenous) or None)


def trusted_horizons(
    found: Diagnostics, deviation: Mapping[str, float], size: Mapping[str, float]
) -> tuple[Trusted, ...]:
    """Per signal the last step up to which the world beats what is trivial, at every step.

    It has to beat persistence, and the action-blind copy where knowing the actions helps a line; it must not be shown
    to be worse than the line itself, which nothing beats where the law is linear. Where a comparison errs by less than
    a twentieth of the signal's variance there is nothing to beat, and it must only not do better. Of a signal that
    never moves nothing is told, unless the world moves it.

    Args:
        found: of the graded episodes, with comparisons, persistence among them.
        deviation: of each signal; 0 for one that never moves.
        size: the largest absolute value of each signal.
    """
    rmse = {(one.world, one.signal): np.array(one.rmse.value) for one in found.errors}
    told = []
    for signal in dict.fromkeys(one.signal for one in found.errors if not one.world):
        if not deviation.get(signal):
            moved = ~(rmse["", signal] <= MOVED * (size[signal] or 1.0)) & ~np.isnan(rmse[STAYS, signal])
            if moved.any():
                told.append(Trusted(signal=signal, steps=0, of=found.horizon, stops=STAYS))
            continue
        last, stops = found.horizon, ""
        small = np.sqrt(GATE) * deviation[signal]
        fine: dict[str, NDArray[np.bool_]] = {}
        for one in (one for one in found.skills if one.signal == signal):
            theirs, high = rmse[one.against, signal], np.array(one.skill.high)
            nothing = (theirs < small) | (one.against == "linear")
            if one.against == BLIND and ("linear", signal) in rmse:
                nothing |= rmse["linear", signal] > (1 - GATE) * theirs
            fine[one.against] = np.where(nothing, high >= -GATE, np.array(one.skill.low) > 0) | np.isnan(theirs)
        for against in (name for name, other in rmse if name and other == signal and name not in fine):
            theirs, own = rmse[against, signal], rmse["", signal]  # exact at some step, so that no share can be told
            fine[against] = np.where(theirs < small, own <= small, own < theirs) | np.isnan(theirs)
        for against, good in fine.items():
            steps = int(np.argmin(good)) if not good.all() else found.horizon
            if steps < last:
                last, stops = steps, against
        told.append(Trusted(signal=signal, steps=last, of=found.horizon, stops=stops))
    return tuple(told)


def joint_coverage(
    world: World, cases: Cases, signals: Sequence[Signal], *, level: float, num_calibration: int | None, seed: int
) -> tuple[JointCoverage, ...]:
    """How many whole trajectories lie inside the band, one window an episode, so that the law of the count is exact.

    Args:
        world: under audit.
        cases: windows of episodes.
        signals: vector observations that the world predicts.
        level: of the band.
        num_calibration: episodes that set the widths; None where that is not known, and the level is taken as exact.
        seed: which window of each episode.
    """
    draw = np.random.default_rng([seed, 13])
    kept = np.array([int(draw.choice(np.flatnonzero(cases.episode == one))) for one in np.unique(cases.episode)])
    predicted = forecasts(world, cases, cases.actions, level=level)
    alpha, told = RARE / max(len(signals), 1), []
    for signal in signals:
        low, high = predicted[signal.name].low, predicted[signal.name].high
        if low is None or high is None:
            continue
        with np.errstate(invalid="ignore"):  # a band without ends has no middle
            middle = (low + high) / 2
        truth = middle + signal.difference(cases.truth[signal.name].astype(float), middle)
        truth = np.where(np.isfinite(middle), truth, 0.0)  # a band without an end holds everything
        known = cases.known[signal.name]
        outside = (~((truth >= low) & (truth <= high))).any(-1) & known  # NaN holds nothing
        inside = ~np.asarray(outside.any(-1))[kept[np.asarray(known.any(-1))[kept]]]
        if not len(inside):
            continue
        count, trials = int(inside.sum()), len(inside)
        endless = float(np.isinf(np.asarray(high - low)).any((1, 2))[kept].mean()) > HALF
        chance = tails(count, trials, level, num_calibration)
        told.append(
            JointCoverage(
                signal=signal.name,
                level=level,
                inside=wilson(count, trials),
                too_few=chance.low,
                too_many=chance.high,
                verdict="narrow" if chance.low < alpha else "wide" if chance.high < alpha or endless else "holds",
            )
        )
    return tuple(told)


def rank_of(world: World, cases: Cases, signals: Sequence[Signal]) -> Rank:
    """In how many directions what is predicted varies over windows, beside what happened.

    Args:
        world: under audit.
        cases: windows.
        signals: vector observations that the world predicts.
    """
    predicted, tables = forecasts(world, cases, cases.actions, level=0.9), []
    for source in ("predicted", "real"):
        parts = []
        for signal in signals:
            known = cases.known[signal.name][..., None]
            truth = np.where(known, cases.truth[signal.name].astype(float), 0.0)
            mean = np.where(known, predicted[signal.name].mean.astype(float), 0.0)
            deviation = signal.deviations(truth).std((0, 1))
            one = signal.deviations(mean if source == "predicted" else truth)
            parts.append((one / np.where(deviation > 0, deviation, 1.0))[:, 0])
        tables.append(np.concatenate(parts, 1))
    share = float(tables[0].var(0).sum() / max(float(tables[1].var(0).sum()), 1e-12))
    return Rank(
        predicted=participation(tables[0]),
        real=participation(tables[1]),
        num_components=tables[0].shape[1],
        spread=share,
        collapsed=share < COLLAPSED,
    )


def participation(table: Float[np.ndarray, "n d"]) -> float:
    """Participation ratio of the variances along the principal axes; 0 where nothing varies.

    Source: Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement", section 2.
    """
    covariance = np.atleast_2d(np.cov(table.T))
    squares = float((covariance**2).sum())
    return float(np.trace(covariance) ** 2 / squares) if squares > 1e-20 else 0.0


def one_step_errors(
    world: World, episodes: Sequence[Episode], signals: Sequence[Signal], *, context: int, per_episode: int
) -> tuple[Float[np.ndarray, "k d"], Int[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """What was observed less what was expected one step before it, with its episode and observation index.

    Args:
        world: under audit.
        episodes: graded; those that are too short are left out.
        signals: vector observations that the world predicts.
        context: observations given.
        per_episode: windows from each.
    """
    long = [number for number, one in enumerate(episodes) if one.num_steps >= context]
    cases = cut([episodes[number] for number in long], context=context, horizon=1, per_episode=per_episode)
    predicted, parts = forecasts(world, cases, cases.actions, level=0.9), []
    for signal in signals:
        mean = predicted[signal.name].mean[:, 0].astype(float)
        error = signal.difference(cases.truth[signal.name][:, 0].astype(float), mean)
        parts.append(np.where(cases.known[signal.name][:, :1], error, np.nan))
    places = [_presents(episodes[number], context, per_episode) for number in long]
    return (
        np.concatenate(parts, 1),
        np.array(long)[cases.episode],
        np.concatenate(places) + 1,
    )


def _presents(episode: Episode, context: int, per_episode: int) -> Int[np.ndarray, "k"]:
    """The index of the present in each window, as `cut` spreads them."""
    return np.array(spread(episode.num_steps, context, 1, per_episode))


def vectors(world: World, cases: Cases) -> list[Signal]:
    """The vector observations that the world predicts and the windows hold."""
    card = world.describe()
    return [
        s
        for s in card.schema.observations
        if s.kind is Kind.VECTOR and s.name in card.predicts and s.name in cases.truth
    ]
