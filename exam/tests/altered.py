"""An engine that is wrong in one way, for the tests of C1 and C5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worldline.engines.base import Card, Engine, EngineBelief, Samples
from worldline.engines.numpy_engine import NumpyEngine
from worldline.episode import Future, History


@dataclass(frozen=True, kw_only=True, eq=False)
class Altered(NumpyEngine):
    """The lab that takes actions `by` steps late (early where below 0)."""

    inner: Engine
    by: int = 0

    def describe(self) -> Card:
        return self.inner.describe()

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        return self.inner.observe(belief, steps, seed=seed)

    def imagine(self, belief: EngineBelief, future: Future, **rest: Any) -> Samples:
        shifted = Future(actions={name: np.roll(value, self.by, 2) for name, value in future.actions.items()})
        return self.inner.imagine(belief, shifted, **rest)
