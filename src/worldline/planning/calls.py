"""The calls of a world: one struct per verb. Here, and nowhere else, are its fields, units and bounds.

`World.predict` and its siblings build the struct and pass it to `World.answer`. Wrappers, the wire, the HTTP routes,
the JSON schemas and the sessions of a service carry it unchanged.

Arrays are NumPy arrays of named signals in physical units. If the arrays of `history` have a leading axis of W worlds,
all other arrays have it too. The shapes below leave W out. H is the number of observations in the history, T the number
of predicted steps, N the number of candidate plans, C the number of constraints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, get_args

from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError
from worldline.planning.base import Constraint, Goal
from worldline.registry import names

MAX_HORIZON: Final = 10_000
"""Largest number of steps of a plan."""


def check_level(level: float) -> None:
    """Checks the probability of a band.

    Raises:
        InputError: it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level}. Give a probability between 0 and 1, such as 0.9.")


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictCall:
    """Predicts the signals under `actions`, with a simultaneous prediction band per vector signal.

    The mean covers any number of steps. Bands are finite up to the calibrated horizon and infinite after it.

    Args:
        history: H observations and the H - 1 inputs between them; best with `Card.context` observations or more. A
            history of one observation needs no actions.
        actions: per action signal [T, *shape], physical units, inside the signal's bounds or outside by at most
            10 % of their range.
        exogenous: per exogenous signal [T, *shape], physical units; None if the schema has none. Any finite value
            is accepted; see `Prediction.trust`.
        level: probability of the bands, in (0, 1). None: 0.9, or the highest calibrated level if that is lower.
        num_samples: S, number of sampled paths per vector signal; 0 for none. Their spread is calibrated: the share
            of the paths inside a band is its level. Equal calls draw equal paths, and all W worlds share the draws.
        images: whether to predict images, for people (`Prediction.images`).

    Raises:
        InputError: `level` or `num_samples` is out of range.
    """

    verb: ClassVar[str] = "predict"

    history: History
    actions: Arrays
    exogenous: Arrays | None = None
    level: float | None = None
    num_samples: int = 0
    images: bool = False

    def __post_init__(self) -> None:
        if self.level is not None:
            check_level(self.level)
        if self.num_samples < 0:
            raise InputError(f"num_samples is {self.num_samples}. Give a number of sampled paths, or 0 for none.")


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreCall:
    """Evaluates N candidate plans.

    Args:
        history: as in `PredictCall`.
        actions: per action signal [N, T, *shape], physical units, as in `PredictCall`.
        goal: defines the cost.
        constraints: C functions of a rollout. A constraint holds where its violation is 0.
        exogenous: as in `PredictCall`; the same for all plans.
        clip: whether to clip actions to their bounds. Otherwise actions further outside raise an error.
    """

    verb: ClassVar[str] = "score"

    history: History
    actions: Arrays
    goal: Goal
    constraints: Sequence[Constraint] = ()
    exogenous: Arrays | None = None
    clip: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanCall:
    """Searches a plan of `horizon` steps towards `goal`.

    The plan is refused if the trust in the history, or in the expected path of the plan, is below `min_trust`.

    Args:
        history: as in `PredictCall`.
        goal: defines the cost.
        constraints: as in `ScoreCall`.
        horizon: T, number of steps, 1 to 10,000.
        exogenous: per signal [T, *shape], or [D + T, *shape] with D pending steps; None if the schema has none.
        proposals: per action signal [P, T, *shape], start sequences of the search, such as the last plan
            shifted. The plan is never worse than the best of them.
        pending: per action signal [D, *shape], actions that are already sent and take effect before the plan, for
            an actuator with a delay of D steps. The cost includes them. None means D = 0.
        budget_s: seconds from the call, above 0, after which the best plan so far is returned. A step of the search
            that would exceed it is not started, except the evaluation of a few first sequences and `proposals`.
            Up to a quarter is reserved for `Plan.prediction`, as the measured latency requires. None for no limit.
        min_trust: smallest accepted trust in the history and in the expected path, 0 to 1. With n calibration episodes
            no p-value is below 1 / (n + 1), so a smaller `min_trust` never refuses.
        clip: whether to clip `proposals` and `pending` to their bounds. Otherwise values further outside than
            `PredictCall` accepts raise an error. The plan itself is always inside the bounds.
        seed: seed of every random draw.
        expected: whether to predict the path of the plan (`Plan.prediction`). False saves its time; `min_trust` then
            tests the history only.
        planner: registered name of a planner, such as "icem", that searches with its default settings. None for the
            planner of the world.

    Raises:
        InputError: `horizon`, `budget_s` or `min_trust` is out of range, or there is no such planner.
    """

    verb: ClassVar[str] = "plan"

    history: History
    goal: Goal
    constraints: Sequence[Constraint] = ()
    horizon: int
    exogenous: Arrays | None = None
    proposals: Arrays | None = None
    pending: Arrays | None = None
    budget_s: float | None = None
    min_trust: float = 0.0
    clip: bool = False
    seed: int = 0
    expected: bool = True
    planner: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.horizon <= MAX_HORIZON:
            raise InputError(f"horizon is {self.horizon}. Give the number of steps to plan, from 1 to {MAX_HORIZON}.")
        if not 0 <= self.min_trust <= 1:
            raise InputError(f"min_trust is {self.min_trust}. Give a value from 0 to 1.")
        if self.budget_s is not None and not self.budget_s > 0:
            raise InputError(f"budget_s is {self.budget_s}. Give seconds above 0, or None for no limit.")
        if self.planner is not None and self.planner not in (known := names("planner")):
            raise InputError(f"there is no planner {self.planner[:60]!r}. Choose one of {', '.join(known)}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class WhatIfCall:
    """Predicts how one episode would have continued after observation `at` under other actions.

    Args:
        episode: one logged episode, without a W axis.
        at: index of the last common observation, at least 0.
        actions: per action signal [T, *shape]; `at` + T is at most the number of steps of the episode.
    """

    verb: ClassVar[str] = "what_if"

    episode: Episode
    at: int
    actions: Arrays


@dataclass(frozen=True, kw_only=True, eq=False)
class SurpriseCall:
    """Measures how unexpected each step of one episode is, as calibrated p-values.

    Args:
        episode: one episode of at least one step, without a W axis.
    """

    verb: ClassVar[str] = "surprise"

    episode: Episode


Call = PredictCall | ScoreCall | PlanCall | WhatIfCall | SurpriseCall
"""A call of a world."""

CALLS: Final[Mapping[str, type[Call]]] = {kind.verb: kind for kind in get_args(Call)}
"""The structs by verb."""
