"""Constraints on named signals in physical units, on distances between solid objects, and on trust."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import ConfigError, InputError
from worldline.planning.base import Rollout, Rule
from worldline.planning.costs.rollout_signals import PerComponent, components, constant, end, worst

Point = tuple[float, float]


class LinearConstraint(Rule, frozen=True, kw_only=True):
    """Constrains affine expressions in the signals to be at most 0.

    The violation of a sample is its largest excess over all steps and expressions.

    Args:
        signal: a vector signal.
        quantile: over the S samples, from 0 (the best) to 1 (the worst). With 0.9, one sample in ten may violate the
            constraint.
    """

    signal: str
    quantile: float = 1.0

    def excess(self, rollout: Rollout) -> Float[Tensor, "W N S T K"]:
        """The values of the K expressions, in the unit of the signal."""
        raise NotImplementedError  # subclasses define it; a struct of msgspec cannot be an abstract class

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N"]:
        """The violation; 0 if the constraint holds."""
        return worst(self.excess(rollout).amax(-1), self.quantile)


@final
class AtMost(LinearConstraint, frozen=True, kw_only=True):
    """Constrains a signal to stay at or below a bound. The violation [W, N] is in the signal's unit.

    The violation of one sample is its largest excess over all steps and components.

    Args:
        signal: a vector signal.
        bound: one bound for all components, or one per component; infinity for none.
        quantile: quantile over the S samples, from 0 (the best) to 1 (the worst). With 0.9, one sample in ten may
            violate the constraint.
    """

    signal: str
    bound: PerComponent
    quantile: float = 1.0

    def __post_init__(self) -> None:
        _check(self.quantile, self.bound)

    def excess(self, rollout: Rollout) -> Float[Tensor, "W N S T size"]:
        """The excess over the bound."""
        upper = end(rollout, self.signal, 1, self.bound)
        return upper - constant(self.bound, upper)


@final
class AtLeast(LinearConstraint, frozen=True, kw_only=True):
    """Constrains a signal to stay at or above a bound; otherwise as `AtMost`.

    Args:
        signal: a vector signal.
        bound: one bound for all components, or one per component; minus infinity for none.
        quantile: as in `AtMost`.
    """

    signal: str
    bound: PerComponent
    quantile: float = 1.0

    def __post_init__(self) -> None:
        _check(self.quantile, self.bound)

    def excess(self, rollout: Rollout) -> Float[Tensor, "W N S T size"]:
        """How far the signal is below the bound."""
        lower = end(rollout, self.signal, -1, self.bound)
        return constant(self.bound, lower) - lower


@final
class KeepOut(Rule, frozen=True, kw_only=True):
    """Constrains the signals to stay outside a box. The violation is [W, N].

    The violation of one sample is its largest depth over the steps: the distance to the nearest face, in the unit of
    that face's signal. Only predicted states count, not the path between two of them.

    Args:
        low: per vector signal its lower face, one for all components or one per component; minus infinity for none.
        high: per vector signal its upper face, with the same names as `low`; infinity for none.
        quantile: as in `AtMost`.
    """

    low: Mapping[str, PerComponent]
    high: Mapping[str, PerComponent]
    quantile: float = 1.0

    def __post_init__(self) -> None:
        if not self.low or self.low.keys() != self.high.keys():
            raise ConfigError(f"low names {sorted(self.low)}, high {sorted(self.high)}. Name the same signals in both.")
        _check(self.quantile, *self.low.values(), *self.high.values())
        # A box without a face holds all states, so no plan could satisfy the constraint.
        faces = [np.ravel(bound) for bound in (*self.low.values(), *self.high.values())]
        if np.isinf(np.concatenate(faces)).all():
            raise ConfigError("the box has no face. Give at least one finite bound, or leave the constraint out.")

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N"]:
        """The violation; 0 outside the box and on its faces."""
        depths = []
        for name, low in self.low.items():
            high = self.high[name]
            # The depth below a face is largest at the edge of the band that is farther from it.
            above, below = end(rollout, name, 1, low, high), end(rollout, name, -1, low, high)
            depth = torch.minimum(above - constant(low, above), constant(high, below) - below)
            depths.append(depth.amin(-1))
        # The nearest face over all signals: the state is outside if it is outside in one component.
        return worst(torch.stack(torch.broadcast_tensors(*depths)).amin(0), self.quantile)


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
        _check(self.quantile)
        if not self.distance > 0:
            raise ConfigError(f"distance is {self.distance}. It must be above 0.")

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
        _check(self.quantile, self.start, self.end)
        if not self.distance > 0:
            raise ConfigError(f"distance is {self.distance}. It must be above 0.")

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


@final
class OODPenalty(Rule, frozen=True, kw_only=True):
    """The cost [W, N, 1, T] of steps that lead to out-of-distribution states.

    Args:
        trust: p-value, in (0, 1], at and above which a step costs nothing. The p-value of a predicted state is that of
            an observed state with the same out-of-distribution score. With n calibration episodes the smallest p-value
            is 1 / (n + 1), so 0.05 needs at least 20 of them; with fewer the world raises `InputError`.
        weight: cost of a step with p-value 0, above 0; the cost falls linearly to 0 at `trust`.

    The planner `gradient` descends it although a p-value is a step function: where the step costs something, the
    gradient is that of a p-value that falls linearly with the score (a straight-through estimator, arXiv 1308.3432).
    """

    trust: float = 0.05
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check_trust(self.trust)
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ConfigError(f"weight is {self.weight}. It must be above 0.")

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N 1 T"]:
        """The cost of each step."""
        return self.weight * _shortfall(rollout, self.trust)


@final
class RequireInDistribution(Rule, frozen=True, kw_only=True):
    """Constrains all predicted states to be in distribution. The violation [W, N] is in [0, 1].

    Args:
        trust: smallest p-value, in (0, 1], of every predicted state; see `OODPenalty`. Choose a small value: an
            ordinary long plan passes through some rare states too.
    """

    trust: float = 0.05

    def __post_init__(self) -> None:
        _check_trust(self.trust)

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N"]:
        """The largest relative shortfall of a step's p-value; 0 if the constraint holds."""
        return _shortfall(rollout, self.trust)[:, :, 0].amax(-1)


def _shortfall(rollout: Rollout, trust: float) -> Float[Tensor, "W N 1 T"]:
    if rollout.trust is None:
        raise InputError("the rollout has no trust. Use one that a world made, in `plan` or `score`.")
    # 1 for a p-value of 0, and 0 from `trust` on, so `trust` is also the smallest p-value that must be resolved.
    return (1 - rollout.trust(trust) / trust).clamp(min=0.0)


def _check(quantile: float, *bounds: PerComponent) -> None:
    if not 0 <= quantile <= 1:
        raise ConfigError(f"quantile is {quantile}. It must be in [0, 1].")
    for bound in bounds:
        if np.isnan(bound).any():
            raise ConfigError(f"a bound is {bound}. It must not be NaN.")


def _check_trust(trust: float) -> None:
    if not 0 < trust <= 1:
        raise ConfigError(f"trust is {trust}. It must be above 0 and at most 1.")
