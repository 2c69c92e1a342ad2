"""Engines and worlds with their test data: the same windows of logs, and calls with fixed draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from worldline.config import Bounds
from worldline.data.windows import ForecastWindows, forecast_windows
from worldline.engines.base import Card, Engine, EngineBelief
from worldline.episode import Arrays, Episode, Future, History
from worldline.planning.base import Goal, Rollout
from worldline.schema import Kind
from worldline.testing.clauses import Case, CaseError, TwoOrMore
from worldline.testing.comparing import as_float, map_arrays
from worldline.training.batches import join, to_inputs
from worldline.world.base import Plan, Prediction, Scores, World


@dataclass(frozen=True, kw_only=True)
class PredictionCase(Case, ABC):
    """Something that predicts, with the logs on which it is checked.

    Args:
        episodes: at least 2 of a world that it models; `timing` needs about 20.
        horizon: T, predicted steps, at least 2.
        tolerance: largest relative difference between two results that must be equal.
        seed: of all draws.
    """

    episodes: Sequence[Episode]
    horizon: TwoOrMore = 4
    tolerance: float = 1e-4
    seed: int = 0

    @property
    def card(self) -> Card:
        """Its card."""
        subject: Engine | World = getattr(self, self.kind)
        return subject.describe()

    @property
    @abstractmethod
    def length(self) -> int:
        """H, observations in the history."""

    @abstractmethod
    def means(self, windows: ForecastWindows) -> Arrays:
        """The mean prediction per signal [W, T, *shape] under the inputs of the windows, with fixed draws."""

    def places(self, *, margin: int = 0) -> list[tuple[Episode, int]]:
        """Each episode with a random index of the present, always the same.

        Args:
            margin: unused steps before the history and after the future.

        Raises:
            CaseError: an episode is too short, or there are fewer than two.
        """
        first = self.length - 1 + margin
        need = first + self.horizon + margin
        short = [number for number, episode in enumerate(self.episodes) if episode.num_steps < need]
        if short or len(self.episodes) < 2:
            raise CaseError(
                f"got {len(self.episodes)} episodes, of which {short} have fewer than the {need} steps that the check "
                "needs. Give at least two, and longer ones."
            )
        rng = np.random.default_rng(self.seed)
        return [(e, int(rng.integers(first, e.num_steps - self.horizon - margin + 1))) for e in self.episodes]

    def windows(self) -> ForecastWindows:
        """One window of each episode, always the same."""
        return forecast_windows(self.places(), length=self.length, horizon=self.horizon)

    def turned(self, windows: ForecastWindows) -> ForecastWindows:
        """The windows of other episodes: each in the place of the one before."""
        return windows.select(np.roll(np.arange(windows.num_worlds), 1).tolist())

    def spliced(self, step: int) -> Arrays:
        """The mean prediction per signal [W, T, *shape], with the inputs of other episodes from `step` on."""
        windows = self.windows()
        others = self.turned(windows)
        mixed: dict[str, Any] = {
            group: {n: np.concatenate([v[:, :step], getattr(others, group)[n][:, step:]], 1) for n, v in arrays.items()}
            for group, arrays in (("actions", windows.actions), ("exogenous", windows.exogenous))
        }
        return self.means(replace(windows, **mixed))


@dataclass(frozen=True, kw_only=True)
class EngineCase(PredictionCase):
    """An engine and the logs on which it is checked; see also `PredictionCase`.

    Args:
        engine: the engine.
        num_candidates: N, at least 2.
        num_samples: S, requested samples, at least 2.
    """

    kind: ClassVar[str] = "engine"

    engine: Engine
    num_candidates: TwoOrMore = 3
    num_samples: TwoOrMore = 3

    @property
    def length(self) -> int:
        """H, one observation more than `Card.context`, at least 3."""
        return max(self.card.context, 2) + 1

    @property
    def batch(self) -> int:
        """W."""
        return len(self.episodes)

    def means(self, windows: ForecastWindows) -> Arrays:
        """The mean over samples per signal [W, T, *shape] under the inputs of the windows."""
        predicted = self.roll(self.observe(windows.history), windows.future())
        return {name: as_float(value)[:, 0].mean(1) for name, value in predicted.items()}

    def future(self, windows: ForecastWindows) -> Future:
        """The logged inputs of the windows with N - 1 alternative actions."""
        return windows.future(self.num_candidates, self.seed)

    def ready(self) -> tuple[History, EngineBelief, Future]:
        """The histories of the windows, the belief after them, and their inputs with alternative actions."""
        windows = self.windows()
        return windows.history, self.observe(windows.history), self.future(windows)

    def split(self, history: History) -> tuple[History, History]:
        """All but the last step, and the last one."""
        return map_arrays(history, lambda value: value[:, :-1]), map_arrays(history, lambda value: value[:, -1:])

    def observe(self, history: History, belief: EngineBelief | None = None) -> EngineBelief:
        """The belief after `history`."""
        return self.engine.observe(belief, history, seed=self.seed)

    def state(self) -> None:
        """An engine has no arrays that are known here."""

    def pick(self, inputs: Future, index: list[int]) -> Future:
        """The candidates with these indices, in this order."""
        return replace(inputs, actions=map_arrays(inputs.actions, lambda value: value[:, index]))

    def rollout(self, belief: EngineBelief, future: Future, actions: Tensor | None = None) -> Rollout:
        """The rollout of `future`, with fixed draws; `actions` [W, N, T, A] replaces its actions."""
        inputs = to_inputs(future.actions, future.exogenous, self.card.schema, self.engine.device)
        actions = inputs.actions if actions is None else actions.to(self.engine.device)
        return self.engine.rollout(belief, actions, inputs.exogenous, num_samples=self.num_samples, seed=self.seed)

    def roll(self, belief: EngineBelief, future: Future) -> Arrays:
        """The predicted signals [W, N, S, T, *shape]."""
        return self.engine.imagine(belief, future, num_samples=self.num_samples, seed=self.seed).signals

    def moves(self) -> tuple[Tensor, Tensor] | None:
        """The candidates in two orders, without other choices; None if the engine is drawn or not differentiable."""
        card, signals = self.card, self.card.schema.actions
        if not card.deterministic or "differentiable" not in card.abilities or not self._smooth():
            return None
        vectors = np.concatenate([np.full(signal.size, signal.kind is Kind.VECTOR) for signal in signals])
        actions = join(signals, self.future(self.windows()).actions)
        return actions, torch.where(torch.from_numpy(vectors), actions.roll(1, 1), actions)

    def last(self, actions: Tensor) -> Tensor:
        """The last predicted vectors without a period [W, N, S, D]: other signals jump."""
        _, belief, future = self.ready()
        signals = self.rollout(belief, future, actions).signals
        return torch.cat([signals[name][..., -1, :].cpu() for name in self._smooth()], -1)

    def _smooth(self) -> list[str]:
        signals = [self.card.schema[name] for name in self.card.predicts]
        return [signal.name for signal in signals if signal.kind is Kind.VECTOR and signal.period is None]


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

    world: World
    goal: Goal
    num_calibration: int | None = None
    alpha: Annotated[float, Bounds(above=0, below=0.5)] = 1e-3
    tolerance: float = 1e-3

    @property
    def length(self) -> int:
        """H, the observations of `Card.context`, at least 2."""
        return max(self.card.context, 2)

    @property
    def vectors(self) -> tuple[str, ...]:
        """The predicted signals that are vectors."""
        return tuple(name for name in self.card.predicts if self.card.schema[name].kind is Kind.VECTOR)

    def calibrated(self) -> bool:
        """Whether predictions have bands."""
        return self.predict(self.query()).calibrated

    def means(self, windows: ForecastWindows) -> Arrays:
        """The mean prediction per signal [W, T, *shape]."""
        return {name: forecast.mean for name, forecast in self.predict(windows).signals.items()}

    def query(self, world: int = 0) -> ForecastWindows:
        """The query about one world of `windows`, without the batch axis."""
        return map_arrays(self.windows(), lambda value: value[world])

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


def one_plan(actions: Arrays) -> Arrays:
    """Actions [T, *shape] as plans [1, T, *shape]."""
    return map_arrays(actions, lambda value: value[None])
