"""Ridge regressions with residuals on held-out episodes."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Booleans = NDArray[np.bool_]

NUM_FOLDS: Final = 5


class HeldOut:
    """Cross-validated ridge regressions on any columns of a table; each residual is from a fit without its row.

    Args:
        inputs: [n, P]; scaled here.
        targets: [n, q].
        fold: [n] which of `NUM_FOLDS` parts each row belongs to; a row is predicted from the other parts.
    """

    def __init__(self, inputs: Floats, targets: Floats, fold: NDArray[np.integer]) -> None:
        deviation = inputs.std(0)
        scaled = (inputs - inputs.mean(0)) / np.where(deviation > 0, deviation, 1.0)
        self._inputs = np.concatenate([scaled, np.ones((len(inputs), 1))], 1)
        self._targets, self._rows = targets, [np.flatnonzero(fold == part) for part in range(NUM_FOLDS)]
        self._squares = np.stack([self._inputs[rows].T @ self._inputs[rows] for rows in self._rows])
        self._products = np.stack([self._inputs[rows].T @ targets[rows] for rows in self._rows])

    def residual(self, columns: NDArray[np.integer], targets: NDArray[np.integer], ridge: float) -> Floats:
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


def folds(group: NDArray[np.integer], draw: np.random.Generator) -> NDArray[np.integer]:
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
