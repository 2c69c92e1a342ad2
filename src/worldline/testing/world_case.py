"""A world with its test data; `worlds.py` lists the clauses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError
from worldline.planning.base import Constraint, Goal
from worldline.testing.clauses import map_arrays
from worldline.testing.prediction_case import PredictionCase, corrupt
from worldline.world.base import Plan, Prediction, Scores, World


@dataclass(frozen=True, kw_only=True)
class WorldCase(PredictionCase):
    """A world with the logs and the goal on which it is checked; see also `PredictionCase`.

    The episodes are held out from training and calibration. The statistical clauses (coverage, trust, surprise)
    need 30 or more.

    Args:
        world: the world.
        goal: one that the world supports, for a single world.
        num_calibration: number of calibration episodes of the world; None treats its levels as exact.
        alpha: false alarm rate of each statistical clause.
    """

    kind: ClassVar[str] = "world"
    validates: ClassVar[bool] = True

    world: World
    goal: Goal
    num_calibration: int | None = None
    alpha: float = 1e-3
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.horizon < 2 or not 0 < self.alpha < 0.5:
            raise InputError(f"horizon {self.horizon} must be at least 2, alpha {self.alpha} in (0, 0.5).")

    @property
    def card(self) -> Card:
        """The world's card."""
        return self.world.describe()

    @property
    def length(self) -> int:
        """H, the observations of `Card.context`, at least 2."""
        return max(self.card.context, 2)

    @property
    def vectors(self) -> tuple[str, ...]:
        """The predicted signals that are vectors."""
        return tuple(name for name in self.card.predicts if self.card.schema[name].kind == "vector")

    def calibrated(self) -> bool:
        """Whether predictions have bands."""
        return self.predict_one(self.query()).calibrated

    def means(self, windows: ForecastWindows) -> Arrays:
        """The mean prediction per signal [W, T, *shape]."""
        return {name: forecast.mean for name, forecast in self.predict(windows).signals.items()}

    def query(self, world: int = 0) -> Query:
        """The query about one world of `windows`."""
        return query_of(self.windows(), world)

    def taken(self, episode: Episode) -> Arrays:
        """The logged actions after observation H - 1 of an episode."""
        first = self.length - 1
        return {name: value[first : first + self.horizon] for name, value in episode.actions.items()}

    def plans(self, world: int = 0, num_plans: int = 4) -> Arrays:
        """Plans [N, T, *shape] for one world of `windows`: the logged actions, then steps drawn from the logs."""
        return {name: value[world] for name, value in self.windows().future(num_plans, self.seed).actions.items()}

    def predict(self, windows: ForecastWindows, *, level: float = 0.8) -> Prediction:
        """The prediction for the W worlds in `windows` under its actions."""
        return self.world.predict(windows.history, windows.actions, exogenous=windows.exogenous or None, level=level)

    def predict_one(self, query: Query, *, level: float = 0.8, **options: Any) -> Prediction:
        """The prediction for one world; `options` are other arguments of `World.predict`."""
        return self.world.predict(query.history, query.actions, exogenous=query.exogenous, level=level, **options)

    def score_one(
        self,
        query: Query,
        plans: Arrays,
        goal: Goal | None = None,
        constraints: Sequence[Constraint] = (),
        *,
        clip: bool = False,
    ) -> Scores:
        """The scores of N plans [N, T, *shape] for one world, for the goal of the case by default."""
        goal = goal or self.goal
        return self.world.score(query.history, plans, goal, constraints, exogenous=query.exogenous, clip=clip)

    def plan_one(
        self, query: Query, goal: Goal | None = None, constraints: Sequence[Constraint] = (), **settings: Any
    ) -> Plan:
        """A plan for one world, for the goal of the case by default; `settings` are other arguments of `World.plan`."""
        settings = {"horizon": self.horizon, "exogenous": query.exogenous, "seed": self.seed, **settings}
        return self.world.plan(query.history, goal or self.goal, constraints=constraints, **settings)

    def batch_goal(self, num_worlds: int) -> Goal:
        """The goal, the same for each of W worlds."""
        targets = {name: np.stack([value] * num_worlds) for name, value in self.goal.targets.items()}
        return replace(self.goal, targets=targets)


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query about one world, without the batch axis.

    Args:
        history: H observations.
        actions: per signal [T, *shape].
        exogenous: per signal [T, *shape]; None if the schema has none.
    """

    history: History
    actions: Arrays
    exogenous: Arrays | None


def query_of(windows: ForecastWindows, world: int) -> Query:
    """The query about the world with this index."""
    every = Query(history=windows.history, actions=windows.actions, exogenous=windows.exogenous or None)
    return map_arrays(every, lambda value: value[world])


def one_plan(actions: Arrays) -> Arrays:
    """Actions [T, *shape] as plans [1, T, *shape]."""
    return {name: value[None] for name, value in actions.items()}


def jump(episode: Episode, at: Iterable[int], names: tuple[str, ...], seed: int) -> Episode:
    """The episode with corrupted observations of these signals at the indices `at`."""
    wild, steps = corrupt({name: episode.observations[name] for name in names}, seed), list(at)
    mixed: dict[str, NDArray[np.generic]] = {}
    for name in names:
        mixed[name] = episode.observations[name].copy()
        mixed[name][steps] = wild[name][steps]
    jumped: Arrays = {**episode.observations, **mixed}
    return replace(episode, observations=jumped)
