"""Engines that compute with torch, and the adapter that gives NumPy engines the same interface.

Planning stays in torch from candidates to costs. Action tensors hold all action signals, concatenated in the order of
the schema, with discrete ones as one-hot.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.device import CPU
from worldline.engines.base import Card, Engine, EngineBelief, GoalDistance, Noise, Novelty, Samples
from worldline.episode import Arrays, Future, History
from worldline.errors import UnsupportedError
from worldline.planning.base import Rollout
from worldline.training.batches import join, split, to_tensor

UNLIMITED: Final = 2**31


class TensorEngine(Engine):
    """An engine that computes with torch, on one device. `World` plans with it without conversions to NumPy."""

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return CPU

    @abstractmethod
    def rollout(
        self,
        belief: EngineBelief,
        actions: Float[Tensor, "W N T A"],
        exogenous: Float[Tensor, "W T E"] | None,
        *,
        num_samples: int,
        seed: int,
    ) -> Rollout:
        """The predicted trajectories of N candidates, differentiable in the actions.

        Args:
            belief: from `observe`.
            actions: candidate plans, physical units.
            exogenous: concatenated exogenous signals; None if the schema has none.
            num_samples: S, samples per candidate; a deterministic engine returns S = 1.
            seed: determines every random draw. All candidates share the draws.
        """

    def encode_goal(self, belief: EngineBelief, goal: Arrays) -> object:
        """A goal observation, encoded once for `Rollout.goal_distance` and `proposals`.

        Args:
            belief: as in `rollout`.
            goal: observation signals [W, *shape], physical units.

        Raises:
            UnsupportedError: the engine has no distance to goals, or none to this goal.
        """
        del belief, goal
        raise UnsupportedError(f"{self.describe().name} has no distance head. Set the goal on predicted signals.")

    def proposals(
        self,
        belief: EngineBelief,
        goal: object,
        horizon: int,
        *,
        num_proposals: int,
        pending: Float[Tensor, "W D A"] | None = None,
        budget_s: float | None = None,
        seed: int,
    ) -> Float[Tensor, "W P T A"] | None:
        """As `GoalDistance.propose`, for a goal from `encode_goal`; None for no proposals."""
        del belief, goal, horizon, num_proposals, pending, budget_s, seed
        return None

    def max_candidates(self, belief: EngineBelief, horizon: int, num_samples: int) -> int:
        """The largest N of one rollout that fits into memory, at least 1."""
        del belief, horizon, num_samples
        return UNLIMITED


@final
class NumpyEngine(TensorEngine):
    """The adapter: an engine that computes with NumPy, as a `TensorEngine` without gradients.

    Args:
        engine: the wrapped engine.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def describe(self) -> Card:
        """The card of the wrapped engine."""
        return self.engine.describe()

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        """The belief of the wrapped engine."""
        return self.engine.observe(belief, steps, seed=seed)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The samples of the wrapped engine."""
        return self.engine.imagine(belief, future, num_samples=num_samples, noise=noise, seed=seed)

    def rollout(
        self,
        belief: EngineBelief,
        actions: Float[Tensor, "W N T A"],
        exogenous: Float[Tensor, "W T E"] | None,
        *,
        num_samples: int,
        seed: int,
    ) -> Rollout:
        """The samples of the wrapped engine as tensors.

        Raises:
            UnsupportedError: a gradient is requested.
        """
        card, engine = self.describe(), self.engine
        if actions.requires_grad:
            raise UnsupportedError(
                f"{card.name} does not compute with torch, so costs have no gradient. Use the planner 'cem'."
            )
        future = Future(
            actions={name: value.numpy() for name, value in split(card.schema.actions, actions).items()},
            exogenous={}
            if exogenous is None
            else {name: value.numpy() for name, value in split(card.schema.exogenous, exogenous).items()},
        )

        def samples() -> dict[str, Tensor]:
            found = engine.imagine(belief, future, num_samples=num_samples, seed=seed).signals
            return {name: to_tensor(value) for name, value in found.items()}

        distance: Callable[[object], Tensor] | None = None
        score: Callable[[], Tensor] | None = None
        if isinstance(engine, GoalDistance):
            reaches = engine

            def distance(goal: object) -> Tensor:
                assert isinstance(goal, dict)  # from `encode_goal`
                return to_tensor(reaches.distance(belief, future, goal, seed=seed))

        if isinstance(engine, Novelty):
            novelty = engine

            @cache
            def score() -> Tensor:
                return to_tensor(novelty.novelty_ahead(belief, future, seed=seed))

        return Rollout(signals=LazySignals(card.predicts, samples), goal_distance=distance, ood_score=score)

    def encode_goal(self, belief: EngineBelief, goal: Arrays) -> object:
        """The goal itself."""
        return dict(goal) if isinstance(self.engine, GoalDistance) else super().encode_goal(belief, goal)

    def proposals(
        self,
        belief: EngineBelief,
        goal: object,
        horizon: int,
        *,
        num_proposals: int,
        pending: Float[Tensor, "W D A"] | None = None,
        budget_s: float | None = None,
        seed: int,
    ) -> Float[Tensor, "W P T A"] | None:
        """The proposals of the wrapped engine."""
        if not isinstance(self.engine, GoalDistance):
            return None
        assert isinstance(goal, dict)  # from `encode_goal`
        signals = self.describe().schema.actions
        sent = None if pending is None else {name: value.numpy() for name, value in split(signals, pending).items()}
        found = self.engine.propose(
            belief, goal, horizon, num_proposals=num_proposals, pending=sent, budget_s=budget_s, seed=seed
        )
        return join(signals, found)


def tensor_engine(engine: Engine) -> TensorEngine:
    """The engine itself if it computes with torch, else its adapter."""
    return engine if isinstance(engine, TensorEngine) else NumpyEngine(engine)


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
