"""What a plan is asked to do: goals, costs, constraints, and the view of a plan that costs read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What N plans would lead to, as costs and constraints see it. An axis is 1 where nothing differs along it.

    Args:
        signals: per predicted, action and exogenous signal [W, N, S, T, *shape], physical units; [..., k, ...] of an
            action is that of step k, of an observation what step k leads to.
        present: per signal its last value so far [W, *shape]; NaN in a world where a vector was not observed. Left out
            are inputs where none was taken yet, and what is no vector where a world has not observed it.
        margin: per predicted vector signal half the width of its band [T, *shape], for a constraint that has to hold
            with a probability (`Chance`); else empty. The band is around the mean of the samples.
        periods: of the signals that repeat, in their units. Rules do not heed them: a bound is one of the value as it
            is imagined.
        trust: takes the p-value that states are to be told by, and gives [W, N, 1, T], of each imagined state what
            `Prediction.trust` is of the present, as if the state had been observed. Raises `UnsupportedError` where
            the world cannot tell, `InputError` where it cannot tell p-values as small. None where nothing stands
            behind the signals.
    """

    signals: Arrays
    present: Arrays = field(default_factory=dict)
    margin: Arrays = field(default_factory=dict)
    periods: Mapping[str, float] = field(default_factory=dict)
    trust: Callable[[float], NDArray[np.floating]] | None = None


Cost = Callable[[Rollout], NDArray[np.floating]]
"""Gives the cost of each step, for every sample [W, N, S, T], or what can be broadcast to it; lower is better."""
Constraint = Callable[[Rollout], NDArray[np.floating]]
"""Gives the violation [W, N], at least 0; the constraint holds where it is 0."""


@dataclass(frozen=True, kw_only=True)
class Chance:
    """A constraint that the whole path has to hold with a probability, by the world's calibrated joint bands.

    Bands were calibrated on actions as they are logged. A plan is the best of many, so it leans towards errors in its
    favour: measure how often rules are broken in your own loop.

    Args:
        constraint: one that heeds `Rollout.margin`, as those of `worldline.planning.costs` do. One that does not holds for what
            is expected, whatever the level.
        level: the probability, between 0 and 1. One band holds for each signal: where a constraint looks at several,
            each of them is inside its own with this probability.
    """

    constraint: Constraint
    level: float

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"level is {self.level}. Give a probability between 0 and 1, such as 0.9.")

    def __call__(self, rollout: Rollout) -> NDArray[np.floating]:
        """The constraint's own violation."""
        return self.constraint(rollout)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Where to get to, and what it may cost.

    The cost of a plan is the squared error to the targets over their tolerances, or the distance in steps to them as a
    goal observation, plus `costs`, added up over the steps.

    Args:
        targets: per observation signal the wanted value [*shape], physical units. An image is a goal
            observation and needs a distance head.
        tolerance: per vector signal, how near counts as there, physical units; default is one standard
            deviation of the signal in the calibration data.
        costs: what else counts, such as those of `worldline.planning.costs`; targets may then be left out.
        in_steps: whether the targets, all that the model sees, are a goal observation, to be approached in steps: right
            where the way there is not straight, as in a maze. An image always is one. Needs a distance head.
        discount: what a step counts as a share of the one before, above 0 and at most 1.
        last_only: whether only the last step counts.
        risk: share of the samples, the worst ones, whose mean is the cost: 1 for all of them, 0.1 for the worst tenth
            (conditional value at risk). Above 0, at most 1; and 1 where a goal observation is approached, since its
            distance is a mean over them.
    """

    targets: Arrays = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=dict)
    costs: Sequence[Cost] = ()
    in_steps: bool = False
    discount: float = 1.0
    last_only: bool = False
    risk: float = 1.0
