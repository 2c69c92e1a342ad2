"""Costs and constraints that are written with NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worldline.device import CPU
from worldline.episode import Arrays
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Rollout
from worldline.planning.costs.rollout_signals import exact


@dataclass(frozen=True, kw_only=True)
class NumpyRollout:
    """The part of a `Rollout` that NumPy functions read, with the same shapes and units."""

    signals: Arrays
    present: Arrays = field(default_factory=dict)
    margin: Arrays = field(default_factory=dict)
    periods: Mapping[str, float] = field(default_factory=dict)


def from_numpy(function: Callable[[NumpyRollout], NDArray[np.generic]]) -> Callable[[Rollout], Tensor]:
    """A cost or constraint from a NumPy function of a rollout.

    It has no gradient, and each call copies the signals to the CPU. Write the function with torch if that matters.

    Args:
        function: returns the cost [W, N, S, T] of each step and sample, or the violation [W, N] of a constraint.

    Raises:
        UnsupportedError: by the result, if a gradient is requested.
        InputError: by the result, if the function does not return numbers.
    """

    def adapted(rollout: Rollout) -> Tensor:
        # In a sum with a differentiable cost, the gradient would ignore this function without notice.
        if any(value.requires_grad for value in rollout.signals.values()):
            raise UnsupportedError(
                "a cost or constraint from from_numpy has no gradient, which the planner 'gradient' needs. Write it "
                "with torch, or use the planner 'cem'."
            )
        signals, present, margin = map(_arrays, (rollout.signals, rollout.present, rollout.margin))
        arrays = NumpyRollout(signals=signals, present=present, margin=margin, periods=rollout.periods)
        result = np.asarray(function(arrays))
        if result.dtype.kind not in "fiub":
            raise InputError(f"a function of from_numpy returned dtype {result.dtype}. Return numbers.")
        # The costs are added to those of torch functions, so they must be on the device of the rollout.
        device = next((value.device for value in rollout.signals.values()), CPU)
        return exact(result.astype(np.float64), device)

    return adapted


def _arrays(values: Mapping[str, Tensor]) -> Arrays:
    return {name: value.cpu().numpy() for name, value in values.items()}
