"""Trivial models that every score has to beat, as worlds, so that they are asked as any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card, Engine, EngineBelief, Noise, Samples
from worldline.engines.baselines import ActionBlind, ConstantVelocity, Linear, Persistence
from worldline.engines.fixed_lag import typical_values
from worldline.episode import Arrays, Episode, Future, History
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Schema
from worldline.world.base import World
from worldline.world.calibration import Calibration
from worldline.world.local import LocalWorld

CONTEXT = 3
"""Observations that the regressions of the bank look at."""


def bank(episodes: Sequence[Episode], schema: Schema) -> dict[str, World]:
    """The trivial models, by name, fitted on `episodes`: none of them has learned what an action does."""
    return {name: as_world(engine) for name, engine in engines(episodes, schema).items()}


def engines(episodes: Sequence[Episode], schema: Schema) -> dict[str, Engine]:
    """What stands behind the worlds of `bank`, for tests that calibrate them."""
    found: dict[str, Engine] = {
        "persistence": Persistence.fit(episodes, schema),
        "constant velocity": ConstantVelocity.fit(episodes, schema),
        "action-blind": ActionBlind.fit(episodes, schema, context=CONTEXT),
        "marginal mean": MarginalMean(
            schema=schema,
            mean=typical_values(episodes, [s for s in schema.observations if s.kind is Kind.VECTOR]),
        ),
    }
    if schema.actions:
        found["shuffled action"] = ShuffledActions(inner=Linear.fit(episodes, schema, context=CONTEXT))
    return found


def as_world(engine: Engine, calibration: Calibration | None = None) -> World:
    """A world over an engine, for reference."""
    return LocalWorld(engine, calibration, CrossEntropy())


def best_of(candidates: Mapping[str, Arrays], loss: Callable[[Arrays], NDArray[np.floating]]) -> str:
    """The name of the answers with the smallest mean loss, the first of several.

    Args:
        candidates: answers to the pilot's scenes, by name.
        loss: of each scene [E], of answers.
    """
    return min(candidates, key=lambda name: float(np.mean(loss(candidates[name]))))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MarginalMean(Engine):
    """Says of every vector signal its mean over the logs, whatever was seen.

    Args:
        schema: of the logs.
        mean: per vector observation signal [*shape].
    """

    schema: Schema
    mean: Arrays

    def describe(self) -> Card:
        """What this engine is."""
        return Card(
            name="marginal mean",
            engine="marginal_mean",
            schema=self.schema,
            inputs=tuple(self.mean),
            predicts=tuple(self.mean),
            context=1,
            deterministic=True,
            action_conditioned=False,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> None:
        """Nothing is remembered; see `Engine`."""

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The means; see `Engine`."""
        del belief, num_samples, noise, seed
        worlds, versions, steps = next(iter(future.actions.values())).shape[:3]
        lead = (worlds, versions, 1, steps)
        return Samples(signals={n: np.broadcast_to(v, lead + v.shape).copy() for n, v in self.mean.items()})


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ShuffledActions(Engine):
    """An engine that is told the actions of another world of the batch; where there is none, of another step.

    Args:
        inner: the engine.
    """

    inner: Engine

    def describe(self) -> Card:
        """The inner engine's card; it does not heed the actions it is given."""
        return replace(self.inner.describe(), name="shuffled action", action_conditioned=False)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        """See `Engine`."""
        return self.inner.observe(belief, steps, seed=seed)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """See `Engine`; what is done is what the world before it in the batch does."""
        rolled = {name: np.roll(value, 1, 0 if len(value) > 1 else 2) for name, value in future.actions.items()}
        moved = replace(future, actions=rolled)
        return self.inner.imagine(belief, moved, num_samples=num_samples, noise=noise, seed=seed)
