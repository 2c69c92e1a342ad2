"""Access to the signals of a rollout, for costs and constraints."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldline.device import exact_float
from worldline.errors import InputError, UnknownNameError
from worldline.planning.base import Rollout

PerComponent = float | tuple[float, ...]
"""One number for all components of a vector signal, or one per component."""
Numbers = PerComponent | NDArray[np.floating] | Tensor
"""Numbers that a user gives, and the tensors made from them."""


def signal_in(rollout: Rollout, name: str) -> Tensor:
    """The signal [W, N, S, T, *shape].

    Raises:
        UnknownNameError: the signal is neither predicted nor an input.
    """
    if name not in rollout.signals:
        raise UnknownNameError("signal", name, rollout.signals)
    return rollout.signals[name]


def precise(values: Tensor) -> Tensor:
    """The values in double precision, where the device has it.

    A cost squares small differences of large values, such as a temperature in kelvin minus its target.
    """
    return values.to(exact_float(values.device))


def exact(numbers: Numbers | NDArray[np.generic], device: torch.device) -> Tensor:
    """The numbers as a tensor on `device`, in their own precision where the device has it."""
    values = torch.as_tensor(numbers, device="cpu")
    return values.to(device, exact_float(device) if values.dtype == torch.float64 else values.dtype)


def constant(numbers: Numbers, values: Tensor) -> Tensor:
    """The numbers as a tensor with the dtype and on the device of `values`."""
    return torch.as_tensor(numbers, dtype=values.dtype, device=values.device)


def components(rollout: Rollout, name: str, *settings: PerComponent) -> Float[Tensor, "W N S T size"]:
    """The vector signal, after a check that the settings of a cost fit its components.

    Raises:
        UnknownNameError: the signal is neither predicted nor an input.
        InputError: it is not a vector signal, or a setting has the wrong number of components.
    """
    values = signal_in(rollout, name)
    if values.ndim != 5:
        raise InputError(f"signal {name!r} has values of shape {tuple(values.shape[4:])}. Use a vector signal.")
    for entry in settings:
        if isinstance(entry, tuple) and len(entry) != values.shape[-1]:
            raise InputError(f"signal {name!r} has {values.shape[-1]} components, got {len(entry)} values: {entry}.")
    return precise(values)


def end(rollout: Rollout, name: str, sign: Literal[-1, 1], *settings: PerComponent) -> Float[Tensor, "W N S T size"]:
    """The vector signal, or with a probability (`Chance`) the upper (+1) or lower (-1) edge of its band.

    Raises:
        UnknownNameError, InputError: as in `components`.
    """
    values = components(rollout, name, *settings)
    if name not in rollout.margin:
        return values
    return values.mean(2, keepdim=True) + sign * rollout.margin[name].to(values)


def shorter(rollout: Rollout, name: str, difference: Tensor) -> Tensor:
    """The difference of two values of a signal, wrapped to half a period if the signal is periodic."""
    if name not in rollout.periods:
        return difference
    half = rollout.periods[name] / 2
    # From -half to half: `remainder` has the sign of its divisor, unlike `fmod`.
    return (difference + half).remainder(2 * half) - half


def worst(excess: Float[Tensor, "W N S T"], quantile: float) -> Float[Tensor, "W N"]:
    """The quantile over samples of the largest excess over steps, at least 0; NaN if a value is NaN."""
    # "higher" returns the violation of one sample; interpolation would mix two samples.
    return excess.amax(-1).quantile(quantile, dim=-1, interpolation="higher").clamp(min=0.0)
