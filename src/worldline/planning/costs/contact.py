"""Constraints for solid objects: a distance between two objects, and a distance from a wall.

The distances are functions of positions alone, so that plans and the exam use the same definition.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import ConfigError, InputError
from worldline.planning.base import Rollout, Rule
from worldline.planning.costs.rollout_signals import components, constant, worst

Point = tuple[float, float]


@final
class KeepApart(Rule, frozen=True, kw_only=True):
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

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N"]:
        """The violation; 0 if the objects keep the distance."""
        first, second = components(rollout, self.first), components(rollout, self.second)
        if first.shape[-1] != second.shape[-1]:
            raise InputError(
                f"{self.first!r} has {first.shape[-1]} components and {self.second!r} {second.shape[-1]}. Use signals "
                "of equal size."
            )
        offset = first - second
        # Two centres that move towards each other by their margins shorten each component of their offset.
        slack = [rollout.margin[name].to(offset) for name in (self.first, self.second) if name in rollout.margin]
        if slack:
            # The centre of a band is the mean of the samples, and its width covers their spread.
            offset = (offset.mean(2, keepdim=True).abs() - sum(slack)).clamp(min=0.0)
        return worst(self.distance - torch.linalg.vector_norm(offset, dim=-1), self.quantile)


@final
class KeepClear(Rule, frozen=True, kw_only=True):
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

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N"]:
        """The violation; 0 if the object keeps the distance."""
        place = components(rollout, self.signal, self.start, self.end)
        slack = place.new_zeros(())
        if self.signal in rollout.margin:
            place = place.mean(2, keepdim=True)
            # A band is a box: every point in it is at most half its diagonal from its centre.
            slack = torch.linalg.vector_norm(rollout.margin[self.signal].to(place), dim=-1)
        distance = torch.linalg.vector_norm(away_from_wall(place, self.start, self.end), dim=-1)
        return worst(self.distance - (distance - slack), self.quantile)


def away_from_wall(place: Float[Tensor, "... 2"], start: Point, end: Point) -> Float[Tensor, "... 2"]:
    """The vectors from the nearest point of a straight wall to each place.

    Args:
        place: positions.
        start: one end of the wall.
        end: the other end.
    """
    first, along = constant(start, place), constant(end, place) - constant(start, place)
    # The projection onto the wall, as a share of its length; beyond its ends, the nearest point is an end. A wall of
    # length 0 is a point.
    length = along @ along
    share = ((place - first) @ along / length).clamp(0.0, 1.0) if length > 0 else place.new_zeros(place.shape[:-1])
    return place - (first + share[..., None] * along)


def _check(distance: float, quantile: float) -> None:
    if not distance > 0 or not 0 <= quantile <= 1:
        raise ConfigError(f"distance {distance} must be above 0 and quantile {quantile} in [0, 1].")
