"""Access to the signals of a rollout, for costs and constraints, and the errors of signals to their targets."""

from __future__ import annotations

from collections.abc import Mapping
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
Scales = Mapping[str, Numbers]
"""Per target the error that counts as 1."""


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


def target_cost(rollout: Rollout, targets: Mapping[str, Tensor], scale: Scales) -> Float[Tensor, "W N S T"]:
    """The squared error to the targets at each step, averaged over components and summed over signals.

    Errors of periodic signals are wrapped.

    Args:
        rollout: the predicted signals.
        targets: per signal the target value [W, *shape] (W may be 1), physical units. Integer signals are labels: their
            error is 1 if they differ.
        scale: per target the error that counts as 1, above 0: a number, or one per component.

    Raises:
        InputError: there is no target, one has the wrong shape, or a scale is not above 0.
        UnknownNameError: a target is not predicted, or has no scale.
    """
    if not targets:
        raise InputError("the goal has no target. Give at least one signal and its target value.")
    errors = [scaled_error(rollout, name, target, scale) for name, target in targets.items()]
    # A mean over components, so that a vector of many components weighs as much as one of few.
    squares = [error.square().flatten(4).mean(-1) if error.ndim > 4 else error.square() for error in errors]
    # An axis may have size 1 in some signals only.
    return torch.stack(torch.broadcast_tensors(*squares)).sum(0)


def scaled_error(rollout: Rollout, name: str, target: Tensor, scale: Scales) -> Tensor:
    """The error of a signal to its target [W, N, S, T, *shape], divided by its scale."""
    values = signal_in(rollout, name)
    if name not in scale:
        raise UnknownNameError("scale", name, scale)
    unit = constant(scale[name], precise(values))
    if not bool((unit > 0).all()):
        raise InputError(f"the scale of {name!r} is {scale[name]}. It must be above 0.")
    if target.ndim != values.ndim - 3 or target.shape[1:] != values.shape[4:]:
        shape = (len(values), *values.shape[4:])
        raise InputError(f"the target of {name!r} has shape {tuple(target.shape)}, expected [W, *shape] = {shape}.")
    expected = target[:, None, None, None]
    if not values.is_floating_point():  # the distance of two labels has no meaning
        return (values != expected) / unit
    return shorter(rollout, name, precise(values) - expected) / unit
