"""Ridge regressions on held-out episodes, and how well the history predicts the actions.

An action that is held for many rows equals the one before in most of them, which says nothing about its levels. What
counts is whether the history predicts the new level when the action changes, and how often it changes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.data.quality.segments import columns_of
from worldline.schema import Kind, Role, Schema
from worldline.stats import Floats

NUM_FOLDS: Final = 5
RIDGE: Final = 1e-3
MIN_MOVE: Final = 0.1
"""Smallest change of an action, in units of its standard deviation; smaller ones are noise of a held action."""
MIN_CHANGES: Final = 20
"""Number of changes of an action below which its effects are not identifiable."""
ROWS_PER_COLUMN: Final = 3
"""Changes for each column of the history that the regression on changes needs."""


class HeldOut:
    """Cross-validated ridge regressions on any columns of a table; each residual is from a fit without its row.

    Args:
        inputs: [n, P]; scaled here.
        targets: [n, q].
        fold: [n] which of `NUM_FOLDS` parts each row belongs to; a row is predicted from the other parts.
    """

    def __init__(self, inputs: Floats, targets: Floats, fold: Int[np.ndarray, "n"]) -> None:
        deviation = inputs.std(0)
        scores = (inputs - inputs.mean(0)) / np.where(deviation > 0, deviation, 1.0)
        self._inputs = np.concatenate([scores, np.ones((len(inputs), 1))], 1)
        self._targets, self._rows = targets, [np.flatnonzero(fold == part) for part in range(NUM_FOLDS)]
        # Products of each part, so that a fit without a part and on some columns needs no pass over the rows.
        self._squares = np.stack([self._inputs[rows].T @ self._inputs[rows] for rows in self._rows])
        self._products = np.stack([self._inputs[rows].T @ targets[rows] for rows in self._rows])

    def residual(self, columns: Int[np.ndarray, "c"], targets: Int[np.ndarray, "t"], ridge: float) -> Floats:
        """The residuals of a regression of these targets on these columns, [n, targets].

        Args:
            columns: numbers of the inputs; a constant is added.
            targets: numbers of the targets.
            ridge: penalty per row, for inputs with standard deviation 1.
        """
        columns = np.append(columns, self._inputs.shape[1] - 1)
        left = self._targets[:, targets].copy()
        squares, products = self._squares.sum(0), self._products.sum(0)
        for part, rows in enumerate(self._rows):
            matrix = (squares - self._squares[part])[np.ix_(columns, columns)]
            matrix[np.diag_indices(len(columns))] += ridge * (len(left) - len(rows)) + 1e-9
            weights = np.linalg.solve(matrix, (products - self._products[part])[np.ix_(columns, targets)])
            left[rows] -= self._inputs[np.ix_(rows, columns)] @ weights
        return left


def folds(group: Int[np.ndarray, "n"], draw: np.random.Generator) -> Int[np.ndarray, "n"]:
    """A random fold for each row; rows of one group share it."""
    return np.asarray(draw.permutation(int(group.max()) + 1)[group] % NUM_FOLDS)


def waves(table: Floats, num: int, draw: np.random.Generator) -> Floats:
    """Random Fourier features [n, num] of the rows of `table` [n, d], for nonlinear ridge regression.

    Source: Rahimi and Recht 2007, "Random features for large-scale kernel machines", section 3.
    """
    if not table.shape[1]:
        return np.empty((len(table), 0))
    lengths = np.sqrt(table.shape[1]) * draw.choice([0.5, 1.0, 2.0], num)
    turns = table @ (draw.normal(size=(table.shape[1], num)) / lengths)
    return np.asarray(np.sqrt(2) * np.cos(turns + draw.uniform(0, 2 * np.pi, num)))


def scaled(table: Floats) -> Floats:
    """The z-scores of the columns of `table` that vary."""
    if not len(table):
        return table[:, :0]
    deviation = table.std(0)
    live = deviation > 1e-9 * np.abs(table).max(0, initial=0)
    return np.asarray((table[:, live] - table[:, live].mean(0)) / deviation[live])


def clipped(table: Floats) -> Floats:
    """`table` with outliers clipped, which would dominate a regression."""
    if not len(table):
        return table
    low, high = np.quantile(table, (0.005, 0.995), axis=0)
    span = np.where(high > low, high - low, np.inf)
    return np.asarray(np.clip(table, low - span, high + span))


def residuals(known: Floats, target: Floats, fold: Int[np.ndarray, "n"], draw: np.random.Generator) -> Floats:
    """Residuals [n, m] of a linear or of a nonlinear regression; each row is predicted from the other folds.

    Each component has those with the smaller mean square.

    Args:
        known: [n, P] the history.
        target: [n, m] the actions.
        fold: of each row.
        draw: for the nonlinear features.
    """
    table = np.clip(scaled(clipped(known)), -6, 6)
    bending = np.concatenate([table, waves(table, min(150, len(table) // 10), draw)], 1)
    first, second = _left(table, target, fold), _left(bending, target, fold)
    return np.where((second**2).mean(0) < (first**2).mean(0), second, first)


def _left(table: Floats, target: Floats, fold: Int[np.ndarray, "n"]) -> Floats:
    """Residuals of held-out predictions, clipped to the logged range, which limits extrapolation."""
    every = np.arange(table.shape[1]), np.arange(target.shape[1])
    guess = target - HeldOut(table, target, fold).residual(*every, RIDGE)
    return np.asarray(target - np.clip(guess, target.min(0), target.max(0)))


def action_changes(action: Floats, before: Floats, schema: Schema) -> Bool[np.ndarray, "n m"]:
    """Whether each component of the action differs from the one before; a discrete signal changes as a whole.

    Args:
        action: [n, m] actions of all signals without images.
        before: [n, m] the actions one step earlier.
        schema: of the signals.
    """
    moved = np.asarray(np.abs(action - before) > MIN_MOVE * action.std(0))
    for signal, columns in columns_of(schema, Role.ACTION).items():
        if signal.kind is Kind.DISCRETE:
            moved[:, columns] = moved[:, columns].any(1, keepdims=True)
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
        changed: see `action_changes`.
        fold: see `residuals`.
        draw: see `residuals`.
    """
    at_changes = np.full(target.shape, np.nan)
    needed = max(MIN_CHANGES, ROWS_PER_COLUMN * known.shape[1])
    for k, there in enumerate(changed.T):
        if needed <= there.sum() < len(there):
            at_changes[there, k] = residuals(known[there], target[there, k : k + 1], fold[there], draw)[:, 0]
    return at_changes
