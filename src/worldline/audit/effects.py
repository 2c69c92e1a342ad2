"""Effect of one change of an action: predicted by the world, and estimated from the logs.

The estimate is a linear regression of the next observation on the history and the action. It is iterated on its own
output after a change of one action, with later actions held fixed (the g-formula for a linear model). This adjusts for
every logged confounder, and for no unlogged one.
Source: Robins (1986), "A new approach to causal inference in mortality studies", section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.audit.audit_evidence import Agreement, Effect
from worldline.audit.queries import window_forecasts
from worldline.audit.regression_rows import LAGS, RegressionRows, state_columns
from worldline.data.quality.segments import names_of
from worldline.data.windows import ForecastWindows
from worldline.episode import Arrays
from worldline.schema import Kind, Schema, Signal
from worldline.stats import Estimate, Floats, cluster_sums, draw_clusters, ratio
from worldline.world.base import World

NUM_FITS: Final = 300
"""Regressions on resampled episodes."""
RIDGE: Final = 1e-6
MAX_STILL_DEVIATION: Final = 1e-9
"""Standard deviation, relative to the size of a signal, up to which the signal counts as constant."""
MAX_COLUMNS: Final = 300
"""Largest number of regression columns; with more, the fits on resampled episodes would take minutes."""
MIN_EFFECT_SHARE: Final = 0.05
"""Smallest effect that is compared, as a share of the signal's standard deviation."""
MARGIN: Final = 0.2
"""Largest relative difference of equivalent effects; the linear model of the logs is itself an approximation."""
TEST_LEVEL: Final = 0.05
"""Significance level of each of the two one-sided tests of equivalence."""


@dataclass(frozen=True, kw_only=True)
class ActionChange:
    """A change of one action component for one step.

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
    found, column = [], 0
    for signal in (one for one in schema.actions if one.kind is not Kind.IMAGE):
        names = names_of(signal)
        own = rows.action[:, column : column + len(names)]
        base = 0 if signal.kind is not Kind.DISCRETE else _base(own)
        for part, name in enumerate(names):
            size = float(own[:, part].std())
            if signal.kind is Kind.DISCRETE:
                size = float(size > 0 and part != base)
            found.append(ActionChange(name=name, signal=signal, column=column + part, part=part, size=size, base=base))
        column += len(names)
    return tuple(one for one in found if one.size > 0)


def _base(columns: Floats) -> int:
    """Reference value: the last one, which has no column; the most frequent one if the last was never logged."""
    return columns.shape[1] if (columns.sum(1) == 0).any() else int(columns.mean(0).argmax())


def log_effects(
    schema: Schema, rows: RegressionRows, changed: Sequence[ActionChange], horizon: int, *, seed: int
) -> Float[np.ndarray, "fits m T d"] | None:
    """Effects of each change on each observed component, estimated from the logs; fit 0 uses all episodes.

    Angles are taken relative to the present one, the shorter way round, so that no step jumps by a full turn.

    Args:
        schema: schema of the world.
        rows: rows of the logs; only the randomised ones if enough are flagged.
        changed: M changes.
        horizon: T.
        seed: seed of the resampled episodes.

    Returns:
        None if there are too many columns, too few rows, or no change.
    """
    if not changed:
        return None
    present = rows.states[:, -1:]
    states = present + _apart(schema, rows.states, present)
    flat = (one.reshape(len(one), -1) for one in (states, rows.before, rows.action, rows.inputs))
    table = np.concatenate([*(part.astype(float) for part in flat), np.ones((len(rows.episode), 1))], 1)
    if table.shape[1] > MAX_COLUMNS or len(table) < 5 * table.shape[1]:
        return None
    size = rows.after.shape[1]
    centre, scale = table.mean(0), table.std(0)
    centre[-1], scale[scale <= 1e-9 * (1 + np.abs(centre))] = 0.0, 1.0
    table, target = (table - centre) / scale, _apart(schema, rows.after, present[:, 0])
    weights = np.concatenate([np.ones((1, rows.num_episodes)), draw_clusters(rows.num_episodes, seed)[:NUM_FITS]])
    products = _products(table, np.concatenate([table, target], 1), rows)
    matrix, right = np.split(np.tensordot(weights, products, axes=(1, 0)), [table.shape[1]], axis=-1)
    matrix = matrix + RIDGE * len(table) * np.eye(table.shape[1])
    fitted = np.linalg.solve(matrix, right) / scale[:, None]
    found = _impulses(fitted, size, rows.action.shape[1], changed, horizon)
    return _apart(schema, found, np.zeros(size))  # the same convention as `world_effects`


def _apart(schema: Schema, values: Floats, others: Floats) -> Floats:
    """`values` [..., d] minus `others`; angles the shorter way round."""
    found = np.array(values - others, dtype=float)
    for signal in schema.observations:
        if signal.period is not None:
            columns = state_columns(schema, signal.name)
            found[..., columns] = signal.difference(found[..., columns], np.zeros(1))
    return found


def _products(left: Floats, right: Floats, rows: RegressionRows) -> Floats:
    """Sums of products [E, columns, columns] of each episode."""
    found = np.zeros((rows.num_episodes, left.shape[1], right.shape[1]))
    for number in np.unique(rows.episode):
        own = rows.episode == number
        found[number] = left[own].T @ right[own]
    return found


def _impulses(fitted: Floats, size: int, width: int, changed: Sequence[ActionChange], horizon: int) -> Floats:
    """Impulse responses [fits, M, T, d] of the regressions [fits, P, d], iterated on their own output."""
    fits, num_states = len(fitted), LAGS * size
    state = np.zeros((fits, len(changed), LAGS, size))
    acts = np.zeros((fits, len(changed), LAGS, width))
    for m, one in enumerate(changed):
        acts[:, m, -1, one.column] = one.size
        if one.signal.kind is Kind.DISCRETE and one.base < one.signal.size - 1:  # the last value has no column
            acts[:, m, -1, one.column - one.part + one.base] = -1.0
    path = []
    for _ in range(horizon):
        known = np.concatenate([state.reshape(fits, len(changed), -1), acts.reshape(fits, len(changed), -1)], -1)
        following = state[:, :, -1] + known @ fitted[:, : num_states + LAGS * width]
        following = np.clip(np.nan_to_num(following), -1e12, 1e12)  # a fit on few episodes may be unstable
        state = np.concatenate([state[:, :, 1:], following[:, :, None]], 2)
        acts = np.concatenate([acts[:, :, 1:], np.zeros((fits, len(changed), 1, width))], 2)
        path.append(following)
    return np.stack(path, 2)


def world_effects(
    world: World, windows: ForecastWindows, changed: Sequence[ActionChange], signals: Sequence[Signal]
) -> dict[str, Float[np.ndarray, "m W T n"]]:
    """Predicted effects of each change at the first step, relative to the logged actions.

    A vector is changed towards the side where its bounds allow it. The effect is scaled to the size of the change.

    Args:
        world: world under audit.
        windows: W windows.
        changed: M changes.
        signals: vector observations that the world predicts.

    Returns:
        Effects by signal; empty without changes.
    """
    if not changed:
        return {}
    found: dict[str, list[Floats]] = {signal.name: [] for signal in signals}
    for one in changed:
        other, shift = _changed(windows.actions, one)
        base, factor = windows.actions, np.asarray(ratio(np.full_like(shift, one.size), shift))
        if one.signal.kind is Kind.DISCRETE:
            base, factor = _chosen(windows.actions, one.signal, one.base), np.ones(len(shift))
        means = [window_forecasts(world, windows, actions) for actions in (base, other)]
        for signal in signals:
            before, after = (mean[signal.name].mean.astype(float) for mean in means)
            found[signal.name].append(signal.difference(after, before) * factor[:, None, None])
    return {name: np.stack(parts) for name, parts in found.items()}


def _changed(actions: Arrays, one: ActionChange) -> tuple[dict[str, NDArray[np.generic]], Floats]:
    """The actions with the first step changed, and the size of the change [W]."""
    if one.signal.kind is Kind.DISCRETE:
        return _chosen(actions, one.signal, one.part), np.ones(len(actions[one.signal.name]))
    values = actions[one.signal.name].copy()
    now = values[:, 0, one.part].astype(float)
    high = np.inf if one.signal.high is None else one.signal.high[one.part]
    low = -np.inf if one.signal.low is None else one.signal.low[one.part]
    up = high - now >= np.minimum(now - low, one.size)
    to = np.where(up, np.minimum(now + one.size, high), np.maximum(now - one.size, low))
    values[:, 0, one.part] = to
    return {**actions, one.signal.name: values}, values[:, 0, one.part].astype(float) - now


def _chosen(actions: Arrays, signal: Signal, value: int) -> dict[str, NDArray[np.generic]]:
    """The actions with this value of a discrete action at the first step."""
    values = actions[signal.name].copy()
    values[:, 0] = value
    return {**actions, signal.name: values}


def effects_table(
    schema: Schema,
    changed: Sequence[ActionChange],
    found: Mapping[str, Floats],
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

    Args:
        schema: schema of the world.
        changed: M changes.
        found: result of `world_effects`.
        logged: result of `log_effects`.
        rows: rows of the logs.
        windows: windows of `found`.
        lags: steps after the change, from 1.
        identifiable: per action component, whether the logs identify its effects.
        at_once: whether only lag 1 is identified. If only some steps are randomised, hidden causes still drive the
            actions of later steps.
        seed: seed of the bootstrap.
    """
    weights = draw_clusters(int(windows.episode.max()) + 1, seed)
    effects = []
    for m, one in enumerate(changed):
        for name, effect in found.items():
            columns, signal = state_columns(schema, name), schema[name]
            for part, label in enumerate(names_of(signal)):
                column = columns.start + part
                spread = float(signal.deviations(rows.after[:, column, None]).std())
                if spread <= MAX_STILL_DEVIATION * (1 + float(np.abs(rows.after[:, column]).max())):
                    continue  # the signal is constant
                for lag in lags:
                    own = _means(effect[m, :, lag - 1, part], windows, weights)
                    fits = None if logged is None else logged[:, m, lag - 1, column]
                    known = identifiable[one.name] and (lag == 1 or not at_once)
                    effects.append(
                        Effect(
                            action=one.name, signal=label, lag=lag, change=one.size, unit=signal.unit, spread=spread,
                            world=_quantiles(own), logs=None if fits is None else _quantiles(fits),
                            agreement=_agreement(own, fits, spread) if known else "not identifiable",
                        )
                    )  # fmt: skip
    return tuple(effects)


def _means(values: Floats, windows: ForecastWindows, weights: Floats) -> Floats:
    """Mean over the changeable windows [W], then its bootstrap draws over episodes; NaN if there is none."""
    known = np.isfinite(values)
    parts = np.stack([np.where(known, values, 0.0), known.astype(float)], 1)
    sums = cluster_sums(parts, windows.episode, weights.shape[1])
    draws = np.concatenate([np.ones((1, weights.shape[1])), weights]) @ sums
    return ratio(draws[:, 0], draws[:, 1])


def _quantiles(draws: Floats) -> Estimate:
    """The first value, with the 95 % interval of the others."""
    if not np.isfinite(draws[0]):
        return Estimate(value=np.nan, low=np.nan, high=np.nan)
    return Estimate.around(float(draws[0]), *np.nanquantile(draws[1:], (0.025, 0.975)))


def _agreement(own: Floats, fits: Floats | None, spread: float) -> Agreement:
    """Compares the effect of the world with that of the logs; each is the effect, then its draws.

    Effects agree if two one-sided tests reject a relative difference above `MARGIN`. They are apart if their difference
    is significant. Otherwise more logs are needed.

    Source: Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach for assessing the
        equivalence of average bioavailability".
    """
    if fits is None or not np.isfinite(own[0]):
        return "unclear"
    world, logs, smallest = _quantiles(own), _quantiles(fits), MIN_EFFECT_SHARE * spread
    if logs.low * logs.high <= 0 or abs(logs.value) < smallest:
        if logs.high - logs.low > 4 * smallest:
            return "unclear"
        invented = (
            abs(world.value) > 2 * smallest and world.low * world.high > 0 and not logs.low <= world.value <= logs.high
        )
        return "apart" if invented else "none"
    if world.low * world.high > 0 and world.value * logs.value < 0 and abs(world.value) >= smallest:
        return "opposite"
    count = min(len(own), len(fits))
    ours, theirs = (np.sign(logs.value) * draws[1:count] for draws in (own, fits))
    above = np.nanquantile(ours - (1 - MARGIN) * theirs, TEST_LEVEL) > 0
    below = np.nanquantile(ours - (1 + MARGIN) * theirs, 1 - TEST_LEVEL) < 0
    if above and below:
        return "agrees"
    low, high = np.nanquantile(ours - theirs, (TEST_LEVEL / 2, 1 - TEST_LEVEL / 2))
    return "apart" if low * high > 0 else "unclear"
