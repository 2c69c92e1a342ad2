"""What costs and constraints read of an outlook."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.errors import InputError, UnknownNameError
from worldline.planning.base import Rollout

Floats = NDArray[np.floating]
PerComponent = float | tuple[float, ...]
"""A number for every component of a vector signal, or one for each."""


def signal_in(rollout: Rollout, name: str) -> NDArray[np.generic]:
    """The signal [W, N, S, T, *shape].

    Raises:
        UnknownNameError: it is neither predicted nor an input.
    """
    if name not in rollout.signals:
        raise UnknownNameError("signal", name, rollout.signals)
    return rollout.signals[name]


def components(rollout: Rollout, name: str, *given: PerComponent) -> Float[np.ndarray, "W N S T size"]:
    """The vector signal, once what is given for its components is known to fit it.

    Raises:
        UnknownNameError: as in `signal_in`.
        InputError: it is no vector signal, or has another number of components.
    """
    values = signal_in(rollout, name)
    if values.ndim != 5:
        raise InputError(f"signal {name!r} has values of shape {values.shape[4:]}. A vector signal is needed.")
    for each in given:
        if isinstance(each, tuple) and len(each) != values.shape[-1]:
            raise InputError(f"signal {name!r} has {values.shape[-1]} components, and {each} is for {len(each)}.")
    return values.astype(float)


def end(rollout: Rollout, name: str, sign: Literal[-1, 1], *given: PerComponent) -> Float[np.ndarray, "W N S T size"]:
    """The vector signal; where a constraint has to hold with a probability, the upper (+1) or lower end of its band.

    Raises:
        UnknownNameError, InputError: as in `components`.
    """
    values = components(rollout, name, *given)
    if name not in rollout.margin:
        return values
    return np.asarray(values.mean(2, keepdims=True) + sign * rollout.margin[name].astype(float))


def shorter(rollout: Rollout, name: str, difference: Floats) -> Floats:
    """The difference of two values of a signal, the shorter way round where it repeats."""
    if name not in rollout.periods:
        return difference
    half = rollout.periods[name] / 2
    return np.asarray((difference + half) % (2 * half) - half)
