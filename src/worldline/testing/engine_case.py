"""An engine with its test data; `engines.py` lists the clauses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from worldline.data.windows import ForecastWindows
from worldline.engines.base import Card, Engine, EngineBelief
from worldline.episode import Arrays, Future, History
from worldline.errors import InputError
from worldline.planning.base import Rollout
from worldline.testing.clauses import as_float
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
    num_versions: int = 3
    num_samples: int = 3

    def __post_init__(self) -> None:
        if min(self.horizon, self.num_versions, self.num_samples) < 2:
            raise InputError(
                f"horizon {self.horizon}, num_versions {self.num_versions} and num_samples {self.num_samples} "
                "must all be at least 2."
            )

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
        future = Future(
            actions={n: value[:, None] for n, value in windows.actions.items()}, exogenous=windows.exogenous
        )
        return {name: as_float(value)[:, 0].mean(1) for name, value in self.answer(windows.history, future).items()}

    def future(self, windows: ForecastWindows) -> Future:
        """The logged inputs of the windows with N - 1 alternative actions."""
        return windows.future(self.num_versions, self.seed)

    def observe(self, history: History, belief: EngineBelief | None = None) -> EngineBelief:
        """The belief after `history`, with fixed draws."""
        return self.engine.observe(belief, history, seed=self.seed)

    def answer(self, history: History, future: Future) -> Arrays:
        """The prediction after `history`, with fixed draws."""
        return self.imagine(self.observe(history), future)

    def rollout(self, belief: EngineBelief, future: Future) -> Rollout:
        """The rollout of `future`, with fixed draws."""
        inputs = to_inputs(future.actions, future.exogenous, self.card.schema, self.engine.device)
        return self.engine.rollout(
            belief, inputs.actions, inputs.exogenous, num_samples=self.num_samples, seed=self.seed
        )

    def imagine(self, belief: EngineBelief, future: Future) -> Arrays:
        """The predicted signals [W, N, S, T, *shape], with fixed draws."""
        return self.engine.imagine(belief, future, num_samples=self.num_samples, seed=self.seed).signals
