"""The product contract: what applications hold. NumPy, named signals, physical units; no latents.

Verbs take one world or a batch: where the arrays of `history` carry a leading W axis, so do all arguments and
results. The shapes below leave W out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.planning.base import Constraint, Goal


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The future of one signal.

    Args:
        mean: [T, *shape].
        low: [T, *shape], lower edge of the joint band; None for images. Infinite where the signal was observed too
            seldom in the calibration data for the level.
        high: [T, *shape], upper edge. The whole trajectory lies inside with probability `level`; None for images.
        horizon: the last step at which held-out episodes were predicted with skill: with a smaller squared error than
            both persistence and the mean of the signal, or one below a twentieth of its variance. 0 to T; 0 where
            that was not told. Also [W] in a batch.
    """

    mean: NDArray[np.generic]
    low: NDArray[np.floating] | None
    high: NDArray[np.floating] | None
    horizon: int | NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What will happen.

    Args:
        signals: a forecast per predicted signal.
        level: the probability that the bands were calibrated for.
        trust: p-value of the history under the calibration data, 0 to 1: small means unlike anything seen. It judges
            the present, and how well each step of the history follows from those before it: the more steps a history
            has beyond `Card.context`, the more it tells. Also [W].
        calibrated: False where no calibration exists; bands are then None.
    """

    signals: Mapping[str, Forecast]
    level: float
    trust: float | NDArray[np.floating]
    calibrated: bool


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How good each of N proposed plans is.

    Args:
        cost: [N], lower is better.
        violation: [N, C], 0 where a constraint holds.
        trust: as in `Prediction`.
    """

    cost: NDArray[np.floating]
    violation: NDArray[np.floating]
    trust: float | NDArray[np.floating]


class PlanStatus(StrEnum):
    """How a search ended."""

    CONVERGED = "converged"
    BUDGET_EXHAUSTED = "budget_exhausted"
    INFEASIBLE = "infeasible"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do.

    Args:
        actions: per action signal [T, *shape], inside the signal's bounds. Zero-length where refused.
        status: how the search ended. In a batch, the worst of the W.
        cost: of the plan.
        violation: [C].
        trust: as in `Prediction`.
        reason: why it was refused or is infeasible; empty otherwise.
        elapsed_s: time that planning took.
    """

    actions: Arrays
    status: PlanStatus
    cost: float | NDArray[np.floating]
    violation: NDArray[np.floating]
    trust: float | NDArray[np.floating]
    reason: str
    elapsed_s: float


class Abduction(StrEnum):
    """What was inferred from the whole episode before other actions were imagined."""

    FULL = "full"
    """Hidden causes and the noise of each step: the actions that were taken lead to what was logged.

    Known where the engine replays the episode; else inferred, with causes that are linear in one step and noise that
    adds to what is predicted (docs/design/abduction.md).
    """
    HIDDEN_CAUSE = "hidden_cause"
    """What stays the same during the episode; the noise is drawn anew or left out."""
    NONE = "none"
    """Nothing: a prediction from the history up to the branch."""


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """How the episode would have gone under other actions, all else equal.

    Args:
        signals: per predicted signal [T, *shape].
        factual: per predicted signal [T, *shape], what the same reasoning says of the actions that were taken.
        abduction: what "all else" covers.
        reason: why it is not more than that; empty where it is full.
    """

    signals: Arrays
    factual: Arrays
    abduction: Abduction
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A step at which something unexpected happened.

    Args:
        step: from 0: the one that leads to observation `step` + 1.
        signals: the predicted signals, the most unexpected first.
        p_value: of the step.
    """

    step: int
    signals: tuple[str, ...]
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Surprise:
    """How unexpected an episode was, as p-values: the share of calibration steps that were at least as surprising.

    Each is 1 where the value is missing, as nothing contradicts it there.

    Args:
        p_values: per predicted signal [T].
        entities: per entity of the schema that has a predicted signal [T], of all its signals together.
        steps: [T], of all predicted signals together.
        moments: the most surprising steps first; at most ten, none with a p-value above 0.1.
    """

    p_values: Mapping[str, NDArray[np.floating]]
    entities: Mapping[str, NDArray[np.floating]]
    steps: NDArray[np.floating]
    moments: tuple[Moment, ...]


class World(ABC):
    """A world that can be asked. Nothing of what stands behind it shows."""

    @abstractmethod
    def describe(self) -> Card:
        """What stands behind this world."""

    @abstractmethod
    def predict(
        self, history: History, actions: Arrays, *, exogenous: Arrays | None = None, level: float = 0.9
    ) -> Prediction:
        """What `actions` [T, *shape] would lead to, with a joint band for each signal.

        Raises:
            InputError: a signal is missing, has the wrong shape, or holds NaN.
        """

    @abstractmethod
    def score(
        self,
        history: History,
        actions: Arrays,
        goal: Goal,
        constraints: Sequence[Constraint] = (),
        *,
        exogenous: Arrays | None = None,
    ) -> Scores:
        """The cost of each of N plans [N, T, *shape], whoever proposed them.

        Raises:
            UnsupportedError: the goal is an observation that the engine has no distance for; names the head.
        """

    @abstractmethod
    def plan(
        self,
        history: History,
        goal: Goal,
        *,
        constraints: Sequence[Constraint] = (),
        horizon: int,
        exogenous: Arrays | None = None,
        proposals: Arrays | None = None,
        pending: Arrays | None = None,
        budget_s: float | None = None,
        min_trust: float = 0.0,
        seed: int = 0,
    ) -> Plan:
        """A plan of `horizon` steps towards `goal`; refused where trust is below `min_trust`.

        Args:
            history: the present.
            goal: where to get to.
            constraints: hold where their violation is 0.
            horizon: T, steps.
            exogenous: per signal [T, *shape], or [D + T, *shape] where D steps are pending; None where the schema has
                none.
            proposals: per action signal [P, T, *shape], sequences to start the search from, such as the last plan
                shifted; the plan is never worse than the best of them.
            pending: per action signal [D, *shape], what was sent already and takes effect before the plan, where an
                actuator lags behind by D steps. The cost is that of both together; None for nothing.
            budget_s: seconds in which the best plan so far is returned, counted from the call: what would take longer
                is not begun, but for a first few sequences and `proposals`; None for no limit.
            min_trust: smallest p-value of the present that is acted on, 0 to 1. Scored on n episodes, no p-value is
                below 1 / (n + 1): a smaller one refuses nothing.
            seed: of every draw.

        Raises:
            UnsupportedError: as in `score`; or the world heeds no actions.
        """

    @abstractmethod
    def what_if(self, episode: Episode, at: int, actions: Arrays) -> WhatIf:
        """What would have followed observation `at` under `actions` [T, *shape], T at most what is left.

        Raises:
            InputError: `at` or the number of steps does not fit the episode.
        """

    @abstractmethod
    def surprise(self, episode: Episode) -> Surprise:
        """How unexpected each step of `episode` was, as calibrated p-values.

        Raises:
            UnsupportedError: the world is not calibrated.
        """
