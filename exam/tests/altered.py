"""An engine that is wrong in one way, for the tests of C1 and C5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from worldline.engines.base import Card, Engine, EngineBelief, Noise, Samples
from worldline.engines.numpy_engine import NumpyEngine
from worldline.episode import Future, History
from worldline_exam.labs.pusher_block import STATE


@dataclass(frozen=True, kw_only=True, eq=False)
class Altered(NumpyEngine):
    """The lab that takes actions `by` steps late (early where below 0), or tells only some signals."""

    inner: Engine
    by: int = 0
    tells: Sequence[str] = STATE

    def describe(self) -> Card:
        return replace(self.inner.describe(), predicts=tuple(self.tells))

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        return self.inner.observe(belief, steps, seed=seed)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        shifted = Future(actions={name: np.roll(value, self.by, 2) for name, value in future.actions.items()})
        found = self.inner.imagine(belief, shifted, num_samples=num_samples, noise=noise, seed=seed).signals
        return Samples(signals={name: found[name] for name in self.tells})
