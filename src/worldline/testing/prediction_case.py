"""The common view of an engine and a world: something that predicts, with the logs on which it is checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode
from worldline.testing.clauses import Case, TwoOrMore, as_float
from worldline.testing.log_windows import random_windows


@dataclass(frozen=True, kw_only=True)
class PredictionCase(Case, ABC):
    """Something that predicts, with the logs on which it is checked.

    Args:
        episodes: at least 2 of a world that it models; `timing` needs about 20.
        horizon: T, predicted steps, at least 2.
        tolerance: largest relative difference between two results that must be equal.
        seed: of all draws.

    Attributes:
        kind: "engine" or "world".
        validates: whether past inputs, the dtype, NaN and unknown names must be checked.
    """

    kind: ClassVar[str]
    validates: ClassVar[bool]

    episodes: Sequence[Episode]
    horizon: TwoOrMore = 4
    tolerance: float = 1e-4
    seed: int = 0

    @property
    @abstractmethod
    def card(self) -> Card:
        """Its card."""

    @property
    @abstractmethod
    def length(self) -> int:
        """H, observations in the history."""

    @abstractmethod
    def means(self, windows: ForecastWindows) -> Arrays:
        """The mean prediction per signal [W, T, *shape] under the inputs of the windows, with fixed draws."""

    def windows(self) -> ForecastWindows:
        """One window of each episode, always the same."""
        return random_windows(self.episodes, length=self.length, horizon=self.horizon, seed=self.seed)

    def turned(self, windows: ForecastWindows) -> ForecastWindows:
        """The windows of other episodes: each in the place of the one before."""
        return windows.select(np.roll(np.arange(windows.num_worlds), 1).tolist())


def observed_values(episodes: Sequence[Episode], name: str) -> NDArray[np.floating]:
    """All observed values of an observation signal [n, *shape]."""
    return np.concatenate([as_float(episode.observations[name])[episode.mask(name)] for episode in episodes])


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
