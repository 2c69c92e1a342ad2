"""How well the history predicts the actions: regressions on all rows, and on the rows where a held action changes.

An action that is held for many rows equals the one before in most of them, which says nothing about its levels. What
counts is whether the history predicts the new level when the action changes, and how often it changes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.data.quality.segments import HeldOut, clipped, names_of, scaled, waves
from worldline.schema import Kind, Schema
from worldline.stats import Floats

RIDGE: Final = 1e-3
MIN_MOVE: Final = 0.1
"""Smallest change of an action, in units of its standard deviation; smaller ones are noise of a held action."""
MIN_CHANGES: Final = 20
"""Number of changes of an action below which its effects are not identifiable."""
ROWS_PER_COLUMN: Final = 3
"""Changes for each column of the history that the regression on changes needs."""


def residuals(
    known: Floats, target: Floats, fold: Int[np.ndarray, "n"], draw: np.random.Generator
) -> tuple[Floats, Floats]:
    """Residuals [n, m] of a linear and of a nonlinear regression; each row is predicted from the other folds.

    Args:
        known: [n, P] the history.
        target: [n, m] the actions.
        fold: of each row.
        draw: for the nonlinear features.
    """
    table = np.clip(scaled(clipped(known)), -6, 6)
    bending = np.concatenate([table, waves(table, min(150, len(table) // 10), draw)], 1)
    return _left(table, target, fold), _left(bending, target, fold)


def _left(table: Floats, target: Floats, fold: Int[np.ndarray, "n"]) -> Floats:
    """Residuals of held-out predictions, clipped to the logged range, which limits extrapolation."""
    every = np.arange(table.shape[1]), np.arange(target.shape[1])
    guess = target - HeldOut(table, target, fold).residual(*every, RIDGE)
    return np.asarray(target - np.clip(guess, target.min(0), target.max(0)))


def better(first: Floats, second: Floats) -> Floats:
    """The residuals with the smaller mean square, for each component."""
    return np.where((second**2).mean(0) < (first**2).mean(0), second, first)


def changes(action: Floats, before: Floats, schema: Schema) -> Bool[np.ndarray, "n m"]:
    """Whether each component of the action differs from the one before; a discrete signal changes as a whole.

    Args:
        action: [n, m] actions of all signals without images.
        before: [n, m] the actions one step earlier.
        schema: of the signals.
    """
    moved = np.asarray(np.abs(action - before) > MIN_MOVE * action.std(0))
    first = 0
    for signal in (action for action in schema.actions if action.kind is not Kind.IMAGE):
        columns = slice(first, first + len(names_of(signal)))
        if signal.kind is Kind.DISCRETE:
            moved[:, columns] = moved[:, columns].any(1, keepdims=True)
        first = columns.stop
    return moved


def residuals_at_changes(
    known: Floats,
    target: Floats,
    changed: Bool[np.ndarray, "n m"],
    fold: Int[np.ndarray, "n"],
    draw: np.random.Generator,
) -> Float[np.ndarray, "n m"]:
    """Residuals of regressions on the rows where a component changes; NaN in other rows.

    NaN in all rows of a component that changes in every row, or too rarely for a regression.

    Args:
        known: see `residuals`.
        target: see `residuals`.
        changed: see `changes`.
        fold: see `residuals`.
        draw: see `residuals`.
    """
    at_changes = np.full(target.shape, np.nan)
    needed = max(MIN_CHANGES, ROWS_PER_COLUMN * known.shape[1])
    for k, there in enumerate(changed.T):
        if needed <= there.sum() < len(there):
            own = residuals(known[there], target[there, k : k + 1], fold[there], draw)
            at_changes[there, k] = better(*own)[:, 0]
    return at_changes
