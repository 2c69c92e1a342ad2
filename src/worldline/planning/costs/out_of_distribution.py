"""A cost and a constraint on predicted states that are out of distribution.

A search exploits model errors, which are largest far from the training data.
"""

from __future__ import annotations

import math
from typing import final

from jaxtyping import Float
from torch import Tensor

from worldline.errors import ConfigError, InputError
from worldline.planning.base import Rollout, Rule


@final
class OODPenalty(Rule, frozen=True, kw_only=True):
    """The cost [W, N, 1, T] of steps that lead to out-of-distribution states.

    Args:
        trust: p-value, in (0, 1], at and above which a step costs nothing. The p-value of a predicted state is that of
            an observed state with the same out-of-distribution score. With n calibration episodes the smallest p-value
            is 1 / (n + 1), so 0.05 needs at least 20 of them; with fewer the world raises `InputError`.
        weight: cost of a step with p-value 0, above 0; the cost falls linearly to 0 at `trust`.

    The planner `gradient` descends it although a p-value is a step function: where the step costs something, the
    gradient is that of a p-value that falls linearly with the score (a straight-through estimator, arXiv 1308.3432).
    """

    trust: float = 0.05
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self.trust)
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ConfigError(f"weight is {self.weight}. It must be above 0.")

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N 1 T"]:
        """The cost of each step."""
        return self.weight * _shortfall(rollout, self.trust)


@final
class RequireInDistribution(Rule, frozen=True, kw_only=True):
    """Constrains all predicted states to be in distribution. The violation [W, N] is in [0, 1].

    Args:
        trust: smallest p-value, in (0, 1], of every predicted state; see `OODPenalty`. Choose a small value: an
            ordinary long plan passes through some rare states too.
    """

    trust: float = 0.05

    def __post_init__(self) -> None:
        _check(self.trust)

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N"]:
        """The largest relative shortfall of a step's p-value; 0 if the constraint holds."""
        return _shortfall(rollout, self.trust)[:, :, 0].amax(-1)


def _shortfall(rollout: Rollout, trust: float) -> Float[Tensor, "W N 1 T"]:
    if rollout.trust is None:
        raise InputError("the rollout has no trust. Use one that a world made, in `plan` or `score`.")
    # 1 for a p-value of 0, and 0 from `trust` on, so `trust` is also the smallest p-value that must be resolved.
    return (1 - rollout.trust(trust) / trust).clamp(min=0.0)


def _check(trust: float) -> None:
    if not 0 < trust <= 1:
        raise ConfigError(f"trust is {trust}. It must be above 0 and at most 1.")
