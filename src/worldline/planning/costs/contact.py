"""Constraints for solid objects: a distance between two objects, and a distance from a wall.

The distances are functions of positions alone, so that plans and the exam use the same definition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.errors import ConfigError, InputError
from worldline.planning.base import Rollout
from worldline.planning.costs.rollout_signals import components

Floats = NDArray[np.floating]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class KeepApart:
    """Constrains two objects to keep a distance. The violation [W, N] is in the signals' unit.

    The violation of one sample is its largest overlap over all steps. With a probability (`Chance`), the objects are
    assumed to be as near to each other as their bands allow.

    Args:
        first: a vector signal, the centre of one object.
        second: a vector signal of the same size, the centre of the other object.
        distance: smallest distance of the centres, above 0; for two discs the sum of their radii.
        quantile: quantile over the S samples, from 0 (the best) to 1 (the worst).
    """

    first: str
    second: str
    distance: float
    quantile: float = 1.0

    def __post_init__(self) -> None:
        _check(self.distance, self.quantile)

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N"]:
        """The violation; 0 if the objects keep the distance."""
        one, other = components(rollout, self.first), components(rollout, self.second)
        if one.shape[-1] != other.shape[-1]:
            raise InputError(
                f"{self.first!r} has {one.shape[-1]} components and {self.second!r} {other.shape[-1]}. Use signals of "
                "equal size."
            )
        offset = one - other
        slack = [rollout.margin[name].astype(float) for name in (self.first, self.second) if name in rollout.margin]
        if slack:
            offset = offset.mean(2, keepdims=True)
            offset = np.maximum(np.abs(offset) - np.add.reduce(slack), 0.0)
        return _deepest(self.distance - np.linalg.norm(offset, axis=-1), self.quantile)


@dataclass(frozen=True, kw_only=True)
class KeepClear:
    """Constrains an object to keep a distance from a straight wall; otherwise as `KeepApart`.

    Args:
        signal: a vector signal of two components, the centre of the object.
        start: one end of the wall, in the signal's unit.
        end: the other end.
        distance: smallest distance from the wall's centre line, above 0; for a disc its radius plus half the wall's
            thickness.
        quantile: as in `KeepApart`.
    """

    signal: str
    start: Point
    end: Point
    distance: float
    quantile: float = 1.0

    def __post_init__(self) -> None:
        _check(self.distance, self.quantile)

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N"]:
        """The violation; 0 if the object keeps the distance."""
        place, slack = components(rollout, self.signal, self.start, self.end), 0.0
        near = away_from_wall(place, self.start, self.end)
        distance = np.linalg.norm(near, axis=-1)
        if self.signal in rollout.margin:
            distance = np.linalg.norm(away_from_wall(place.mean(2, keepdims=True), self.start, self.end), axis=-1)
            # A band is a box: every point in it is at most half its diagonal from its centre.
            slack = np.linalg.norm(rollout.margin[self.signal].astype(float), axis=-1)
        return _deepest(self.distance - (distance - slack), self.quantile)


def away_from_wall(place: Floats, start: Point, end: Point) -> Floats:
    """The vectors from the nearest point of a straight wall to each place [..., 2].

    Args:
        place: [..., 2].
        start: one end of the wall.
        end: the other end.
    """
    first, along = np.asarray(start, dtype=float), np.subtract(end, start).astype(float)
    length = float(along @ along)
    share = np.clip(((place - first) @ along) / length, 0.0, 1.0) if length > 0 else np.zeros(place.shape[:-1])
    return np.asarray(place - (first + share[..., None] * along))


def _deepest(depth: Float[np.ndarray, "W N S T"], quantile: float) -> Float[np.ndarray, "W N"]:
    """The quantile over samples of the largest depth over steps, at least 0; NaN if a value is NaN."""
    return np.asarray(np.maximum(np.quantile(depth.max(-1), quantile, axis=-1, method="higher"), 0.0))


def _check(distance: float, quantile: float) -> None:
    if not distance > 0 or not 0 <= quantile <= 1:
        raise ConfigError(f"distance {distance} must be above 0 and quantile {quantile} in [0, 1].")
