"""Effect of a change of an action that is held over the horizon: predicted by the world, and estimated from the logs.

The estimate is a linear regression of the next observation on the history and the action. It is iterated on its own
output while one action is changed at every step (the g-formula for a linear model). This adjusts for every logged
confounder, and for no unlogged one.
Source: Robins (1986), "A new approach to causal inference in mortality studies", section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import copysign, hypot, isfinite
from typing import Final

import numpy as np
from jaxtyping import Float

from worldline.audit.measured import Agreement, Effect
from worldline.audit.queries import window_forecasts
from worldline.audit.regression_rows import LAGS, RegressionRows
from worldline.audit.verdicts import holm
from worldline.data.quality.segments import columns_of, names_of
from worldline.data.windows import ForecastWindows
from worldline.episode import Arrays
from worldline.schema import Kind, Role, Schema, Signal
from worldline.stats import Estimate, Floats, cluster_sums, draw_clusters, ratio, student_quantile
from worldline.world.base import World

NUM_FITS: Final = 300
"""Regressions on resampled episodes."""
RIDGE: Final = 1e-6
MAX_STILL_DEVIATION: Final = 1e-9
"""Standard deviation, relative to the size of a signal, up to which the signal counts as constant."""
MAX_COLUMNS: Final = 300
"""Largest number of regression columns; with more, the fits on resampled episodes would take minutes."""
MIN_EFFECT_SHARE: Final = 0.05
"""Smallest effect that matters, as a share of the signal's standard deviation within the horizon."""
MARGIN: Final = 0.2
"""Largest relative difference of equivalent effects; the linear model of the logs is itself an approximation."""
TEST_LEVEL: Final = 0.05
"""Level of each one-sided test of equivalence, and of all tests for a difference in one table together."""
RESOLUTION: Final = 1e-12
"""Smallest standard error, relative to the size of an effect, so that tests of exact effects are defined."""
NORMAL_QUANTILE: Final = 1.96
"""Standard errors from the mean to either end of the central 95 % of a normal distribution."""


def effect_lags(horizon: int) -> list[int]:
    """The reported steps since a change of an action, up to the horizon."""
    return [lag for lag in (1, 2, 5, 10, 20, 50) if lag <= horizon]


@dataclass(frozen=True, kw_only=True)
class ActionChange:
    """A change of one action component that is held over the horizon.

    Args:
        name: signal and component.
        signal: signal of the action.
        column: column in the table of all actions.
        part: component of a vector; value of a discrete action.
        size: size of the change, in the unit of the action; 1 for a discrete action.
        base: reference value of a discrete action; 0 for a vector.
    """

    name: str
    signal: Signal
    column: int
    part: int
    size: float
    base: int = 0


def changes(schema: Schema, rows: RegressionRows) -> tuple[ActionChange, ...]:
    """One standard deviation for each vector component; each logged value instead of `base` for a discrete action."""
    changed = []
    for signal, columns in columns_of(schema, Role.ACTION).items():
        discrete, own = signal.kind is Kind.DISCRETE, rows.action[:, columns]
        base = _base(own) if discrete else 0
        for part, (name, place) in enumerate(zip(names_of(signal), columns, strict=True)):
            if (spread := float(own[:, part].std())) > 0 and not (discrete and part == base):
                size = 1.0 if discrete else spread
                changed.append(ActionChange(name=name, signal=signal, column=place, part=part, size=size, base=base))
    return tuple(changed)


def _base(columns: Floats) -> int:
    """Reference value: the last one, which has no column; the most frequent one if the last was never logged."""
    return columns.shape[1] if (columns.sum(1) == 0).any() else int(columns.mean(0).argmax())


def log_effects(
    schema: Schema,
    rows: RegressionRows,
    changed: Sequence[ActionChange],
    shares: Float[np.ndarray, "m T"],
    *,
    seed: int,
) -> Float[np.ndarray, "fits m T d"] | None:
    """Effects of each change on each observed component, estimated from the logs; fit 0 uses all episodes.

    Angles are taken relative to the present one, the shorter way round, so that no step jumps by a full turn.

    Args:
        schema: schema of the world.
        rows: rows of the logs; only the randomised ones if enough are flagged.
        changed: M changes.
        shares: change at each of T steps, as a share of its size; see `world_effects`.
        seed: seed of the resampled episodes.

    Returns:
        None if there are too many columns, too few rows, or no change.
    """
    if not changed:
        return None
    present = rows.states[:, -1:]
    # One row per step: the history, the action and the inputs of the step, and a constant.
    states = present + _apart(schema, rows.states, present)
    parts = (states, rows.before, rows.action, rows.inputs, np.ones((len(rows.episode), 1)))
    table = np.concatenate([part.reshape(len(part), -1).astype(float) for part in parts], 1)
    if table.shape[1] > MAX_COLUMNS or len(table) < 5 * table.shape[1]:
        return None
    # Standardized columns make the ridge penalty independent of units; the constant and still columns keep their value.
    centre, scale = table.mean(0), table.std(0)
    centre[-1], scale[scale <= 1e-9 * (1 + np.abs(centre))] = 0.0, 1.0
    table, target = (table - centre) / scale, _apart(schema, rows.after, present[:, 0])
    # Normal equations are sums over episodes, so each resampled fit is a weighted sum of products computed once.
    weights = np.concatenate([np.ones((1, rows.num_episodes)), draw_clusters(rows.num_episodes, seed)[:NUM_FITS]])
    products = _products(table, np.concatenate([table, target], 1), rows)
    matrix, right = np.split(np.tensordot(weights, products, axes=(1, 0)), [table.shape[1]], axis=-1)
    matrix = matrix + RIDGE * len(table) * np.eye(table.shape[1])
    fitted = np.linalg.solve(matrix, right) / scale[:, None]
    paths = _responses(fitted, rows.after.shape[1], rows.action.shape[1], changed, shares)
    for signal, columns in _angles(schema):
        paths[..., columns] = _path(signal, paths[..., columns], np.zeros(1))
    return paths


def _path(signal: Signal, values: Floats, others: Floats) -> Floats:
    """`values` - `others` [..., T, n]; an angle the shorter way round at the first step, then without jumps."""
    paths = np.asarray(signal.difference(values, others))
    return paths if signal.period is None else np.unwrap(paths, axis=-2, period=signal.period)


def _apart(schema: Schema, values: Floats, others: Floats) -> Floats:
    """`values` [..., d] minus `others`; angles the shorter way round."""
    apart = np.array(values - others, dtype=float)
    for signal, columns in _angles(schema):
        apart[..., columns] = signal.difference(apart[..., columns], np.zeros(1))
    return apart


def _angles(schema: Schema) -> list[tuple[Signal, range]]:
    """The periodic signals and their columns."""
    return [pair for pair in columns_of(schema, Role.OBSERVATION).items() if pair[0].period is not None]


def _products(left: Floats, right: Floats, rows: RegressionRows) -> Floats:
    """Sums of products [E, columns, columns] of each episode."""
    each = (rows.episode == number for number in range(rows.num_episodes))
    return np.stack([left[own].T @ right[own] for own in each])


def _responses(fitted: Floats, size: int, width: int, changed: Sequence[ActionChange], shares: Floats) -> Floats:
    """Responses [fits, M, T, d] of the regressions [fits, P, d] to held changes, iterated on their own output."""
    fits, num_states = len(fitted), LAGS * size
    state = np.zeros((fits, len(changed), LAGS, size))
    acts, change = np.zeros((fits, len(changed), LAGS, width)), np.zeros((len(changed), width))
    for m, action in enumerate(changed):
        change[m, action.column] = action.size
        if action.signal.kind is Kind.DISCRETE and action.base < action.signal.size - 1:  # the last value has no column
            change[m, action.column - action.part + action.base] = -1.0
    path = []
    for share in shares.T:
        acts = np.roll(acts, -1, axis=2)
        acts[:, :, -1] = share[:, None] * change
        known = np.concatenate([part.reshape(fits, len(changed), -1) for part in (state, acts)], -1)
        following = state[:, :, -1] + known @ fitted[:, : num_states + LAGS * width]
        following = np.clip(np.nan_to_num(following), -1e12, 1e12)  # a fit on few episodes may be unstable
        state = np.concatenate([state[:, :, 1:], following[:, :, None]], 2)
        path.append(following)
    return np.stack(path, 2)


def world_effects(
    world: World, windows: ForecastWindows, changed: Sequence[ActionChange], signals: Sequence[Signal]
) -> tuple[dict[str, Float[np.ndarray, "m W T n"]], Float[np.ndarray, "m T"]]:
    """Predicted effects of each change at every step, relative to the logged actions.

    A vector is changed to the same side at all steps of a window: the side where its bounds leave more room. Bounds may
    make the change smaller at some steps, so effects are scaled to a change whose mean over the steps is its size. A
    discrete action takes the value at every step, compared with the reference value at every step.

    Args:
        world: world under audit.
        windows: W windows.
        changed: M changes.
        signals: vector observations that the world predicts.

    Returns:
        Effects by signal, empty without changes; and the mean change at each step as a share of its size, for which
        `log_effects` estimates the effects in the logs.
    """
    parts: dict[str, list[Floats]] = {signal.name: [] for signal in signals}
    shares = []
    for action in changed:
        base, other, shift = _changed(windows.actions, action)
        mean_shift = shift.mean(1, keepdims=True)
        shares.append((shift / mean_shift).mean(0))
        factor = action.size / mean_shift
        means = [window_forecasts(world, windows, actions) for actions in (base, other)]
        for signal in signals:
            before, after = (mean[signal.name].mean.astype(float) for mean in means)
            parts[signal.name].append(_path(signal, after, before) * factor[..., None])
    effects = {name: np.stack(paths) for name, paths in parts.items() if paths}
    return effects, np.reshape(shares, (len(changed), windows.horizon))


def _changed(actions: Arrays, change: ActionChange) -> tuple[Arrays, Arrays, Floats]:
    """The reference actions, the changed ones, and the change [W, T] of their component."""
    name = change.signal.name
    if change.signal.kind is Kind.DISCRETE:
        base, other = ({**actions, name: np.full_like(actions[name], value)} for value in (change.base, change.part))
        return base, other, np.ones(actions[name].shape[:2])
    values = actions[name].copy()
    now = values[:, :, change.part].astype(float)
    high = np.inf if change.signal.high is None else change.signal.high[change.part]
    low = -np.inf if change.signal.low is None else change.signal.low[change.part]
    up, down = (np.clip(room, 0.0, change.size) for room in (high - now, now - low))
    values[:, :, change.part] = np.where(up.sum(1, keepdims=True) >= down.sum(1, keepdims=True), now + up, now - down)
    return actions, {**actions, name: values}, values[:, :, change.part].astype(float) - now


def effects_table(
    schema: Schema,
    changed: Sequence[ActionChange],
    predicted: Mapping[str, Floats],
    logged: Floats | None,
    rows: RegressionRows,
    windows: ForecastWindows,
    *,
    lags: Sequence[int],
    identifiable: Mapping[str, bool],
    at_once: bool = False,
    seed: int,
) -> tuple[Effect, ...]:
    """Effects by action, signal and lag, with intervals over episodes.

    "opposite" and "apart" need a difference between world and logs that is significant by a two-sided t test after the
    Holm correction over all identified effects. If the world is right everywhere, the table contains any of these words
    with a probability of at most `TEST_LEVEL`.

    Args:
        schema: schema of the world.
        changed: M changes.
        predicted: effects of `world_effects`.
        logged: result of `log_effects`.
        rows: rows that `logged` was estimated from.
        windows: windows of `predicted`.
        lags: steps since the change began, from 1.
        identifiable: per action component, whether the logs identify its effects.
        at_once: whether only lag 1 is identified. If only some steps are randomised, hidden causes still drive the
            actions of the other steps, and with them what a change of two steps seems to do.
        seed: seed of the bootstrap.
    """
    weights = draw_clusters(int(windows.episode.max()) + 1, seed)
    num_graded, num_logged = (len(np.unique(source.episode)) for source in (windows, rows))
    effects: list[Effect] = []
    p_values: dict[str, float] = {}
    for (m, change), (name, effect) in product(enumerate(changed), predicted.items()):
        signal = schema[name]
        first = columns_of(schema, Role.OBSERVATION)[signal].start
        parts = enumerate(zip(names_of(signal), _spreads(windows, signal), strict=True))
        for (part, (label, spread)), lag in product(parts, lags):
            if not spread:
                continue
            own = _cluster_mean(_means(effect[m, :, lag - 1, part], windows, weights), num_graded)
            logs = None if logged is None else _cluster_mean(logged[:, m, lag - 1, first + part], num_logged)
            agreement: Agreement = "not identifiable"
            if identifiable[change.name] and (lag == 1 or not at_once):
                agreement, p_values[str(len(effects))] = _agreement(own, logs, MIN_EFFECT_SHARE * spread)
            effects.append(
                Effect(
                    action=change.name, signal=label, lag=lag, change=change.size, unit=signal.unit,
                    spread=float(spread), world=own.interval(),
                    logs=None if logs is None else logs.interval(), agreement=agreement,
                )
            )  # fmt: skip
    chance = p_values.keys() - holm(p_values, TEST_LEVEL)
    for number, row in enumerate(effects):
        if row.agreement in ("opposite", "apart") and str(number) in chance:
            effects[number] = replace(row, agreement="not resolved")
    return tuple(effects)


def _spreads(windows: ForecastWindows, signal: Signal) -> Floats:
    """Standard deviation [n] of each component within the horizon of a window; 0 if it is constant there."""
    known = np.repeat(windows.known[signal.name][..., None], signal.size, -1)
    truth = np.where(known, windows.truth[signal.name].astype(float), 0.0)
    first = np.take_along_axis(truth, known.argmax(1)[:, None], 1)  # angles are taken relative to the first known one
    variance = np.ma.masked_array(signal.difference(truth, first), ~known).var(1, ddof=1).mean(0)
    spread = np.sqrt(np.ma.filled(variance, 0.0))
    smallest = MAX_STILL_DEVIATION * (1 + np.abs(truth).max((0, 1)))
    return np.where(spread > smallest, spread, 0.0)


def _means(values: Floats, windows: ForecastWindows, weights: Floats) -> Floats:
    """Mean over the windows [W] with a finite prediction, then its bootstrap draws over episodes; NaN if none has."""
    known = np.isfinite(values)
    parts = np.stack([np.where(known, values, 0.0), known.astype(float)], 1)
    sums = cluster_sums(parts, windows.episode, weights.shape[1])
    draws = np.concatenate([np.ones((1, weights.shape[1])), weights]) @ sums
    return ratio(draws[:, 0], draws[:, 1])


@dataclass(frozen=True, kw_only=True)
class ClusterMean:
    """An estimate over episodes, for t tests.

    Args:
        value: the estimate.
        error: its standard error, above 0.
        degrees: degrees of freedom.
    """

    value: float
    error: float
    degrees: float

    def interval(self) -> Estimate:
        """The estimate with its 95 % interval."""
        half = student_quantile(0.025, self.degrees) * self.error
        return Estimate(value=self.value, low=self.value - half, high=self.value + half)

    def above(self, bound: float, side: float = 1.0) -> float:
        """The p-value against the hypothesis that `side` (1 or -1) times the mean is at most `bound`."""
        from scipy.special import stdtr  # imported here for the reason in `stats.student_quantile`

        return float(stdtr(self.degrees, (bound - side * self.value) / self.error))

    def minus(self, other: ClusterMean, factor: float = 1.0) -> ClusterMean:
        """The difference to `factor` times an independent mean.

        Source: Welch 1947, "The generalization of Student's problem when several different population variances are
            involved".
        """
        own, their = self.error, abs(factor) * other.error
        error = hypot(own, their)
        degrees = 1 / ((own / error) ** 4 / self.degrees + (their / error) ** 4 / other.degrees)
        return ClusterMean(value=self.value - factor * other.value, error=error, degrees=degrees)


def _cluster_mean(draws: Floats, num_episodes: int) -> ClusterMean:
    """The first value. Its standard error comes from the central 95 % of the others: the tails may be unstable fits.

    Student's t is used because percentile intervals of few episodes are too narrow.
    """
    value = float(draws[0])
    if not isfinite(value):
        return ClusterMean(value=np.nan, error=np.nan, degrees=1.0)
    low, high = np.nanquantile(draws[1:], (0.025, 0.975))
    error = max(float(high - low) / (2 * NORMAL_QUANTILE), RESOLUTION * (1 + abs(value)))
    return ClusterMean(value=value, error=error, degrees=max(1, num_episodes - 1))


def _agreement(world: ClusterMean, logs: ClusterMean | None, smallest: float) -> tuple[Agreement, float]:
    """The effect of the world compared with that of the logs, and the p-value of a difference for the Holm correction.

    * "none": two one-sided tests show that the effect in the logs is within `smallest`, the smallest that matters.
    * "not resolved": neither this nor an effect is shown. An effect is shown if its 95 % interval excludes 0.
    * "agrees": two one-sided tests reject a relative difference above `MARGIN`.
    * "opposite", "apart": a two-sided t test shows a difference. It is "opposite" if both 95 % intervals exclude 0, on
      different sides, and the effect of the world matters. Without an effect in the logs it is "apart" if a one-sided
      test also shows that the effect of the world exceeds `smallest`.

    Each one-sided test has level `TEST_LEVEL`.

    Source: Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach for assessing the
        equivalence of average bioavailability".
    """
    if logs is None or not isfinite(world.value):
        return "not resolved", 1.0
    side = copysign(1.0, logs.value)
    difference = world.minus(logs)
    p_value = 2 * min(difference.above(0.0), difference.above(0.0, -1.0))
    if max(logs.above(-smallest), logs.above(-smallest, -1.0)) <= TEST_LEVEL:
        invented = min(world.above(smallest), world.above(smallest, -1.0)) <= TEST_LEVEL
        return ("apart", p_value) if invented else ("none", 1.0)
    if logs.above(0.0, side) > TEST_LEVEL / 2:
        return "not resolved", 1.0
    bounds = world.minus(logs, 1 - MARGIN).above(0.0, side), world.minus(logs, 1 + MARGIN).above(0.0, -side)
    if max(bounds) <= TEST_LEVEL:
        return "agrees", 1.0
    opposite = world.above(0.0, -side) <= TEST_LEVEL / 2 and abs(world.value) >= smallest
    return "opposite" if opposite else "apart", p_value
