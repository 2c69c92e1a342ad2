"""A robust linear model of one step, with which parts of a log are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.quality.segments import Segment, names_of
from worldline.schema import Kind, Schema

Floats = NDArray[np.floating]

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
class StepTable:
    """The numeric columns of a segment.

    Args:
        number: of the episode.
        start: first step in the episode.
        states: [T+1, C] components of vector observations.
        actions: [T, m].
        inputs: [T, e].
        known: [T+1] whether no value is missing that is usually observed. Missing values repeat the last one.
    """

    number: int
    start: int
    states: Floats
    actions: Floats
    inputs: Floats
    known: NDArray[np.bool_]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Whether the values of each step of `TransitionModel.residual` are known, [steps]."""
        return np.asarray(np.lib.stride_tricks.sliding_window_view(self.known, LAGS + 1).all(1))


@dataclass(frozen=True, kw_only=True)
class ComponentName:
    """One component of a vector observation: name of the signal, and index of the component."""

    signal: str
    index: int


def step_tables(tracks: Sequence[Segment], schema: Schema) -> tuple[list[ComponentName], list[StepTable]]:
    """The components of vector observations that vary and are no angles, and the tables of segments, by episode.

    Args:
        tracks: segments of one schema, at most one per episode.
        schema: of the log.
    """
    # The columns of vectors; angles would jump at their period, and images and discrete signals have no linear law.
    names, columns, index = list[ComponentName](), list[int](), 0
    for signal in schema.observations:
        if signal.kind is Kind.IMAGE:
            continue
        width = len(names_of(signal))
        if signal.kind is Kind.VECTOR and signal.period is None:
            names += [ComponentName(signal=signal.name, index=number) for number in range(width)]
            columns += range(index, index + width)
        index += width
    tracks = [segment for segment in tracks if len(segment.actions) > 2 * LAGS]
    tracks.sort(key=lambda segment: segment.number)
    if not tracks or not columns:
        return [], []
    # Without gaps and constant columns.
    states = [segment.table[:, columns] for segment in tracks]
    middle = np.nanmedian(np.concatenate(states), axis=0)  # NaN before the first observation of an episode
    states = [np.where(np.isnan(table), middle, table) for table in states]
    moving = np.flatnonzero(np.concatenate(states).std(0) > 0)
    # A signal that is seldom observed does not exclude rows.
    signals = dict.fromkeys(component.signal for component in names)
    masks = {signal: [segment.known[signal] for segment in tracks] for signal in signals}
    usual = [parts for parts in masks.values() if np.concatenate(parts).mean() >= MIN_KNOWN]
    tables = [
        StepTable(
            number=segment.number,
            start=segment.start,
            states=table[:, moving],
            actions=segment.actions,
            inputs=segment.inputs,
            known=np.all([parts[at] for parts in usual], axis=0) if usual else np.ones(len(table), np.bool_),
        )
        for at, (segment, table) in enumerate(zip(tracks, states, strict=True))
    ]
    if np.concatenate([segment.usable for segment in tables]).mean() < MIN_USABLE:
        tables = [replace(segment, known=np.ones_like(segment.known)) for segment in tables]
    return [names[at] for at in moving], tables


class TransitionModel:
    """Predicts the change in one step from the last observations and inputs, linearly.

    Args:
        tables: to fit to; the steps that fit worst are left out.
        within: whether to fit to deviations from the means of each table, so that tables may differ in level.
    """

    def __init__(self, tables: Sequence[StepTable], *, within: bool = False) -> None:
        self._scales = [_scale([getattr(table, part) for table in tables]) for part in ("states", "actions", "inputs")]
        self.spread = self._scales[0][1]
        scaled = [self._standardised(table) for table in tables]
        features, change = (
            np.concatenate([part - within * part.mean(0) for part in parts])
            for parts in ([_features(table, 0) for table in scaled], [_change(table) for table in scaled])
        )
        # Fits and drops the steps that fit worst, so that faults in the log do not become part of the law.
        usable = np.flatnonzero(np.concatenate([table.usable for table in tables]))
        kept = usable
        for _ in range(NUM_FITS):
            gram = features[kept].T @ features[kept] + RIDGE * len(kept) * np.eye(features.shape[1])
            self.weights: Floats = np.linalg.solve(gram, features[kept].T @ change[kept])
            residual = np.abs(change[usable] - features[usable] @ self.weights)
            self.noise: Floats = 1.4826 * np.median(residual, axis=0) + 1e-6
            worst = (residual / self.noise).max(1)
            kept = usable[worst <= np.quantile(worst, 1 - TRIMMED)]

    def _standardised(self, table: StepTable) -> StepTable:
        """The table in the units of the model."""
        parts = (table.states, table.actions, table.inputs)
        states, actions, inputs = (
            (part - middle) / spread for part, (middle, spread) in zip(parts, self._scales, strict=True)
        )
        return replace(table, states=states, actions=actions, inputs=inputs)

    def surprise(self, table: StepTable, shift: int = 0) -> Floats:
        """The logarithm of one plus the squared residual of each step from `LAGS - 1` on, [steps, C].

        Args:
            table: in the units of the log.
            shift: rows by which actions are taken later.
        """
        return np.asarray(np.log1p(np.square(self.residual(table, shift) / self.noise)))

    def residual(self, table: StepTable, shift: int = 0) -> Floats:
        """The residual of each step from `LAGS - 1` on, [steps, C], in the units of the model; see `surprise`.

        It is 0 if a value is missing.
        """
        table = self._standardised(table)
        return np.asarray((_change(table) - _features(table, shift) @ self.weights) * table.usable[:, None])

    def latest(self, table: StepTable) -> Floats:
        """The last observation, exogenous signals and action of each step of `residual`, in the units of the model."""
        table, now = self._standardised(table), slice(LAGS - 1, len(table.actions))
        return np.concatenate([table.states[now], table.inputs[now], table.actions[now]], 1)


def _scale(tables: Sequence[Floats]) -> tuple[Floats, Floats]:
    every = np.concatenate(tables)
    spread = every.std(0)
    return every.mean(0), np.where(spread > 0, spread, 1.0)


def _change(table: StepTable) -> Floats:
    return np.diff(table.states[LAGS - 1 :], axis=0)


def _features(table: StepTable, shift: int) -> Floats:
    """What the model predicts from, one row per step: all past states come first."""
    count = len(table.actions)
    now = np.arange(LAGS - 1, count)
    parts = [table.states[now - lag] for lag in range(LAGS)] + [table.inputs[now - lag] for lag in range(LAGS)]
    parts += [table.actions[np.clip(now - lag + shift, 0, count - 1)] for lag in range(LAGS)]
    return np.concatenate([*parts, np.ones((len(now), 1))], 1)
