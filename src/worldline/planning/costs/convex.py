"""Costs and constraints that are convex functions of affine expressions in the signals.

Over a world that is linear in the actions, these make planning a convex quadratic program, see `world/exact_plan.py`.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from worldline.planning.base import Rollout, Rule
from worldline.planning.costs.rollout_signals import worst


class Form(Enum):
    """What a cost makes of its affine expressions, which are then summed."""

    LINEAR = "linear"
    SQUARE = "square"
    HINGE = "hinge"
    """The square of the positive part."""

    def total(self, values: Float[Tensor, "W N S T K"]) -> Float[Tensor, "W N S T"]:
        """The cost of each step."""
        if self is Form.LINEAR:
            return values.sum(-1)
        return (values.clamp(min=0.0) if self is Form.HINGE else values).square().sum(-1)


class ConvexCost(Rule, frozen=True, kw_only=True, eq=False):
    """A cost of each step, given by affine expressions in the signals and their form."""

    form: ClassVar[Form]

    def expressions(self, rollout: Rollout) -> Float[Tensor, "W N S T K"]:
        """The values of the K expressions; affine in the signals, except where a periodic signal is wrapped."""
        raise NotImplementedError  # a struct of msgspec cannot be abstract

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N S T"]:
        """The cost of each step."""
        return self.form.total(self.expressions(rollout))


class LinearConstraint(Rule, frozen=True, kw_only=True):
    """Constrains affine expressions in the signals to be at most 0.

    The violation of a sample is its largest excess over all steps and expressions.

    Args:
        signal: a vector signal.
        quantile: over the S samples, from 0 (the best) to 1 (the worst). With 0.9, one sample in ten may violate the
            constraint.
    """

    signal: str
    quantile: float = 1.0

    def excess(self, rollout: Rollout) -> Float[Tensor, "W N S T K"]:
        """The values of the K expressions, in the unit of the signal."""
        raise NotImplementedError  # a struct of msgspec cannot be abstract

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N"]:
        """The violation; 0 if the constraint holds."""
        return worst(self.excess(rollout).amax(-1), self.quantile)
