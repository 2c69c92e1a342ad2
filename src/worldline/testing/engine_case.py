"""An engine with its test data; the clauses are in `engines.py`, `engine_inputs.py` and `engine_parts.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldline.data.windows import ForecastWindows as Cut
from worldline.engines.base import Card, Engine, EngineBelief
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import InputError
from worldline.testing.log_windows import random_windows as random_cut


@dataclass(frozen=True, kw_only=True)
class EngineCase:
    """An engine and the logs on which it is checked.

    Args:
        engine: the engine.
        episodes: at least 2, of the engine's schema and of a world that it models; `timing` needs about 20.
        horizon: T, predicted steps, at least 2.
        num_versions: N, at least 2.
        num_samples: S, requested samples, at least 2.
        tolerance: largest relative difference between two results that must be equal.
        seed: of all draws.
    """

    engine: Engine
    episodes: Sequence[Episode]
    horizon: int = 4
    num_versions: int = 3
    num_samples: int = 3
    tolerance: float = 1e-4
    seed: int = 0

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

    def cut(self) -> Cut:
        """One window of each episode, always the same."""
        return random_cut(self.episodes, length=self.length, horizon=self.horizon, seed=self.seed)

    def futures(self, cut: Cut) -> tuple[Future, Future]:
        """The logged future with N - 1 alternatives, and a future with other actions and exogenous inputs."""
        turned = cut.select(np.roll(np.arange(cut.num_worlds), 1).tolist())
        return cut.future(self.num_versions, self.seed), turned.future(self.num_versions, self.seed + 1)

    def observe(self, history: History, belief: EngineBelief | None = None) -> EngineBelief:
        """The belief after `history`, with fixed draws."""
        return self.engine.observe(belief, history, seed=self.seed)

    def answer(self, history: History, future: Future) -> Arrays:
        """The prediction after `history`, with fixed draws."""
        return self.imagine(self.observe(history), future)

    def imagine(self, belief: EngineBelief, future: Future) -> Arrays:
        """The predicted signals, with fixed draws."""
        return self.engine.imagine(belief, future, num_samples=self.num_samples, seed=self.seed).signals
