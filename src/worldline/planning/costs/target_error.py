"""The error of predicted signals to the targets of a goal."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import InputError, UnknownNameError
from worldline.planning.base import Rollout
from worldline.planning.costs.rollout_signals import Numbers, constant, precise, shorter, signal_in


def target_cost(
    rollout: Rollout, targets: Mapping[str, Tensor], scale: Mapping[str, Numbers]
) -> Float[Tensor, "W N S T"]:
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


def scaled_error(rollout: Rollout, name: str, target: Tensor, scale: Mapping[str, Numbers]) -> Tensor:
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
