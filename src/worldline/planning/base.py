"""The planning contract: goals, costs, constraints, and the rollout that costs read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import final

import msgspec
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldline.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """The predicted trajectories of N candidate plans, as costs and constraints see them.

    A model is rolled out once per population. All costs and constraints read the same rollout, and each of its
    functions computes its result at most once. An axis has size 1 if the values do not differ along it.

    Args:
        signals: per predicted, action and exogenous signal [W, N, S, T, *shape], physical units. Entry t along T is the
            input of step t, or the observation after step t. Vectors are differentiable in the actions if the engine
            computes with torch.
        present: per signal its last known value [W, *shape]; a vector that a world did not observe is NaN. Missing are
            inputs before the first step, and other kinds of signals that a world did not observe.
        margin: per predicted vector signal half the width of its prediction band [T, *shape], for constraints with a
            probability (`Chance`); else empty. The centre of the band is the mean of the samples.
        periods: per periodic signal its period, in its unit. Constraints do not use them: a bound applies to the
            predicted value without wrapping.
        goal_distance: maps a goal from `GoalDistance.encode_goal` to the steps [W, N, T] from each predicted state to
            it, at least 0. None if the engine has no distance head.
        ood_score: returns the out-of-distribution score [W, N, T] of the predicted states; larger is less familiar.
            None if the engine has no such score.
        images: returns per image signal the drawn images [W, N, T, height, width, channels], uint8. None if the engine
            draws none.
        reward: returns the expected reward [W, N, T] of each step. None if the engine does not predict it.
        termination: returns the probability [W, N, T] that a step ends the episode, given that no step before it did.
            None if the engine does not predict it.
        trust: maps a p-value to the p-values [W, N, 1, T] of the predicted states. Its argument is the smallest p-value
            that must be resolved. The result means the same as `Prediction.trust`, as if each state were observed.
            Raises `UnsupportedError` if the world has no such score, or if its calibration cannot resolve the argument.
            None if no world made the rollout.
    """

    signals: Mapping[str, Tensor]
    present: Mapping[str, Tensor] = field(default_factory=dict)
    margin: Mapping[str, Tensor] = field(default_factory=dict)
    periods: Mapping[str, float] = field(default_factory=dict)
    goal_distance: Callable[[object], Tensor] | None = None
    ood_score: Callable[[], Tensor] | None = None
    images: Callable[[], Mapping[str, Tensor]] | None = None
    reward: Callable[[], Tensor] | None = None
    termination: Callable[[], Tensor] | None = None
    trust: Callable[[float], Tensor] | None = None


@final
class LazySignals(Mapping[str, Tensor]):
    """Named signals that are computed together when the first of them is read.

    Args:
        names: of the signals.
        compute: returns all of them; called at most once.
    """

    def __init__(self, names: Sequence[str], compute: Callable[[], Mapping[str, Tensor]]) -> None:
        self._names, self._compute = tuple(names), cache(compute)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._compute()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


Cost = Callable[[Rollout], Tensor]
"""Maps a rollout to the cost of each step and sample, [W, N, S, T] or broadcastable to it; lower is better.

It is written with torch, and differentiable for the planner 'gradient'. `from_numpy` adapts a NumPy function."""
Constraint = Callable[[Rollout], Tensor]
"""Maps a rollout to the violation [W, N], at least 0; the constraint holds if it is 0. Written as a `Cost` is."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, tag_field="rule", tag=True):
    """The base of the costs and constraints that can be sent to another process: plain values under a class name."""


@final
class Chance(Rule, frozen=True, kw_only=True):
    """A constraint that the whole path must satisfy with a given probability, by the calibrated prediction bands.

    Bands are calibrated on logged actions. A planner selects the best of many candidates, which favours candidates with
    prediction errors in their favour. So measure in closed loop how often the constraint is violated.

    Args:
        constraint: one that uses `Rollout.margin`, as those in `worldline.planning.costs` do. For any other constraint,
            the level has no effect.
        level: the probability, between 0 and 1. Each signal has its own band: if a constraint reads several signals,
            each of them stays inside its band with this probability.
    """

    constraint: Constraint
    level: float

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"level is {self.level}. Give a probability between 0 and 1, such as 0.9.")

    def __call__(self, rollout: Rollout) -> Float[Tensor, "W N"]:
        """The constraint's own violation."""
        return self.constraint(rollout)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The targets, costs and reward of a plan.

    The cost of a step is its distance to the targets plus `costs`, minus the reward if `reward` is set. The cost of a
    plan is the sum over its steps. The distance is the squared error divided by the squared tolerance, or the number
    of steps to a goal observation.

    Args:
        targets: per observation signal the target value [*shape], physical units; a number for a signal of one
            component. A target image is a goal observation
            and needs a distance head.
        tolerance: per vector signal the error that counts as reached, physical units; default is one standard
            deviation of the signal in the calibration data.
        costs: additional costs, such as those in `worldline.planning.costs`; with costs, targets may be empty.
        reward: whether the predicted reward of a step is subtracted from its cost, in the unit of the logs; targets and
            costs may then be empty. Needs a reward head. If the world predicts termination, a reward is weighted with
            the probability that no earlier step ends the episode; distance and `costs` are not.
        in_steps: whether the targets are a goal observation with a distance in steps. Use it if the path to the goal is
            not straight, as in a maze. The targets must then hold all inputs of the model. Target images always have a
            distance in steps. Needs a distance head.
        discount: weight of a step relative to the step before, above 0 and at most 1.
        last_only: whether only the last step counts: its distance, costs and reward.
        risk: share of the samples, the worst ones, whose mean is the cost (conditional value at risk): 1 for all, 0.1
            for the worst tenth. Above 0 and at most 1. It must be 1 with a goal observation or a reward, because they
            are means over the samples.
    """

    targets: Mapping[str, NDArray[np.generic] | float] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=dict)
    costs: Sequence[Cost] = ()
    reward: bool = False
    in_steps: bool = False
    discount: float = 1.0
    last_only: bool = False
    risk: float = 1.0
