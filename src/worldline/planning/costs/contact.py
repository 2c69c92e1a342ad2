"""Rules for solid things: two of them keep apart, and one keeps clear of a wall.

The distances are functions of positions alone, so that what a plan has to keep and what an exam looks for are the same.
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
    """Two things never come nearer than a distance. Called on an outlook: the violation [W, N], in the signals' unit.

    The violation of one sample is the deepest overlap over all steps. Where the rule has to hold with a probability
    (`Chance`), both things are taken to be as near as their bands allow.

    Args:
        first: a vector signal, the middle of one.
        second: one with as many components, the middle of the other.
        distance: between the middles, above 0; of two discs the sum of their radii.
        quantile: which of the S samples counts, from 0 (the best) to 1 (the worst, and the default).
    """

    first: str
    second: str
    distance: float
    quantile: float = 1.0

    def __post_init__(self) -> None:
        _check(self.distance, self.quantile)

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N"]:
        """The violation; 0 where they keep apart."""
        one, other = components(rollout, self.first), components(rollout, self.second)
        if one.shape[-1] != other.shape[-1]:
            raise InputError(f"{self.first!r} has {one.shape[-1]} components, {self.second!r} {other.shape[-1]}.")
        away = one - other
        slack = [rollout.margin[name].astype(float) for name in (self.first, self.second) if name in rollout.margin]
        if slack:
            away = away.mean(2, keepdims=True)
            away = np.maximum(np.abs(away) - np.add.reduce(slack), 0.0)
        return _deepest(self.distance - np.linalg.norm(away, axis=-1), self.quantile)


@dataclass(frozen=True, kw_only=True)
class KeepClear:
    """A thing never comes nearer to a straight wall than a distance; otherwise as `KeepApart`.

    Args:
        signal: a vector signal of two components, the middle of the thing.
        start: one end of the wall, in the signal's unit.
        end: the other end.
        distance: from the wall's middle line, above 0; of a disc its radius and half the wall's width.
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
        """The violation; 0 where it keeps clear."""
        place, slack = components(rollout, self.signal, self.start, self.end), 0.0
        near = away_from_wall(place, self.start, self.end)
        distance = np.linalg.norm(near, axis=-1)
        if self.signal in rollout.margin:
            distance = np.linalg.norm(away_from_wall(place.mean(2, keepdims=True), self.start, self.end), axis=-1)
            # A band is a box; nothing in it is nearer to the wall than its middle less half its diagonal.
            slack = np.linalg.norm(rollout.margin[self.signal].astype(float), axis=-1)
        return _deepest(self.distance - (distance - slack), self.quantile)


def away_from_wall(place: Floats, start: Point, end: Point) -> Floats:
    """From the nearest point of a straight wall to each place [..., 2].

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
    """The quantile over the samples of the deepest over the steps, at least 0; NaN where there is a NaN."""
    return np.asarray(np.maximum(np.quantile(depth.max(-1), quantile, axis=-1, method="higher"), 0.0))


def _check(distance: float, quantile: float) -> None:
    if not distance > 0 or not 0 <= quantile <= 1:
        raise ConfigError(f"distance {distance} must be above 0 and quantile {quantile} in [0, 1].")
