"""Access to the signals of a rollout, for costs and constraints."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.errors import InputError, UnknownNameError
from worldline.planning.base import Rollout

Floats = NDArray[np.floating]
PerComponent = float | tuple[float, ...]
"""One number for all components of a vector signal, or one per component."""


def signal_in(rollout: Rollout, name: str) -> NDArray[np.generic]:
    """The signal [W, N, S, T, *shape].

    Raises:
        UnknownNameError: the signal is neither predicted nor an input.
    """
    if name not in rollout.signals:
        raise UnknownNameError("signal", name, rollout.signals)
    return rollout.signals[name]


def components(rollout: Rollout, name: str, *given: PerComponent) -> Float[np.ndarray, "W N S T size"]:
    """The vector signal, after a check that the `given` values fit its components.

    Raises:
        UnknownNameError: the signal is neither predicted nor an input.
        InputError: it is not a vector signal, or a given value has the wrong number of components.
    """
    values = signal_in(rollout, name)
    if values.ndim != 5:
        raise InputError(f"signal {name!r} has values of shape {values.shape[4:]}. Use a vector signal.")
    for each in given:
        if isinstance(each, tuple) and len(each) != values.shape[-1]:
            raise InputError(f"signal {name!r} has {values.shape[-1]} components, got {len(each)} values: {each}.")
    return values.astype(float)


def end(rollout: Rollout, name: str, sign: Literal[-1, 1], *given: PerComponent) -> Float[np.ndarray, "W N S T size"]:
    """The vector signal, or with a probability (`Chance`) the upper (+1) or lower (-1) edge of its band.

    Raises:
        UnknownNameError, InputError: as in `components`.
    """
    values = components(rollout, name, *given)
    if name not in rollout.margin:
        return values
    return np.asarray(values.mean(2, keepdims=True) + sign * rollout.margin[name].astype(float))


def shorter(rollout: Rollout, name: str, difference: Floats) -> Floats:
    """The difference of two values of a signal, wrapped to half a period if the signal is periodic."""
    if name not in rollout.periods:
        return difference
    half = rollout.periods[name] / 2
    return np.asarray((difference + half) % (2 * half) - half)
