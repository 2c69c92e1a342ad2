"""How a session follows one running world: by one belief update per step, or from its history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import final

import numpy as np

from worldline.episode import Episode
from worldline.planning.calls import PlanCall, PredictCall
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
    def predict(self, call: PredictCall) -> Prediction:
        """The answer from the present, with which the history of the call ends."""

    @abstractmethod
    def plan(self, call: PlanCall, *, expected: bool) -> Plan:
        """The answer from the present; `Plan.prediction` may be left out if it is not `expected`."""

    def _taken(self, episode: Episode) -> PredictCall:
        """The prediction of the last `horizon` steps under the inputs that were taken."""
        first = episode.num_steps - self.horizon
        exogenous = {name: value[first:] for name, value in episode.exogenous.items()}
        return PredictCall(
            history=episode.history(first),
            actions={name: value[first:] for name, value in episode.actions.items()},
            exogenous=exogenous or None,
            level=self.level,
        )


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
            predicted = self._world.predict_from(self._recent[-self.horizon - 1], self._taken(episode))
        self._recent[-1] = present
        return predicted, present.p_value if has_context else None

    def forget(self) -> None:
        """Removes the last belief."""
        self._recent.pop()

    def predict(self, call: PredictCall) -> Prediction:
        """From the belief."""
        return self._world.predict_from(self._recent[-1], call)

    def _beliefs(self, episode: Episode) -> Iterator[Present]:
        """The beliefs at the last `horizon` observations, so that the next trajectory is compared with its band."""
        first = max(episode.num_steps - self.horizon + 1, 0) if self._compares else episode.num_steps
        present = self._world.look(episode.history(first))
        yield present
        for now in range(first + 1, episode.num_steps + 1):
            recent = episode.history(now, 2)
            present = self._world.test_step(present, self._world.follow(present, recent), recent)
            yield present

    def plan(self, call: PlanCall, *, expected: bool) -> Plan:
        """From the belief."""
        return self._world.plan_from(self._recent[-1], call, expected=expected)


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
            predicted = self._world.answer(self._taken(episode))
            if not predicted.calibrated:
                return None, None
        recent = episode.last(card.context + 1)
        return predicted, float(self._world.surprise(recent).steps[-1])

    def forget(self) -> None:
        """Does nothing, as `observe`."""

    def predict(self, call: PredictCall) -> Prediction:
        """From the history."""
        return self._world.answer(call)

    def plan(self, call: PlanCall, *, expected: bool) -> Plan:
        """From the history, always with `Plan.prediction`."""
        del expected
        return self._world.answer(call)


def tracker(
    world: World, horizon: int, level: float | None, episode: Episode | None, *, compares: bool
) -> SessionTracker:
    """The tracker of a world that has seen `episode` so far; None for nothing. `compares` is for a `LocalWorld`."""
    if isinstance(world, LocalWorld):
        return BeliefTracker(world, horizon, level, episode, compares=compares)
    return HistoryTracker(world, horizon, level)
