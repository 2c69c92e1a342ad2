"""How a session follows one running world: by one belief update per step, or from its history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import final

import numpy as np

from worldline.episode import Arrays, Episode, History
from worldline.planning.base import PlanRequest
from worldline.world.base import Plan, Prediction, World
from worldline.world.local import LocalWorld
from worldline.world.present import Present
from worldline.world.validation import check_history


class SessionTracker(ABC):
    """Follows one running world.

    Args:
        horizon: T, steps of the predictions that are compared with their outcomes.
        level: probability of their bands; None as in `World.predict`.
    """

    def __init__(self, horizon: int, level: float | None) -> None:
        self.horizon, self.level = horizon, level

    @abstractmethod
    def observe(self, episode: Episode) -> None:
        """Adds the last step of `episode`, which holds all kept steps. If the world fails, nothing is added."""

    @abstractmethod
    def test(self, episode: Episode) -> tuple[Prediction | None, float | None]:
        """Compares the last step of `episode`, which `observe` added, with what was predicted.

        Returns the prediction of the last `horizon` steps that was possible before them, and the p-value of the last
        step; None if not available.
        """

    @abstractmethod
    def forget(self) -> None:
        """Removes the last step, of which `test` failed."""

    @abstractmethod
    def predict(
        self, history: History, actions: Arrays, exogenous: Arrays | None, *, num_samples: int, images: bool
    ) -> Prediction:
        """`World.predict` from the present. `history` ends with the present."""

    @abstractmethod
    def plan(self, history: History, request: PlanRequest, *, expected: bool) -> Plan:
        """`World.answer_plan` from the present; `Plan.prediction` may be left out if it is not `expected`."""

    def _taken(self, episode: Episode) -> tuple[Arrays, Arrays | None]:
        """The actions and exogenous inputs of the last `horizon` steps."""
        first = episode.num_steps - self.horizon
        exogenous = {name: value[first:] for name, value in episode.exogenous.items()}
        return {name: value[first:] for name, value in episode.actions.items()}, exogenous or None


@final
class BeliefTracker(SessionTracker):
    """Holds the belief of a world in this process. A step encodes one observation; `predict` and `plan` encode none.

    Args:
        world: the world.
        horizon: as in `SessionTracker`.
        level: as in `SessionTracker`.
        episode: what it has seen so far; None for nothing.
        compares: whether predictions are compared with their outcomes.
    """

    def __init__(
        self, world: LocalWorld, horizon: int, level: float | None, episode: Episode | None, *, compares: bool
    ) -> None:
        super().__init__(horizon, level)
        self._world, self._compares = world, compares
        self._recent = deque([] if episode is None else self._beliefs(episode), maxlen=horizon + 1)

    def observe(self, episode: Episode) -> None:
        """One update of the belief."""
        first = not self._recent
        world = self._world
        self._recent.append(
            world.look(episode.history()) if first else world.follow(self._recent[-1], episode.history(length=2))
        )

    def test(self, episode: Episode) -> tuple[Prediction | None, float | None]:
        """From the belief before the step."""
        if len(self._recent) < 2:
            return None, None
        before, present = self._recent[-2], self._recent[-1]
        self._recent[-1] = replace(present, trust=np.full_like(present.trust, np.nan))  # if the test fails
        present = self._world.test_step(before, present, episode.history(length=2))
        predicted, has_context = None, present.num_observed > self._world.describe().context
        if self._compares and len(self._recent) > self.horizon and has_context:
            actions, exogenous = self._taken(episode)
            start = self._recent[-self.horizon - 1]
            predicted = self._world.predict_from(start, actions, exogenous=exogenous, level=self.level)
        self._recent[-1] = present
        return predicted, present.p_value if has_context else None

    def forget(self) -> None:
        """Removes the last belief."""
        self._recent.pop()

    def predict(
        self, history: History, actions: Arrays, exogenous: Arrays | None, *, num_samples: int, images: bool
    ) -> Prediction:
        """From the belief."""
        del history
        return self._world.predict_from(
            self._recent[-1], actions, exogenous=exogenous, level=self.level, num_samples=num_samples, images=images
        )

    def _beliefs(self, episode: Episode) -> Iterator[Present]:
        """The beliefs at the last `horizon` observations, so that the next trajectory is compared with its band."""
        first = max(episode.num_steps - self.horizon + 1, 0) if self._compares else episode.num_steps
        present = self._world.look(episode.history(first))
        yield present
        for now in range(first + 1, episode.num_steps + 1):
            recent = episode.history(now, 2)
            present = self._world.test_step(present, self._world.follow(present, recent), recent)
            yield present

    def plan(self, history: History, request: PlanRequest, *, expected: bool) -> Plan:
        """From the belief."""
        del history
        return self._world.plan_from(self._recent[-1], request, expected=expected)


@final
class HistoryTracker(SessionTracker):
    """Passes the kept history to any world."""

    def __init__(self, world: World, horizon: int, level: float | None) -> None:
        super().__init__(horizon, level)
        self._world = world

    def observe(self, episode: Episode) -> None:
        """Checks the step only: each call of the world gets the history."""
        check_history(self._world.describe().schema, episode.history(length=min(2, episode.num_steps + 1)))

    def test(self, episode: Episode) -> tuple[Prediction | None, float | None]:
        """A prediction from the history before the last steps, and the surprise of the last one."""
        card, now = self._world.describe(), episode.num_steps
        if now < card.context:
            return None, None
        predicted = None
        if now >= self.horizon:
            actions, exogenous = self._taken(episode)
            past = episode.history(now - self.horizon)
            predicted = self._world.predict(past, actions, exogenous=exogenous, level=self.level)
            if not predicted.calibrated:
                return None, None
        recent = episode.last(card.context + 1)
        return predicted, float(self._world.surprise(recent).steps[-1])

    def forget(self) -> None:
        """Does nothing, as `observe`."""

    def predict(
        self, history: History, actions: Arrays, exogenous: Arrays | None, *, num_samples: int, images: bool
    ) -> Prediction:
        """From the history."""
        return self._world.predict(
            history, actions, exogenous=exogenous, level=self.level, num_samples=num_samples, images=images
        )

    def plan(self, history: History, request: PlanRequest, *, expected: bool) -> Plan:
        """From the history, always with `Plan.prediction`."""
        del expected
        return self._world.answer_plan(history, request)


def tracker(
    world: World, horizon: int, level: float | None, episode: Episode | None, *, compares: bool
) -> SessionTracker:
    """The tracker of a world that has seen `episode` so far; None for nothing. `compares` is for a `LocalWorld`."""
    if isinstance(world, LocalWorld):
        return BeliefTracker(world, horizon, level, episode, compares=compares)
    return HistoryTracker(world, horizon, level)
