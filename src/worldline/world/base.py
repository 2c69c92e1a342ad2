"""The public contract of a world: `World` and the results of its verbs.

Arrays are NumPy arrays of named signals in physical units. No latents appear. Every verb except `describe`,
`what_if` and `surprise` takes one world or a batch of W worlds. If the arrays of `history` have a leading W axis, all
arguments and results have it too. The shapes below leave W out.

Notation: H observations in the history, T predicted steps, N candidate plans, C constraints.
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
from worldline.planning.base import Constraint, Goal, PlanRequest


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The predicted path of one signal.

    Args:
        mean: [T, *shape], mean over the samples, in the signal's unit; the most frequent value if discrete.
        low: [T, *shape], lower edge of the prediction band, in the signal's unit. None if uncalibrated or not a vector.
            -inf if the calibration data observe the signal too rarely for `Prediction.level`.
        high: [T, *shape], upper edge, with +inf and None likewise. The band is simultaneous: the whole path lies inside
            with probability `Prediction.level`.
        horizon: last step with skill on held-out episodes, 0 to T; also [W] in a batch. 0 means no skill, or unknown.
            A step has skill if its squared error is below that of both persistence and the signal's mean. An
            error below a twentieth of the signal's variance also counts.
    """

    mean: NDArray[np.generic]
    low: NDArray[np.floating] | None
    high: NDArray[np.floating] | None
    horizon: int | NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer of `World.predict`.

    Args:
        signals: one forecast per predicted signal.
        level: probability of the bands, in (0, 1).
        trust: p-value of the history under the calibration data, 0 to 1; NaN if the world is not calibrated. Small
            values mean out of distribution. It tests the present, and whether the latest steps follow from those
            before them. Histories longer than `Card.context` give a stronger test. Also [W] in a batch.
        calibrated: whether calibrated bands exist. If False, all bands are None.
    """

    signals: Mapping[str, Forecast]
    level: float
    trust: float | NDArray[np.floating]
    calibrated: bool


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The answer of `World.score` for N candidate plans.

    Args:
        cost: [N], in the terms of the goal; lower is better.
        violation: [N, C], at least 0. A constraint holds where it is 0.
        trust: as in `Prediction`.
    """

    cost: NDArray[np.floating]
    violation: NDArray[np.floating]
    trust: float | NDArray[np.floating]


class PlanStatus(StrEnum):
    """How a plan search ended."""

    CONVERGED = "converged"
    BUDGET_EXHAUSTED = "budget_exhausted"
    INFEASIBLE = "infeasible"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer of `World.plan`.

    Args:
        actions: per action signal [T, *shape], inside the signal's bounds. T is 0 if the plan was refused.
        status: how the search ended. In a batch, the worst status of the W worlds.
        cost: cost of the plan, in the terms of the goal; NaN if refused. Also [W] in a batch.
        violation: [C], at least 0; NaN if refused.
        trust: as in `Prediction`.
        reason: why the plan was refused or is infeasible; else empty.
        elapsed_s: planning time in seconds.
    """

    actions: Arrays
    status: PlanStatus
    cost: float | NDArray[np.floating]
    violation: NDArray[np.floating]
    trust: float | NDArray[np.floating]
    reason: str
    elapsed_s: float


class Abduction(StrEnum):
    """What `World.what_if` inferred from the whole episode before it predicted other actions."""

    FULL = "full"
    """Hidden causes and the noise of each step. The logged actions reproduce the logged observations.

    Exact if the engine replays the episode. Otherwise inferred, for causes that are linear in one step and for additive
    noise (docs/design/abduction.md).
    """
    HIDDEN_CAUSE = "hidden_cause"
    """Hidden causes that are constant during the episode. Noise is drawn anew or left out."""
    NONE = "none"
    """Nothing. The prediction uses the history up to the branch only."""


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """The answer of `World.what_if`: the episode under other actions, all else equal.

    Args:
        signals: per predicted signal [T, *shape], under the other actions.
        factual: per predicted signal [T, *shape], under the logged actions, by the same method.
        abduction: what "all else" covers.
        reason: why `abduction` is not full; empty if it is.
    """

    signals: Arrays
    factual: Arrays
    abduction: Abduction
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A step with an unexpected outcome.

    Args:
        step: index from 0. Step t leads to observation t + 1.
        signals: the predicted signals, the most unexpected first.
        p_value: p-value of the step, 0 to 1.
    """

    step: int
    signals: tuple[str, ...]
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Surprise:
    """The answer of `World.surprise`: calibrated p-values of the steps of an episode.

    A p-value is the share of calibration steps that were at least as surprising, 0 to 1. It is 1 where the value is
    missing.

    Args:
        p_values: per predicted signal [T].
        entities: per entity with a predicted signal [T], over all its signals.
        steps: [T], over all predicted signals.
        moments: at most ten steps, the most surprising first, each with a p-value of at most 0.1.
    """

    p_values: Mapping[str, NDArray[np.floating]]
    entities: Mapping[str, NDArray[np.floating]]
    steps: NDArray[np.floating]
    moments: tuple[Moment, ...]


class World(ABC):
    """A world model as applications use it, independent of the engine behind it.

    Raises:
        UnavailableError: by any verb, if the world runs in another process and that process cannot be reached.
    """

    @abstractmethod
    def describe(self) -> Card:
        """The card of this world: schema, predicted signals, context, abilities and cost of a call."""

    @abstractmethod
    def predict(
        self, history: History, actions: Arrays, *, exogenous: Arrays | None = None, level: float = 0.9
    ) -> Prediction:
        """Predicts the signals under `actions`, with a simultaneous prediction band per vector signal.

        Args:
            history: H observations and the H - 1 inputs between them; best with `Card.context` observations or more.
            actions: per action signal [T, *shape], physical units, inside the signal's bounds.
            exogenous: per exogenous signal [T, *shape], physical units; None if the schema has none.
            level: probability of the bands, in (0, 1).

        Raises:
            InputError: a signal is missing, has the wrong shape or dtype, is outside its bounds, or is not finite.
            InputError: the calibration has too few episodes for `level`, or a horizon below T.
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
        """Evaluates N candidate plans.

        Args:
            history: as in `predict`.
            actions: per action signal [N, T, *shape], physical units, inside the signal's bounds.
            goal: defines the cost.
            constraints: C functions of a rollout. A constraint holds where its violation is 0.
            exogenous: as in `predict`; the same for all plans.

        Raises:
            InputError: as in `predict`; or a target, cost or constraint has the wrong shape or range.
            UnsupportedError: the goal needs a distance head that the engine lacks. The message names the head.
        """

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
        """Searches a plan of `horizon` steps towards `goal`.

        The plan is refused if the trust in the history is below `min_trust`. `PlanRequest` describes the arguments in
        detail.

        Args:
            history: as in `predict`.
            goal: defines the cost.
            constraints: as in `score`.
            horizon: T, number of steps, at least 1.
            exogenous: per signal [T, *shape], or [D + T, *shape] with D pending steps; None if the schema has none.
            proposals: per action signal [P, T, *shape], start sequences of the search. The plan is never worse than
                the best of them.
            pending: per action signal [D, *shape], actions that are already sent and take effect before the plan.
            budget_s: seconds from the call, above 0, after which the best plan so far is returned; None for no limit.
            min_trust: smallest trust that is accepted, 0 to 1.
            seed: seed of every random draw.

        Raises:
            InputError: as in `score`; or an action signal has no finite bounds; or a number is out of range.
            UnsupportedError: as in `score`; or the world is not action-conditioned.
        """
        request = PlanRequest(
            goal=goal,
            constraints=constraints,
            horizon=horizon,
            exogenous=exogenous,
            proposals=proposals,
            pending=pending,
            budget_s=budget_s,
            min_trust=min_trust,
            seed=seed,
        )
        return self.answer_plan(history, request)

    @abstractmethod
    def answer_plan(self, history: History, request: PlanRequest) -> Plan:
        """Implements `plan`. A world that wraps another one forwards the request.

        Args:
            history: as in `predict`.
            request: the other arguments of `plan`.

        Raises:
            InputError: as in `plan`.
            UnsupportedError: as in `plan`.
        """

    @abstractmethod
    def what_if(self, episode: Episode, at: int, actions: Arrays) -> WhatIf:
        """Predicts how one episode would have continued after observation `at` under other actions.

        Args:
            episode: one logged episode, without a W axis.
            at: index of the last common observation, at least 0.
            actions: per action signal [T, *shape]; `at` + T is at most the number of steps of the episode.

        Raises:
            InputError: `at` or T does not fit the episode.
        """

    @abstractmethod
    def surprise(self, episode: Episode) -> Surprise:
        """Measures how unexpected each step of one episode is, as calibrated p-values.

        Raises:
            InputError: the episode has no step.
            UnsupportedError: the world is not calibrated.
        """
