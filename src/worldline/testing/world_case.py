"""A world with its test data; `worlds.py` lists the clauses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from worldline.config import Bounds
from worldline.data.windows import ForecastWindows
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode
from worldline.planning.base import Goal
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
    alpha: Annotated[float, Bounds(above=0, below=0.5)] = 1e-3
    tolerance: float = 1e-3

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
        return self.predict(self.query()).calibrated

    def means(self, windows: ForecastWindows) -> Arrays:
        """The mean prediction per signal [W, T, *shape]."""
        return {name: forecast.mean for name, forecast in self.predict(windows).signals.items()}

    def query(self, world: int = 0) -> ForecastWindows:
        """The query about one world of `windows`, without the batch axis."""
        return one_world(self.windows(), world)

    def taken(self, episode: Episode) -> Arrays:
        """The logged actions after observation H - 1 of an episode."""
        return map_arrays(episode.actions, lambda value: value[self.length - 1 :][: self.horizon])

    def plans(self, world: int = 0, num_plans: int = 4) -> Arrays:
        """Plans [N, T, *shape] for one world of `windows`: the logged actions, then steps drawn from the logs."""
        return {name: value[world] for name, value in self.windows().future(num_plans, self.seed).actions.items()}

    def predict(self, query: ForecastWindows, **options: Any) -> Prediction:
        """The prediction for one world or W under the actions of the query; `options` are those of `World.predict`."""
        options = {"exogenous": query.exogenous or None, "level": 0.8, **options}
        return self.world.predict(query.history, query.actions, **options)

    def score(self, query: ForecastWindows, plans: Arrays, goal: Goal | None = None, **options: Any) -> Scores:
        """The scores of N plans [N, T, *shape], for the goal of the case by default; see also `predict`."""
        options = {"exogenous": query.exogenous or None, **options}
        return self.world.score(query.history, plans, goal or self.goal, **options)

    def plan(self, query: ForecastWindows, goal: Goal | None = None, **options: Any) -> Plan:
        """A plan, for the goal of the case by default; `options` are other arguments of `World.plan`."""
        options = {"horizon": self.horizon, "exogenous": query.exogenous or None, "seed": self.seed, **options}
        return self.world.plan(query.history, goal or self.goal, **options)

    def batch_goal(self, num_worlds: int) -> Goal:
        """The goal, the same for each of W worlds."""
        targets = {name: np.stack([value] * num_worlds) for name, value in self.goal.targets.items()}
        return replace(self.goal, targets=targets)


def one_world(windows: ForecastWindows, world: int) -> ForecastWindows:
    """The window of the world with this index, without the batch axis."""
    return map_arrays(windows, lambda value: value[world])


def one_plan(actions: Arrays) -> Arrays:
    """Actions [T, *shape] as plans [1, T, *shape]."""
    return {name: value[None] for name, value in actions.items()}


def jump(episode: Episode, at: Sequence[int], names: tuple[str, ...], seed: int) -> Episode:
    """The episode with corrupted observations of these signals at the indices `at`."""
    wild = corrupt({name: episode.observations[name] for name in names}, seed)
    observations = dict(episode.observations)
    for name, value in wild.items():
        observations[name] = observations[name].copy()
        observations[name][list(at)] = value[list(at)]
    return replace(episode, observations=observations)
