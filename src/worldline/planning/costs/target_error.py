"""How far imagined signals are from a goal."""

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
    """The squared error to the goal at each step, the mean over components, summed over the targeted signals.

    Args:
        rollout: imagined signals.
        targets: per signal the wanted value [W, *shape] (W may be 1), physical units. Integer signals count as
            labels: their error is 1 where they differ.
        scale: per targeted signal the error that counts as 1, above 0: a number, or one for each component.
        signals: the targeted signals that repeat, whose error is the shorter way round; default is that none does.

    Raises:
        InputError: no target, one of the wrong shape, or a scale that is not above 0.
        UnknownNameError: a target is not imagined, or has no scale.
    """
    if not targets:
        raise InputError("the goal has no target. Name at least one signal and the value that it should have.")
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
    """Per targeted signal, none of them labels, how `target_cost` changes with it [W, N, S, T, *shape]."""
    found = dict[str, Floats]()
    for name in targets:
        error = _scaled_error(rollout, name, targets, scale, signals)
        found[name] = 2 * error / np.asarray(scale[name], dtype=float) / max(1, math.prod(error.shape[4:]))
    return found


def _scaled_error(
    rollout: Rollout,
    name: str,
    targets: Arrays,
    scale: Mapping[str, float | NDArray[np.floating]],
    signals: Mapping[str, Signal] | None,
) -> Floats:
    """How far the signal is from its target [W, N, S, T, *shape], in what counts as 1."""
    values, target = signal_in(rollout, name), targets[name]
    if name not in scale:
        raise UnknownNameError("scale", name, scale)
    unit = np.asarray(scale[name], dtype=float)
    if not np.all(unit > 0):
        raise InputError(f"the scale of {name!r} is {scale[name]}. It must be above 0.")
    if target.ndim != values.ndim - 3 or target.shape[1:] != values.shape[4:]:
        due = (len(values), *values.shape[4:])
        raise InputError(f"the target of {name!r} has shape {target.shape}. [W, *shape] = {due} is wanted.")
    wanted = target[:, None, None, None]
    if np.issubdtype(values.dtype, np.integer):
        return np.asarray((values != wanted) / unit)
    if signals is not None and name in signals:
        return np.asarray(signals[name].difference(values.astype(float), wanted) / unit)
    return np.asarray((values.astype(float) - wanted) / unit)
