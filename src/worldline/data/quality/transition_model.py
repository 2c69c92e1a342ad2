"""A robust linear model of one step, with which parts of a log are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.quality.segments import Segment
from worldline.schema import Kind, Schema
from worldline.stats import Floats

LAGS: Final = 3
"""Observations and inputs from which the model predicts."""
TRIMMED: Final = 0.05
"""Share of the steps that the model is not fitted to."""
MIN_KNOWN: Final = 0.5
"""Smallest share of the rows in which a signal is usually observed."""
MIN_USABLE: Final = 0.3
"""With a smaller share of steps without a missing value, missing values count as observed."""
RIDGE: Final = 1e-6
NUM_FITS: Final = 4


@dataclass(frozen=True, kw_only=True)
class ComponentName:
    """One component of a vector observation: name of the signal, and index of the component."""

    signal: str
    index: int


def step_tables(tracks: Sequence[Segment], schema: Schema) -> tuple[list[ComponentName], list[Segment]]:
    """The components of vector observations that vary and are no angles, and segments with these columns, by episode.

    Args:
        tracks: segments of one schema, at most one per episode.
        schema: of the log.
    """
    # Angles would jump at their period, and images and discrete signals have no linear law.
    vectors = [s.name for s in schema.observations if s.kind is Kind.VECTOR and s.period is None]
    long = sorted((part for part in tracks if len(part.actions) > 2 * LAGS), key=lambda part: part.number)
    if not long or not vectors:
        return [], []
    # Without gaps and constant columns.
    states = np.concatenate([part.table for part in long])
    middle = np.nanmedian(states, axis=0) if states.size else 0.0  # NaN before the first observation of an episode
    moving = np.flatnonzero(np.where(np.isnan(states), middle, states).std(0) > 0)
    columns = long[0].columns
    chosen = [at for at in moving.tolist() if columns[at] in vectors]
    names = [ComponentName(signal=columns[at], index=at - columns.index(columns[at])) for at in chosen]
    # A signal that is seldom observed does not exclude rows.
    usual = [name for name in vectors if np.concatenate([part.known[name] for part in long]).mean() >= MIN_KNOWN]
    tables = []
    for part in long:
        table = replace(part, table=np.where(np.isnan(part.table), middle, part.table)).with_columns(chosen)
        tables.append(replace(table, known={name: part.known[name] for name in usual}, pictures={}))
    if np.concatenate([_usable(table) for table in tables]).mean() < MIN_USABLE:
        tables = [replace(table, known={}) for table in tables]
    return names, tables


def _usable(table: Segment) -> NDArray[np.bool_]:
    """Whether the values of each step of `TransitionModel.residual` are known, [steps]."""
    return np.asarray(np.lib.stride_tricks.sliding_window_view(table.whole, LAGS + 1).all(1))


def _inputs(table: Segment, shift: int = 0) -> Floats:
    """What the model predicts each step from: observation, inputs and action of `LAGS` rows, the last one first."""
    count = len(table.actions)
    parts = list[Floats]()
    for at in (np.arange(LAGS - 1, count) - lag for lag in range(LAGS)):
        parts += [table.table[at], table.inputs[at], table.actions[np.clip(at + shift, 0, count - 1)]]
    return np.concatenate(parts, 1)


class TransitionModel:
    """Predicts the change in one step from the last observations and inputs, linearly.

    Args:
        tables: to fit to; the steps that fit worst are left out.
        within: whether to fit to deviations from the means of each table, so that tables may differ in level.
    """

    def __init__(self, tables: Sequence[Segment], *, within: bool = False) -> None:
        self.spread = np.concatenate([table.table for table in tables]).std(0)
        raw = np.concatenate([_inputs(table) for table in tables])
        self._middle, spread = raw.mean(0), raw.std(0)
        self._spread = np.where(spread > 0, spread, 1.0)
        features = np.concatenate([part - within * part.mean(0) for part in map(self._features, tables)])
        change = np.concatenate([part - within * part.mean(0) for part in map(self._change, tables)])
        # Fits and drops the steps that fit worst, so that faults in the log do not become part of the law.
        usable = np.flatnonzero(np.concatenate([_usable(table) for table in tables]))
        kept = usable
        for _ in range(NUM_FITS):
            gram = features[kept].T @ features[kept] + RIDGE * len(kept) * np.eye(features.shape[1])
            self.weights: Floats = np.linalg.solve(gram, features[kept].T @ change[kept])
            residual = np.abs(change[usable] - features[usable] @ self.weights)
            self.noise: Floats = 1.4826 * np.median(residual, axis=0) + 1e-6
            worst = (residual / self.noise).max(1)
            kept = usable[worst <= np.quantile(worst, 1 - TRIMMED)]

    def _features(self, table: Segment, shift: int = 0) -> Floats:
        features = (_inputs(table, shift) - self._middle) / self._spread
        return np.concatenate([features, np.ones((len(features), 1))], 1)

    def _change(self, table: Segment) -> Floats:
        return np.asarray(np.diff(table.table[LAGS - 1 :], axis=0) / self.spread)

    def surprise(self, table: Segment, shift: int = 0) -> Floats:
        """The logarithm of one plus the squared residual of each step from `LAGS - 1` on, [steps, C].

        Args:
            table: in the units of the log.
            shift: rows by which actions are taken later.
        """
        return np.asarray(np.log1p(np.square(self.residual(table, shift) / self.noise)))

    def residual(self, table: Segment, shift: int = 0) -> Floats:
        """The residual of each step from `LAGS - 1` on, [steps, C], in standard deviations; see `surprise`.

        It is 0 if a value is missing.
        """
        return np.asarray((self._change(table) - self._features(table, shift) @ self.weights) * _usable(table)[:, None])

    def latest(self, table: Segment) -> Floats:
        """The last observation, exogenous signals and action of each step of `residual`, standardised."""
        return self._features(table)[:, : (len(self._middle) // LAGS)]
