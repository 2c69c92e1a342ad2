"""Constraints on named signals in physical units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import ConfigError
from worldline.planning.base import Rollout, Rule
from worldline.planning.costs.convex import LinearConstraint
from worldline.planning.costs.rollout_signals import PerComponent, constant, end, worst


@final
class AtMost(LinearConstraint, frozen=True, kw_only=True):
    """Constrains a signal to stay at or below a bound. The violation [W, N] is in the signal's unit.

    The violation of one sample is its largest excess over all steps and components.

    Args:
        signal: a vector signal.
        bound: one bound for all components, or one per component; infinity for none.
        quantile: quantile over the S samples, from 0 (the best) to 1 (the worst). With 0.9, one sample in ten may
            violate the constraint.
    """

    signal: str
    bound: PerComponent
    quantile: float = 1.0

    def __post_init__(self) -> None:
        _check(self.quantile, self.bound)

    def excess(self, rollout: Rollout) -> Float[Tensor, "W N S T size"]:
        """The excess over the bound."""
        upper = end(rollout, self.signal, 1, self.bound)
        return upper - constant(self.bound, upper)


@final
class AtLeast(LinearConstraint, frozen=True, kw_only=True):
    """Constrains a signal to stay at or above a bound; otherwise as `AtMost`.

    Args:
        signal: a vector signal.
        bound: one bound for all components, or one per component; minus infinity for none.
        quantile: as in `AtMost`.
    """

    signal: str
    bound: PerComponent
    quantile: float = 1.0

    def __post_init__(self) -> None:
        _check(self.quantile, self.bound)

    def excess(self, rollout: Rollout) -> Float[Tensor, "W N S T size"]:
        """How far the signal is below the bound."""
        lower = end(rollout, self.signal, -1, self.bound)
        return constant(self.bound, lower) - lower


@final
class KeepOut(Rule, frozen=True, kw_only=True):
    """Constrains the signals to stay outside a box. The violation is [W, N].

    The violation of one sample is its largest depth over the steps: the distance to the nearest face, in the unit of
    that face's signal. Only predicted states count, not the path between two of them.

    Args:
        low: per vector signal its lower face, one for all components or one per component; minus infinity for none.
        high: per vector signal its upper face, with the same names as `low`; infinity for none.
        quantile: as in `AtMost`.
    """

    low: Mapping[str, PerComponent]
    high: Mapping[str, PerComponent]
    quantile: float = 1.0

    def __post_init__(self) -> None:
        if not self.low or self.low.keys() != self.high.keys():
            raise ConfigError(f"low names {sorted(self.low)}, high {sorted(self.high)}. Name the same signals in both.")
        _check(self.quantile, *self.low.values(), *self.high.values())
        # A box without a face holds all states, so no plan could satisfy the constraint.
        faces = [np.ravel(bound) for bound in (*self.low.values(), *self.high.values())]
        if np.isinf(np.concatenate(faces)).all():
            raise ConfigError("the box has no face. Give at least one finite bound, or leave the constraint out.")

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N"]:
        """The violation; 0 outside the box and on its faces."""
        depths = []
        for name, low in self.low.items():
            high = self.high[name]
            # The depth below a face is largest at the edge of the band that is farther from it.
            above, below = end(rollout, name, 1, low, high), end(rollout, name, -1, low, high)
            depth = torch.minimum(above - constant(low, above), constant(high, below) - below)
            depths.append(depth.amin(-1))
        # The nearest face over all signals: the state is outside if it is outside in one component.
        return worst(torch.stack(torch.broadcast_tensors(*depths)).amin(0), self.quantile)


def _check(quantile: float, *bounds: PerComponent) -> None:
    if not 0 <= quantile <= 1:
        raise ConfigError(f"quantile is {quantile}. It must be in [0, 1].")
    for bound in bounds:
        if np.isnan(bound).any():
            raise ConfigError(f"a bound is {bound}. It must not be NaN.")
