"""What a plan may cost beside the error to its targets: costs of each step, on named signals in physical units.

A signal may be predicted or an input: an action costs like an observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.contracts.world import Outlook
from worldline.costs.reading import PerComponent, components, shorter
from worldline.errors import ConfigError, InputError


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

    def __call__(self, outlook: Outlook) -> Float[np.ndarray, "W N S T"]:
        """The cost of each step."""
        values = components(outlook, self.signal, self.tolerance)
        reference, steps = np.asarray(self.reference, dtype=float), values.shape[3]
        if reference.ndim != 2 or reference.shape[1] != values.shape[-1] or len(reference) < steps:
            due = f"[{steps} steps or more, {values.shape[-1]} components]"
            raise InputError(f"the reference of {self.signal!r} has shape {reference.shape}. {due} is wanted.")
        error = shorter(outlook, self.signal, values - reference[:steps])
        return np.asarray(((error / np.asarray(self.tolerance)) ** 2).mean(-1))


@dataclass(frozen=True, kw_only=True)
class Within:
    """The squared excess over a range, the mean over components; nothing inside of it.

    Args:
        signal: a vector signal.
        low: lower end; minus infinity for none.
        high: upper end; infinity for none.
        tolerance: the excess that costs 1 a step, above 0.
    """

    signal: str
    low: PerComponent
    high: PerComponent
    tolerance: PerComponent

    def __post_init__(self) -> None:
        _check("tolerance", self.tolerance)
        if not np.all(np.asarray(self.low) <= np.asarray(self.high)):
            raise ConfigError(f"low {self.low} of {self.signal!r} is not at most high {self.high}.")

    def __call__(self, outlook: Outlook) -> Float[np.ndarray, "W N S T"]:
        """The cost of each step."""
        values = components(outlook, self.signal, self.low, self.high, self.tolerance)
        excess = np.maximum(np.maximum(np.asarray(self.low) - values, values - np.asarray(self.high)), 0.0)
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

    def __call__(self, outlook: Outlook) -> Float[np.ndarray, "W N S T"]:
        """The cost of each step."""
        given = self.price if isinstance(self.price, tuple) else 0.0
        values, price = components(outlook, self.signal, given), np.asarray(self.price, dtype=float)
        if price.ndim == 2:
            if price.shape[1] != values.shape[-1] or len(price) < values.shape[3]:
                due = f"[{values.shape[3]} steps or more, {values.shape[-1]} components]"
                raise InputError(f"the price of {self.signal!r} has shape {price.shape}. {due} is wanted.")
            price = price[: values.shape[3]]
        return np.asarray((values * price).sum(-1))


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

    def __call__(self, outlook: Outlook) -> Float[np.ndarray, "W N S T"]:
        """The cost of each step."""
        values = components(outlook, self.signal, self.tolerance)
        before = values[:, :, :, :1]
        if self.signal in outlook.present:
            now = outlook.present[self.signal].astype(float)[:, None, None, None]
            before = np.where(np.isnan(now), before, now)
        change = shorter(outlook, self.signal, np.diff(values, axis=3, prepend=before))
        return np.asarray(((change / np.asarray(self.tolerance)) ** 2).mean(-1))


def _check(name: str, value: PerComponent) -> None:
    if not np.all(np.asarray(value) > 0):
        raise ConfigError(f"{name} is {value}. It must be above 0.")
