"""What one change of an action does, as the world predicts it and as the logs tell it.

In the logs: a linear regression of the next observation on the history and the action, over every row, and what it
says of a change of one action when it is applied to itself with all later actions held (the g-formula for a linear
law). Whatever of the history moves both the action and the outcome is thereby adjusted for; what was not logged is not.
Source: Robins (1986), "A new approach to causal inference in mortality studies", section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.audit.audit_evidence import Effect, Told
from worldline.audit.cases import Cases, forecasts
from worldline.audit.regression_rows import LAGS, RegressionRows, state_columns
from worldline.data.quality.segments import names_of
from worldline.episode import Arrays
from worldline.schema import Kind, Schema, Signal
from worldline.stats import Estimate, Floats, cluster_sums, draw_clusters, ratio
from worldline.world.base import World

NUM_FITS: Final = 300
"""Regressions on resampled episodes."""
RIDGE: Final = 1e-6
STILL: Final = 1e-9
"""Deviation, beside the size of a signal, at which it never moves."""
MAX_COLUMNS: Final = 300
"""Columns beyond which the logs are not regressed: fits of resampled episodes would take minutes."""
MATERIAL: Final = 0.05
"""Of a signal's deviation: what moves it less is no effect worth judging a world by."""
NEAR: Final = 0.35
"""Of the logs' effect: a world that is off by less is not called apart, since a line is not the law either."""


@dataclass(frozen=True, kw_only=True)
class ActionChange:
    """One component of an action, changed for one step.

    Args:
        name: signal and component.
        signal: its signal.
        column: in the table of all actions.
        part: component of a vector; value of a choice.
        size: of the change, in its unit; 1 for a choice.
        base: the value that a choice is changed from; 0 for a vector.
    """

    name: str
    signal: Signal
    column: int
    part: int
    size: float
    base: int = 0


def changes(schema: Schema, rows: RegressionRows) -> tuple[ActionChange, ...]:
    """One deviation of each component of a vector; each logged value of a choice in the place of `base`."""
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
    """The value that others are compared with: the last, which has no column; where it was never logged, the usual."""
    return columns.shape[1] if (columns.sum(1) == 0).any() else int(columns.mean(0).argmax())


def log_effects(
    schema: Schema, rows: RegressionRows, changed: Sequence[ActionChange], horizon: int, *, seed: int
) -> Float[np.ndarray, "fits m T d"] | None:
    """What the logs say of each change on each number that is observed; the first fit is of all episodes.

    Angles are told from the present one, the shorter way round, so that no step is a jump of a whole turn.

    Args:
        schema: of the world.
        rows: of the logs; where enough are flagged as randomised, give those alone.
        changed: M changes.
        horizon: T.
        seed: of the resampled episodes.

    Returns:
        None where there are too many columns or too few rows, or nothing is changed.
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
    sums = np.tensordot(weights, products, axes=(1, 0))
    matrix, right = sums[..., : table.shape[1]], sums[..., table.shape[1] :]
    matrix = matrix + RIDGE * len(table) * np.eye(table.shape[1])
    fitted = np.linalg.solve(matrix, right) / scale[:, None]
    found = _impulses(fitted, size, rows.action.shape[1], changed, horizon)
    return _apart(schema, found, np.zeros(size))  # as `world_effects` tells those of a world


def _apart(schema: Schema, values: Floats, others: Floats) -> Floats:
    """`values` [..., d] less others; of angles the shorter way round."""
    found = np.array(values - others, dtype=float)
    for signal in schema.observations:
        if signal.period is not None:
            columns = state_columns(schema, signal.name)
            found[..., columns] = signal.difference(found[..., columns], np.zeros(1))
    return found


def _products(left: Floats, right: Floats, rows: RegressionRows) -> Floats:
    """Per episode the sums of products [E, columns, columns]."""
    found = np.zeros((rows.num_episodes, left.shape[1], right.shape[1]))
    for number in np.unique(rows.episode):
        own = rows.episode == number
        found[number] = left[own].T @ right[own]
    return found


def _impulses(fitted: Floats, size: int, width: int, changed: Sequence[ActionChange], horizon: int) -> Floats:
    """The regressions [fits, P, d] applied to their own output after a change of one action: [fits, M, T, d]."""
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
        following = np.clip(np.nan_to_num(following), -1e12, 1e12)  # a fit of few episodes may run away
        state = np.concatenate([state[:, :, 1:], following[:, :, None]], 2)
        acts = np.concatenate([acts[:, :, 1:], np.zeros((fits, len(changed), 1, width))], 2)
        path.append(following)
    return np.stack(path, 2)


def world_effects(
    world: World, cases: Cases, changed: Sequence[ActionChange], signals: Sequence[Signal]
) -> dict[str, Float[np.ndarray, "m W T n"]]:
    """What the world predicts of each change at the first step, beside the actions that were logged.

    A vector is changed to where there is room, and what is found is scaled to the size of the change.

    Args:
        world: under audit.
        cases: W windows.
        changed: M changes.
        signals: vector observations that the world predicts.

    Returns:
        By signal; empty where nothing is changed.
    """
    if not changed:
        return {}
    found: dict[str, list[Floats]] = {signal.name: [] for signal in signals}
    for one in changed:
        other, shift = _changed(cases.actions, one)
        base, factor = cases.actions, np.asarray(ratio(np.full_like(shift, one.size), shift))
        if one.signal.kind is Kind.DISCRETE:
            base, factor = _chosen(cases.actions, one.signal, one.base), np.ones(len(shift))
        means = [forecasts(world, cases, actions, level=0.9) for actions in (base, other)]
        for signal in signals:
            before, after = (mean[signal.name].mean.astype(float) for mean in means)
            found[signal.name].append(signal.difference(after, before) * factor[:, None, None])
    return {name: np.stack(parts) for name, parts in found.items()}


def _changed(actions: Arrays, one: ActionChange) -> tuple[dict[str, NDArray[np.generic]], Floats]:
    """The actions with the first step changed, and by how much [W]."""
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
    """The actions with this value of a choice at the first step."""
    values = actions[signal.name].copy()
    values[:, 0] = value
    return {**actions, signal.name: values}


def effects_table(
    schema: Schema,
    changed: Sequence[ActionChange],
    found: Mapping[str, Floats],
    logged: Floats | None,
    rows: RegressionRows,
    cases: Cases,
    *,
    lags: Sequence[int],
    identifiable: Mapping[str, bool],
    at_once: bool = False,
    seed: int,
) -> tuple[Effect, ...]:
    """Action by signal by lag, with intervals over episodes.

    Args:
        schema: of the world.
        changed: M changes.
        found: from `world_effects`.
        logged: from `log_effects`.
        rows: of the logs.
        cases: that `found` is of.
        lags: steps after the change began, from 1.
        identifiable: per action component, whether the logs can tell.
        at_once: whether they can tell only what follows in the next step: where `logged` is of steps drawn at random
            among others, what is hidden still drives the later ones.
        seed: of the bootstrap.
    """
    weights = draw_clusters(int(cases.episode.max()) + 1, seed)
    told = []
    for m, one in enumerate(changed):
        for name, effect in found.items():
            columns, signal = state_columns(schema, name), schema[name]
            for part, label in enumerate(names_of(signal)):
                column = columns.start + part
                spread = float(signal.deviations(rows.after[:, column, None]).std())
                if spread <= STILL * (1 + float(np.abs(rows.after[:, column]).max())):
                    continue  # it never moves
                for lag in lags:
                    own = _mean(effect[m, :, lag - 1, part], cases, weights)
                    theirs = None if logged is None else _quantiles(logged[:, m, lag - 1, column])
                    know = identifiable[one.name] and (lag == 1 or not at_once)
                    told.append(
                        Effect(
                            action=one.name, signal=label, lag=lag, change=one.size, unit=signal.unit, spread=spread,
                            world=own, logs=theirs, told=_told(own, theirs, spread) if know else "not identifiable",
                        )
                    )  # fmt: skip
    return tuple(told)


def _mean(values: Floats, cases: Cases, weights: Floats) -> Estimate:
    """The mean [W] over the windows that could be changed, with its interval over episodes; NaN where none could."""
    known = np.isfinite(values)
    if not known.any():
        return Estimate(value=np.nan, low=np.nan, high=np.nan)
    parts = np.stack([np.where(known, values, 0.0), known.astype(float)], 1)
    sums = cluster_sums(parts, cases.episode, weights.shape[1])
    draws = weights @ sums
    value = float(ratio(sums[:, 0].sum(keepdims=True), sums[:, 1].sum(keepdims=True))[0])
    low, high = np.nanquantile(ratio(draws[:, 0], draws[:, 1]), (0.025, 0.975))
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))


def _quantiles(fits: Floats) -> Estimate:
    """The first fit, with the interval of the others."""
    low, high = np.quantile(fits[1:], (0.025, 0.975))
    value = float(fits[0])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))


def _told(own: Estimate, logs: Estimate | None, spread: float) -> Told:
    """How the world's effect compares with that of the logs."""
    if logs is None:
        return "unclear"
    least = MATERIAL * spread
    if logs.low * logs.high <= 0 or abs(logs.value) < least:
        if logs.high - logs.low > 4 * least:
            return "unclear"
        made_up = abs(own.value) > 2 * least and own.low * own.high > 0 and not logs.low <= own.value <= logs.high
        return "apart" if made_up else "none"
    if own.low * own.high > 0 and own.value * logs.value < 0 and abs(own.value) >= least:
        return "opposite"
    overlap = own.low <= logs.high and logs.low <= own.high
    return "agrees" if overlap or abs(own.value - logs.value) <= NEAR * abs(logs.value) else "apart"
