"""What a plan may cost beside the error to its targets: costs of each step, on named signals in physical units.

A signal may be predicted or an input: an action costs like an observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.errors import ConfigError, InputError
from worldline.planning.base import Rollout
from worldline.planning.costs.rollout_signals import PerComponent, components, shorter


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """The squared distance to a reference that changes over time, the mean over components.

    Args:
        signal: a vector signal.
        reference: [T, size], physical units, from the first step that is imagined on, be it pending or planned;
            longer than the plan is fine.
        tolerance: the error that costs 1 a step, above 0.
    """

    signal: str
    reference: NDArray[np.floating] | Sequence[Sequence[float]]
    tolerance: PerComponent

    def __post_init__(self) -> None:
        _check("tolerance", self.tolerance)
        if not np.isfinite(np.asarray(self.reference, dtype=float)).all():
            raise ConfigError(f"the reference of {self.signal!r} holds NaN or infinity. Give finite values.")

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N S T"]:
        """The cost of each step."""
        values = components(rollout, self.signal, self.tolerance)
        reference, steps = np.asarray(self.reference, dtype=float), values.shape[3]
        if reference.ndim != 2 or reference.shape[1] != values.shape[-1] or len(reference) < steps:
            due = f"[{steps} steps or more, {values.shape[-1]} components]"
            raise InputError(f"the reference of {self.signal!r} has shape {reference.shape}. {due} is wanted.")
        error = shorter(rollout, self.signal, values - reference[:steps])
        return np.asarray(((error / np.asarray(self.tolerance)) ** 2).mean(-1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Within:
    """The squared excess over a range, the mean over components; nothing inside of it.

    Args:
        signal: a vector signal.
        low: lower end: a number, one for each component, or [T, size] where it changes over time, from the first step
            that is imagined on, be it pending or planned; minus infinity for none.
        high: upper end, likewise; infinity for none.
        tolerance: the excess that costs 1 a step, above 0.
    """

    signal: str
    low: PerComponent | NDArray[np.floating]
    high: PerComponent | NDArray[np.floating]
    tolerance: PerComponent

    def __post_init__(self) -> None:
        _check("tolerance", self.tolerance)
        for end in (self.low, self.high):
            if isinstance(end, np.ndarray) and end.ndim != 2:
                raise ConfigError(f"an end of {self.signal!r} has shape {end.shape}. One that changes is [T, size].")
        lows, highs = np.asarray(self.low, dtype=float), np.asarray(self.high, dtype=float)
        if lows.ndim == highs.ndim == 2:
            lows, highs = lows[: len(highs)], highs[: len(lows)]
        if not np.all(lows <= highs):
            raise ConfigError(f"low {self.low} of {self.signal!r} is not at most high {self.high}.")

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N S T"]:
        """The cost of each step."""
        values = components(rollout, self.signal, *_constant(self.low), *_constant(self.high), self.tolerance)
        low, high = (_over_time("an end", self.signal, end, values) for end in (self.low, self.high))
        excess = np.maximum(np.maximum(low - values, values - high), 0.0)
        return np.asarray(((excess / np.asarray(self.tolerance)) ** 2).mean(-1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Price:
    """So much for each unit of a signal and step, summed over components: energy, water, wear. Below 0 it is earned.

    Args:
        signal: a vector signal.
        price: of a unit and step: a number, one for each component, or [T, size] where it changes over time, from the
            first step that is imagined on, be it pending or planned.
    """

    signal: str
    price: PerComponent | NDArray[np.floating]

    def __post_init__(self) -> None:
        price = np.asarray(self.price, dtype=float)
        if not np.isfinite(price).all():
            raise ConfigError(f"the price of {self.signal!r} is {self.price}. It must be finite.")
        if isinstance(self.price, np.ndarray) and price.ndim != 2:
            raise ConfigError(f"the price of {self.signal!r} has shape {price.shape}. One that changes is [T, size].")

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N S T"]:
        """The cost of each step."""
        values = components(rollout, self.signal, *_constant(self.price))
        return np.asarray((values * _over_time("the price", self.signal, self.price, values)).sum(-1))


@dataclass(frozen=True, kw_only=True)
class Change:
    """The squared change of a signal from step to step, the mean over components: of an action, how restless it is.

    The first step counts from the present, where that is known.

    Args:
        signal: a vector signal.
        tolerance: the change that costs 1 a step, above 0.
    """

    signal: str
    tolerance: PerComponent

    def __post_init__(self) -> None:
        _check("tolerance", self.tolerance)

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N S T"]:
        """The cost of each step."""
        values = components(rollout, self.signal, self.tolerance)
        before = values[:, :, :, :1]
        if self.signal in rollout.present:
            now = rollout.present[self.signal].astype(float)[:, None, None, None]
            before = np.where(np.isnan(now), before, now)
        change = shorter(rollout, self.signal, np.diff(values, axis=3, prepend=before))
        return np.asarray(((change / np.asarray(self.tolerance)) ** 2).mean(-1))


def _check(name: str, value: PerComponent) -> None:
    if not np.all(np.asarray(value) > 0):
        raise ConfigError(f"{name} is {value}. It must be above 0.")


def _constant(given: PerComponent | NDArray[np.floating]) -> tuple[PerComponent, ...]:
    """What is the same at each step; nothing where it changes."""
    return () if isinstance(given, np.ndarray) else (given,)


def _over_time(
    what: str, signal: str, given: PerComponent | NDArray[np.floating], values: Float[np.ndarray, "W N S T size"]
) -> NDArray[np.floating]:
    """What is given, as it is or [T, size] for the T steps of `values`."""
    due = np.asarray(given, dtype=float)
    if due.ndim < 2:
        return due
    if due.shape[1] != values.shape[-1] or len(due) < values.shape[3]:
        wanted = f"[{values.shape[3]} steps or more, {values.shape[-1]} components]"
        raise InputError(f"{what} of {signal!r} has shape {due.shape}. {wanted} is wanted.")
    return due[: values.shape[3]]
