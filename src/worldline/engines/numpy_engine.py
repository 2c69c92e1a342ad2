"""Engines that compute with NumPy: arrays of named signals at the interface of an engine, no gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldline.engines.base import Engine, EngineBelief, GoalDistance, Noise, Novelty, Samples
from worldline.episode import Arrays, Future
from worldline.errors import UnsupportedError
from worldline.planning.base import LazySignals, Rollout
from worldline.training.batches import join, split, to_tensor


class NumpyEngine(Engine):
    """An engine that implements `imagine` with NumPy. Abilities are `NumpyGoalDistance` and its siblings."""

    @abstractmethod
    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """Predictions for `future`; see `Engine.imagine` and `Engine.rollout`."""

    def rollout(
        self,
        belief: EngineBelief,
        actions: Float[Tensor, "W N T A"],
        exogenous: Float[Tensor, "W T E"] | None,
        *,
        num_samples: int,
        noise: Noise | None = None,
        seed: int,
    ) -> Rollout:
        """The samples of `imagine` as tensors; each property is computed when it is read.

        Raises:
            UnsupportedError: a gradient is requested.
        """
        card = self.describe()
        if actions.requires_grad:
            raise UnsupportedError(
                f"{card.name} does not compute with torch, so costs have no gradient. Use the planner 'cem'."
            )
        future = Future(
            actions=_arrays(split(card.schema.actions, actions)),
            exogenous={} if exogenous is None else _arrays(split(card.schema.exogenous, exogenous)),
        )

        def signals() -> dict[str, Tensor]:
            samples = self.imagine(belief, future, num_samples=num_samples, noise=noise, seed=seed)
            return {name: to_tensor(value) for name, value in samples.signals.items()}

        rollout = Rollout(signals=LazySignals(card.predicts, signals))
        if isinstance(self, NumpyGoalDistance):
            distance: Any = partial(self.distance, belief, future, seed=seed)
            rollout = replace(rollout, goal_distance=lambda goal: to_tensor(distance(goal)))
        if isinstance(self, NumpyNovelty):
            novelty = partial(self.novelty_ahead, belief, future, seed=seed)
            rollout = replace(rollout, ood_score=cache(lambda: to_tensor(novelty())))
        return rollout


class NumpyGoalDistance(GoalDistance, ABC):
    """Optional: `GoalDistance` of a `NumpyEngine`."""

    @abstractmethod
    def distance(self, belief: EngineBelief, future: Future, goal: Arrays, *, seed: int) -> Float[np.ndarray, "W N T"]:
        """Steps from each predicted state to `goal`, at least 0. Equal seeds give equal distances.

        Args:
            belief: as in `Engine.imagine`.
            future: as in `Engine.imagine`.
            goal: as in `GoalDistance.encode_goal`.
            seed: determines every random draw.

        Raises:
            UnsupportedError: the engine has no distance to this goal.
        """

    @abstractmethod
    def propose(
        self,
        belief: EngineBelief,
        goal: Arrays,
        horizon: int,
        *,
        num_proposals: int,
        pending: Arrays | None = None,
        budget_s: float | None = None,
        seed: int,
    ) -> Mapping[str, NDArray[np.generic]]:
        """As `GoalDistance.proposals`, per action signal [W, P, T, *shape]; `pending` [W, D, *shape]; P may be 0."""

    def encode_goal(self, belief: EngineBelief, goal: Arrays) -> object:
        """The goal itself."""
        return dict(goal)

    def proposals(
        self,
        belief: EngineBelief,
        goal: Any,
        horizon: int,
        *,
        num_proposals: int,
        pending: Float[Tensor, "W D A"] | None = None,
        budget_s: float | None = None,
        seed: int,
    ) -> Float[Tensor, "W P T A"] | None:
        """The proposals of `propose` as a tensor."""
        assert isinstance(self, Engine)
        signals = self.describe().schema.actions
        sent = None if pending is None else _arrays(split(signals, pending))
        sequences = self.propose(
            belief, goal, horizon, num_proposals=num_proposals, pending=sent, budget_s=budget_s, seed=seed
        )
        return join(signals, sequences)


class NumpyNovelty(Novelty, ABC):
    """Optional: `Novelty` of a `NumpyEngine`."""

    @abstractmethod
    def novelty_ahead(self, belief: EngineBelief, future: Future, *, seed: int) -> Float[np.ndarray, "W N T"]:
        """The score of each predicted state, on the scale of `novelty`. Equal seeds give equal scores."""


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.generic]]:
    return {name: value.numpy() for name, value in tensors.items()}
