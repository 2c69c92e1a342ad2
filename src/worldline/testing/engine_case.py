"""An engine with its test data; `engines.py` lists the clauses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from worldline.data.windows import ForecastWindows
from worldline.engines.base import Card, Engine, EngineBelief
from worldline.episode import Arrays, Future, History
from worldline.planning.base import Rollout
from worldline.testing.clauses import TwoOrMore, as_float
from worldline.testing.prediction_case import PredictionCase
from worldline.training.batches import to_inputs


@dataclass(frozen=True, kw_only=True)
class EngineCase(PredictionCase):
    """An engine and the logs on which it is checked; see also `PredictionCase`.

    Args:
        engine: the engine.
        num_versions: N, at least 2.
        num_samples: S, requested samples, at least 2.
    """

    kind: ClassVar[str] = "engine"
    validates: ClassVar[bool] = False

    engine: Engine
    num_versions: TwoOrMore = 3
    num_samples: TwoOrMore = 3

    @property
    def card(self) -> Card:
        """The engine's card."""
        return self.engine.describe()

    @property
    def length(self) -> int:
        """H, one observation more than `Card.context`, at least 3."""
        return max(self.card.context, 2) + 1

    def means(self, windows: ForecastWindows) -> Arrays:
        """The mean over samples per signal [W, T, *shape] under the inputs of the windows."""
        predicted = self.imagine(self.observe(windows.history), windows.future())
        return {name: as_float(value)[:, 0].mean(1) for name, value in predicted.items()}

    def future(self, windows: ForecastWindows) -> Future:
        """The logged inputs of the windows with N - 1 alternative actions."""
        return windows.future(self.num_versions, self.seed)

    def ready(self) -> tuple[ForecastWindows, EngineBelief, Future]:
        """The windows of the case, the belief after their histories, and their inputs with alternative actions."""
        windows = self.windows()
        return windows, self.observe(windows.history), self.future(windows)

    def observe(self, history: History, belief: EngineBelief | None = None) -> EngineBelief:
        """The belief after `history`, with fixed draws."""
        return self.engine.observe(belief, history, seed=self.seed)

    def predicted(self) -> Arrays:
        """The prediction for the windows of the case under all candidates, with fixed draws."""
        _, belief, future = self.ready()
        return self.imagine(belief, future)

    def rollout(self, belief: EngineBelief, future: Future, actions: Tensor | None = None) -> Rollout:
        """The rollout of `future`, with fixed draws; `actions` [W, N, T, A] replaces its actions."""
        inputs = to_inputs(future.actions, future.exogenous, self.card.schema, self.engine.device)
        actions = inputs.actions if actions is None else actions.to(self.engine.device)
        return self.engine.rollout(belief, actions, inputs.exogenous, num_samples=self.num_samples, seed=self.seed)

    def imagine(self, belief: EngineBelief, future: Future) -> Arrays:
        """The predicted signals [W, N, S, T, *shape], with fixed draws."""
        return self.engine.imagine(belief, future, num_samples=self.num_samples, seed=self.seed).signals
