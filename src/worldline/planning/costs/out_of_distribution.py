"""Staying where the world knows its way: the penalty and the rule on imagined states that are unlike its data.

A search finds what a model is wrong about, and it is most wrong about what it never saw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from worldline.errors import ConfigError, InputError
from worldline.planning.base import Rollout


@dataclass(frozen=True, kw_only=True)
class OODPenalty:
    """What a step costs that leads to where the world knows little. Called on an outlook: [W, N, 1, T].

    Args:
        trust: p-value, in (0, 1], from which on a step costs nothing. It is that of an observed state as novel as the
            imagined one. The n episodes that set the widths of the bands give none below 1 / (n + 1), so 0.05 asks
            for 20 of them at least; with fewer the world refuses.
        weight: what a step costs at a p-value of 0, above 0; in between in proportion.
    """

    trust: float = 0.05
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self.trust)
        if not (self.weight > 0 and np.isfinite(self.weight)):
            raise ConfigError(f"weight is {self.weight}. It must be above 0.")

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N 1 T"]:
        """The cost of each step."""
        return self.weight * _lacking(rollout, self.trust)


@dataclass(frozen=True, kw_only=True)
class RequireInDistribution:
    """No step leads to where the world knows too little. Called on an outlook: the violation [W, N], in [0, 1].

    Args:
        trust: p-value, in (0, 1], that every imagined state must have; see `OODPenalty`. Of long plans many lead
            through a state or two that are rarer than that, however ordinary they are: choose it small.
    """

    trust: float = 0.05

    def __post_init__(self) -> None:
        _check(self.trust)

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N"]:
        """The largest share of that p-value which a step lacks; 0 where the rule holds."""
        return np.asarray(_lacking(rollout, self.trust)[:, :, 0].max(-1))


def _lacking(rollout: Rollout, trust: float) -> Float[np.ndarray, "W N 1 T"]:
    if rollout.trust is None:
        raise InputError("the outlook says nothing of trust. Take one that a world made, in `plan` or `score`.")
    return np.asarray(np.maximum(1 - rollout.trust(trust) / trust, 0.0))


def _check(trust: float) -> None:
    if not 0 < trust <= 1:
        raise ConfigError(f"trust is {trust}. It must be above 0 and at most 1.")
