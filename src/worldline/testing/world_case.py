"""A world with its test data; `worlds.py` lists the clauses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows as Cut
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError
from worldline.planning.base import Constraint, Goal
from worldline.testing.clauses import as_float
from worldline.testing.log_windows import map_history
from worldline.testing.log_windows import random_windows as random_cut
from worldline.world.base import Plan, Prediction, Scores, World


@dataclass(frozen=True, kw_only=True)
class WorldCase:
    """A world with the logs and the goal on which it is checked.

    Args:
        world: the world.
        episodes: at least 2, held out from training and calibration. The statistical clauses (coverage, trust,
            surprise) need 30 or more.
        goal: one that the world supports, for a single world.
        horizon: T, predicted and planned steps, at least 2.
        num_calibration: number of calibration episodes of the world; None treats its levels as exact.
        alpha: false alarm rate of each statistical clause.
        tolerance: largest relative difference between two results that must be equal.
        seed: of all draws.
    """

    world: World
    episodes: Sequence[Episode]
    goal: Goal
    horizon: int = 4
    num_calibration: int | None = None
    alpha: float = 1e-3
    tolerance: float = 1e-3
    seed: int = 0

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

    def cut(self) -> Cut:
        """One window of each episode, always the same."""
        return random_cut(self.episodes, length=self.length, horizon=self.horizon, seed=self.seed)

    def predict(self, cut: Cut, *, actions: Arrays | None = None, level: float = 0.8) -> Prediction:
        """The prediction for the W worlds in `cut` under the logged actions, or under `actions`."""
        return self.world.predict(cut.history, actions or cut.actions, exogenous=cut.exogenous or None, level=level)

    def predict_one(self, query: Query, *, level: float = 0.8) -> Prediction:
        """The prediction for one world."""
        return self.world.predict(query.history, query.actions, exogenous=query.exogenous, level=level)

    def score_one(
        self, query: Query, plans: Arrays, goal: Goal | None = None, constraints: Sequence[Constraint] = ()
    ) -> Scores:
        """The scores of N plans [N, T, *shape] for one world, for the goal of the case by default."""
        return self.world.score(query.history, plans, goal or self.goal, constraints, exogenous=query.exogenous)

    def plan_one(
        self,
        query: Query,
        goal: Goal | None = None,
        constraints: Sequence[Constraint] = (),
        *,
        proposals: Arrays | None = None,
        budget_s: float | None = None,
        min_trust: float = 0.0,
        seed: int | None = None,
    ) -> Plan:
        """A plan for one world, for the goal of the case by default."""
        return self.world.plan(
            query.history,
            goal or self.goal,
            constraints=constraints,
            horizon=self.horizon,
            exogenous=query.exogenous,
            proposals=proposals,
            budget_s=budget_s,
            min_trust=min_trust,
            seed=self.seed if seed is None else seed,
        )

    def batch_goal(self, num_worlds: int) -> Goal:
        """The goal, the same for each of W worlds."""
        targets = {name: np.stack([value] * num_worlds) for name, value in self.goal.targets.items()}
        return replace(self.goal, targets=targets)


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query about one world of a cut, without the batch axis.

    Args:
        history: H observations.
        actions: per signal [T, *shape].
        exogenous: per signal [T, *shape]; None if the schema has none.
    """

    history: History
    actions: Arrays
    exogenous: Arrays | None


def query_of(cut: Cut, world: int) -> Query:
    """The query about the world with this index."""

    def pick(arrays: Arrays) -> Arrays:
        return {name: value[world] for name, value in arrays.items()}

    return Query(
        history=map_history(cut.history, pick),
        actions=pick(cut.actions),
        exogenous=pick(cut.exogenous) or None,
    )


def logged_plans(cut: Cut, world: int, num_plans: int, seed: int) -> Arrays:
    """Plans [N, T, *shape] for one world of a cut: the logged actions, then steps drawn from the logs."""
    return {name: value[world] for name, value in cut.future(num_plans, seed).actions.items()}


def corrupt(arrays: Arrays, seed: int) -> Arrays:
    """Observations out of distribution: vectors shifted by 10 standard deviations, noise images, discrete unchanged."""
    rng = np.random.default_rng(seed)
    wild = {}
    for name, value in arrays.items():
        if np.issubdtype(value.dtype, np.floating):
            spread = float(np.nanstd(as_float(value))) + 1e-6
            wild[name] = (as_float(value) + 10 * spread * rng.choice([-1.0, 1.0], value.shape)).astype(value.dtype)
        elif value.dtype == np.uint8:
            wild[name] = rng.integers(0, 256, value.shape, dtype=np.uint8)
        else:
            wild[name] = value.copy()
    return wild


def jump(episode: Episode, at: Iterable[int], names: tuple[str, ...], seed: int) -> Episode:
    """The episode with corrupted observations of these signals at the indices `at`."""
    wild, steps = corrupt({name: episode.observations[name] for name in names}, seed), list(at)
    mixed: dict[str, NDArray[np.generic]] = {}
    for name in names:
        mixed[name] = episode.observations[name].copy()
        mixed[name][steps] = wild[name][steps]
    jumped: Arrays = {**episode.observations, **mixed}
    return replace(episode, observations=jumped)
