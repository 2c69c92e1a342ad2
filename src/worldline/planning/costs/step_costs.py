"""Costs of each step on named signals, in physical units.

The signals may be predictions or inputs, such as actions. Most costs are convex functions of affine expressions in the
signals. Over a world that is linear in the actions, planning is then a convex quadratic program, see
`world/exact_plan.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldline.errors import ConfigError, InputError
from worldline.planning.base import Rollout, Rule
from worldline.planning.costs.rollout_signals import PerComponent, components, constant, shorter

Setting = PerComponent | NDArray[np.floating] | Sequence[Sequence[float]]


class Form(Enum):
    """What a cost makes of its affine expressions, which are then summed."""

    LINEAR = "linear"
    SQUARE = "square"
    HINGE = "hinge"
    """The square of the positive part."""

    def total(self, values: Float[Tensor, "W N S T K"]) -> Float[Tensor, "W N S T"]:
        """The cost of each step."""
        if self is Form.LINEAR:
            return values.sum(-1)
        return (values.clamp(min=0.0) if self is Form.HINGE else values).square().sum(-1)


class ConvexCost(Rule, frozen=True, kw_only=True, eq=False):
    """A cost of each step, given by affine expressions in the signals and their form."""

    form: ClassVar[Form]

    def expressions(self, rollout: Rollout) -> Float[Tensor, "W N S T K"]:
        """The values of the K expressions; affine in the signals, except where a periodic signal is wrapped."""
        raise NotImplementedError  # subclasses define it; a struct of msgspec cannot be an abstract class

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N S T"]:
        """The cost of each step."""
        return self.form.total(self.expressions(rollout))


@final
class Track(ConvexCost, frozen=True, kw_only=True, eq=False):
    """The squared error to a reference trajectory, averaged over components.

    Args:
        signal: a vector signal.
        reference: [T, size], physical units, beginning at the first predicted step, which may be a pending one. It may
            be longer than the plan.
        tolerance: the error with cost 1 per step, above 0.
    """

    form = Form.SQUARE

    signal: str
    reference: NDArray[np.floating] | Sequence[Sequence[float]]
    tolerance: PerComponent

    def __post_init__(self) -> None:
        _check("tolerance", self.tolerance)
        reference = np.asarray(self.reference, dtype=float)
        if reference.ndim != 2 or not np.isfinite(reference).all():
            raise ConfigError(
                f"the reference of {self.signal!r} has shape {reference.shape}. Give finite values [T, size]."
            )

    def expressions(self, rollout: Rollout) -> Float[Tensor, "W N S T K"]:
        """See `ConvexCost`."""
        values = components(rollout, self.signal, self.tolerance)
        reference = _over_time("the reference", self.signal, self.reference, values)
        error = shorter(rollout, self.signal, values - reference)
        return _per_component_share(error / constant(self.tolerance, values))


@final
class Within(ConvexCost, frozen=True, kw_only=True, eq=False):
    """The squared excess beyond a range, averaged over components; 0 inside it.

    Args:
        signal: a vector signal.
        low: lower end: a number, one per component, or [T, size] over time; minus infinity for none. T begins at the
            first predicted step, which may be a pending one.
        high: upper end, in the same form; infinity for none.
        tolerance: the excess with cost 1 per step, above 0.
    """

    form = Form.HINGE

    signal: str
    low: PerComponent | NDArray[np.floating]
    high: PerComponent | NDArray[np.floating]
    tolerance: PerComponent

    def __post_init__(self) -> None:
        _check("tolerance", self.tolerance)
        for end in (self.low, self.high):
            if isinstance(end, np.ndarray) and end.ndim != 2:
                raise ConfigError(f"an end of {self.signal!r} has shape {end.shape}. Give an array [T, size].")
        # Ends over time may differ in length; a plan needs them only where both are known.
        lows, highs = np.asarray(self.low, dtype=float), np.asarray(self.high, dtype=float)
        if lows.ndim == highs.ndim == 2:
            lows, highs = lows[: len(highs)], highs[: len(lows)]
        if not np.all(lows <= highs):
            raise ConfigError(f"low {self.low} of {self.signal!r} is above high {self.high}. Set low to at most high.")

    def expressions(self, rollout: Rollout) -> Float[Tensor, "W N S T K"]:
        """See `ConvexCost`."""
        values = components(rollout, self.signal, *_per_component(self.low), *_per_component(self.high), self.tolerance)
        low, high = (_over_time("an end", self.signal, end, values) for end in (self.low, self.high))
        # At most one of the differences is above 0, because low <= high.
        unit = constant(self.tolerance, values)
        below, above = ((difference / unit).expand_as(values) for difference in (low - values, values - high))
        return torch.cat([_per_component_share(below), _per_component_share(above)], -1)


@final
class Price(ConvexCost, frozen=True, kw_only=True, eq=False):
    """A price per unit of a signal and step, summed over components: energy, water, wear. Negative prices are gains.

    Args:
        signal: a vector signal.
        price: per unit and step: a number, one per component, or [T, size] over time. T begins at the first predicted
            step, which may be a pending one.
    """

    form = Form.LINEAR

    signal: str
    price: PerComponent | NDArray[np.floating]

    def __post_init__(self) -> None:
        price = np.asarray(self.price, dtype=float)
        if not np.isfinite(price).all():
            raise ConfigError(f"the price of {self.signal!r} is {self.price}. It must be finite.")
        if isinstance(self.price, np.ndarray) and price.ndim != 2:
            raise ConfigError(f"the price of {self.signal!r} has shape {price.shape}. Give an array [T, size].")

    def expressions(self, rollout: Rollout) -> Float[Tensor, "W N S T K"]:
        """See `ConvexCost`."""
        values = components(rollout, self.signal, *_per_component(self.price))
        return values * _over_time("the price", self.signal, self.price, values)


@final
class Change(ConvexCost, frozen=True, kw_only=True):
    """The squared change of a signal per step, averaged over components; for smooth actions.

    The change of the first step is relative to the present value, if it is known.

    Args:
        signal: a vector signal.
        tolerance: the change with cost 1 per step, above 0.
    """

    form = Form.SQUARE

    signal: str
    tolerance: PerComponent

    def __post_init__(self) -> None:
        _check("tolerance", self.tolerance)

    def expressions(self, rollout: Rollout) -> Float[Tensor, "W N S T K"]:
        """See `ConvexCost`."""
        values = components(rollout, self.signal, self.tolerance)
        # Without a present value the first step has no change: it is compared with itself.
        before = values[:, :, :, :1]
        if self.signal in rollout.present:
            # A world that has observed no value yet has NaN; such components count as unknown, too.
            now = rollout.present[self.signal].to(values)[:, None, None, None]
            before = torch.where(now.isnan(), before, now).expand_as(before)
        change = shorter(rollout, self.signal, values.diff(dim=3, prepend=before))
        return _per_component_share(change / constant(self.tolerance, values))


def _per_component_share(values: Float[Tensor, "W N S T size"]) -> Float[Tensor, "W N S T size"]:
    """The values, scaled so that the sum of their squares is the mean square of the components."""
    return values / math.sqrt(values.shape[-1])


def _check(name: str, value: PerComponent) -> None:
    if not np.all(np.asarray(value) > 0):
        raise ConfigError(f"{name} is {value}. It must be above 0.")


def _per_component(setting: PerComponent | NDArray[np.floating]) -> tuple[PerComponent, ...]:
    """The setting if it is constant over time, else nothing."""
    return () if isinstance(setting, np.ndarray) else (setting,)


def _over_time(what: str, signal: str, numbers: Setting, values: Float[Tensor, "W N S T size"]) -> Tensor:
    """The setting as a tensor; if it changes over time, cut to [T, size] for the T steps of `values`."""
    setting = torch.as_tensor(np.asarray(numbers, dtype=float), device="cpu")
    if setting.ndim == 2:
        if setting.shape[1] != values.shape[-1] or len(setting) < values.shape[3]:
            layout = f"[{values.shape[3]} steps or more, {values.shape[-1]} components]"
            raise InputError(f"{what} of {signal!r} has shape {tuple(setting.shape)}, expected {layout}.")
        setting = setting[: values.shape[3]]
    return setting.to(values)
