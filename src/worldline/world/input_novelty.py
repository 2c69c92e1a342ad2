"""Novelty of an observation, for engines that do not measure it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.episode import History
from worldline.errors import UnsupportedError
from worldline.schema import Kind, Schema

Floats = NDArray[np.floating]

_GRID = 8
_SHRINKAGE = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class InputNovelty:
    """The Mahalanobis distance of the last observation, with a covariance shrunk towards the identity.

    Args:
        centre: [F], mean of the features.
        scale: [F], their standard deviations, above 0.
        whitening: [F, F], multiplies standardised features.
    """

    centre: Floats
    scale: Floats
    whitening: Floats

    def measure(self, schema: Schema, history: History) -> Floats:
        """The distance [W]; missing values count as the mean.

        Raises:
            UnsupportedError: the schema has another number of features than the calibration.
        """
        values = features(schema, history)
        if values.shape[1] != len(self.centre):
            raise UnsupportedError(
                f"expected {len(self.centre)} features, got {values.shape[1]} from the schema. Calibrate again."
            )
        values = np.nan_to_num((values - self.centre) / self.scale, nan=0.0)
        return np.asarray(np.linalg.norm(values @ self.whitening, axis=1))


def fit_input_novelty(schema: Schema, history: History) -> InputNovelty:
    """Fits the distance to the last observations of `history` (W worlds)."""
    values = features(schema, history)
    known = ~np.isnan(values)
    count = np.maximum(known.sum(0), 1)
    centre = np.where(known, values, 0).sum(0) / count
    spread = np.sqrt((np.where(known, values - centre, 0) ** 2).sum(0) / count)
    # A constant feature gives no scale, so any change counts as large.
    scale = np.where(spread > 0, spread, 1e-6 * (1 + np.abs(centre)))
    # Few windows determine a covariance badly. Shrinking it bounds distances along directions of hardly any variance.
    standard = np.where(known, (values - centre) / scale, 0)
    covariance = standard.T @ standard / len(standard)
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.eye(len(centre))
    variances, directions = np.linalg.eigh(shrunk)
    return InputNovelty(centre=centre, scale=scale, whitening=directions / np.sqrt(variances))


def features(schema: Schema, history: History) -> Float[np.ndarray, "W F"]:
    """Vectors, and images averaged over an 8 by 8 grid, of the last observation; NaN where missing."""
    num_worlds = len(next(iter(history.observations.values())))
    columns: list[Floats] = [np.zeros((num_worlds, 0))]
    for signal in schema.observations:
        if signal.kind is Kind.DISCRETE:
            continue
        if signal.name in history.observations:
            last = history.observations[signal.name][:, -1].astype(np.float64)
            column = _pool(last) if signal.kind is Kind.IMAGE else last
            if signal.name in history.observed:
                column = np.where(history.observed[signal.name][:, -1].astype(bool)[:, None], column, np.nan)
        else:
            size = signal.size
            if signal.kind is Kind.IMAGE:
                size = min(_GRID, signal.shape[0]) * min(_GRID, signal.shape[1]) * signal.shape[2]
            column = np.full((num_worlds, size), np.nan)
        columns.append(column)
    return np.concatenate(columns, 1)


def _pool(images: Floats) -> Floats:
    """Images [W, height, width, channels] averaged over a grid and flattened."""
    for axis in (1, 2):
        size = images.shape[axis]
        edges = np.linspace(0, size, min(_GRID, size) + 1).astype(int)
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        images = np.add.reduceat(images, edges[:-1], axis=axis) / np.diff(edges).reshape(shape)
    return images.reshape(len(images), -1)
