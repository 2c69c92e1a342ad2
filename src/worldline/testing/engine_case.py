"""An engine and what to try it on; the clauses are in `engines.py`, `engine_inputs.py` and `engine_parts.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldline.engines.base import Card, Engine, EngineBelief
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import InputError
from worldline.testing.cuts import Cut, random_cut


@dataclass(frozen=True, kw_only=True)
class EngineCase:
    """An engine and logs to try it on.

    Args:
        engine: to be checked.
        episodes: at least 2, of the engine's schema and a world that it knows; 20 or more make `timing` reliable.
        horizon: T, steps that are imagined, at least 2.
        num_versions: N, at least 2.
        num_samples: S that is asked for, at least 2.
        tolerance: largest relative difference between two results that must be equal.
        seed: of every draw.
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
                "must be at least 2."
            )

    @property
    def card(self) -> Card:
        """What the engine says of itself."""
        return self.engine.describe()

    @property
    def length(self) -> int:
        """H, one more observation than the engine asks for, and at least 3."""
        return max(self.card.context, 2) + 1

    def cut(self) -> Cut:
        """A piece of each episode, always the same."""
        return random_cut(self.episodes, length=self.length, horizon=self.horizon, seed=self.seed)

    def futures(self, cut: Cut) -> tuple[Future, Future]:
        """What was done next with N - 1 alternatives, and another set of both actions and exogenous inputs."""
        turned = cut.select(np.roll(np.arange(cut.num_worlds), 1).tolist())
        return cut.future(self.num_versions, self.seed), turned.future(self.num_versions, self.seed + 1)

    def observe(self, history: History, belief: EngineBelief | None = None) -> EngineBelief:
        """The belief after `history`, always with the same draws."""
        return self.engine.observe(belief, history, seed=self.seed)

    def answer(self, history: History, future: Future) -> Arrays:
        """What is imagined after `history`, always with the same draws."""
        return self.imagine(self.observe(history), future)

    def imagine(self, belief: EngineBelief, future: Future) -> Arrays:
        """The imagined signals, always with the same draws."""
        return self.engine.imagine(belief, future, num_samples=self.num_samples, seed=self.seed).signals
