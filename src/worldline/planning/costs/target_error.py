"""The error of predicted signals to the targets of a goal."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.errors import InputError, UnknownNameError
from worldline.planning.base import Rollout
from worldline.planning.costs.rollout_signals import Floats, signal_in
from worldline.schema import Signal


def target_cost(
    rollout: Rollout,
    targets: Arrays,
    scale: Mapping[str, float | NDArray[np.floating]],
    signals: Mapping[str, Signal] | None = None,
) -> Float[np.ndarray, "W N S T"]:
    """The squared error to the targets at each step, averaged over components and summed over signals.

    Args:
        rollout: the predicted signals.
        targets: per signal the target value [W, *shape] (W may be 1), physical units. Integer signals are labels: their
            error is 1 if they differ.
        scale: per target the error that counts as 1, above 0: a number, or one per component.
        signals: periodic signals among the targets, whose errors are wrapped; default is none.

    Raises:
        InputError: there is no target, one has the wrong shape, or a scale is not above 0.
        UnknownNameError: a target is not predicted, or has no scale.
    """
    if not targets:
        raise InputError("the goal has no target. Give at least one signal and its target value.")
    total: Floats = np.zeros(())
    for name in targets:
        error = _scaled_error(rollout, name, targets, scale, signals)
        total = total + (error**2).reshape(*error.shape[:4], -1).mean(-1)
    return total


def target_slopes(
    rollout: Rollout,
    targets: Arrays,
    scale: Mapping[str, float | NDArray[np.floating]],
    signals: Mapping[str, Signal] | None = None,
) -> dict[str, Floats]:
    """Per target, none of them a label, the gradient [W, N, S, T, *shape] of `target_cost`."""
    slopes = dict[str, Floats]()
    for name in targets:
        error = _scaled_error(rollout, name, targets, scale, signals)
        slopes[name] = 2 * error / np.asarray(scale[name], dtype=float) / max(1, math.prod(error.shape[4:]))
    return slopes


def _scaled_error(
    rollout: Rollout,
    name: str,
    targets: Arrays,
    scale: Mapping[str, float | NDArray[np.floating]],
    signals: Mapping[str, Signal] | None,
) -> Floats:
    """The error of a signal to its target [W, N, S, T, *shape], divided by its scale."""
    values, target = signal_in(rollout, name), targets[name]
    if name not in scale:
        raise UnknownNameError("scale", name, scale)
    unit = np.asarray(scale[name], dtype=float)
    if not np.all(unit > 0):
        raise InputError(f"the scale of {name!r} is {scale[name]}. It must be above 0.")
    if target.ndim != values.ndim - 3 or target.shape[1:] != values.shape[4:]:
        shape = (len(values), *values.shape[4:])
        raise InputError(f"the target of {name!r} has shape {target.shape}, expected [W, *shape] = {shape}.")
    expected = target[:, None, None, None]
    if np.issubdtype(values.dtype, np.integer):
        return np.asarray((values != expected) / unit)
    if signals is not None and name in signals:
        return np.asarray(signals[name].difference(values.astype(float), expected) / unit)
    return np.asarray((values.astype(float) - expected) / unit)
