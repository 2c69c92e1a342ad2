"""Trivial baselines that every score must beat, as worlds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card, Engine, EngineBelief, Noise, Samples
from worldline.engines.baselines import ActionBlind, ConstantVelocity, Linear, Persistence
from worldline.engines.fixed_lag import typical_values
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import DataError
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Schema
from worldline.world.base import World
from worldline.world.calibration import Calibration
from worldline.world.local import LocalWorld

CONTEXT = 3
"""Observations in the input of the regressions of `bank`."""


def bank(episodes: Sequence[Episode], schema: Schema) -> dict[str, World]:
    """Trivial baselines by name, fitted on `episodes`; none of them models the effect of actions."""
    return {name: as_world(engine) for name, engine in engines(episodes, schema).items()}


def engines(episodes: Sequence[Episode], schema: Schema) -> dict[str, Engine]:
    """Engines of the worlds of `bank`, for tests that calibrate them."""
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


def fitted_baselines(episodes: Sequence[Episode], schema: Schema, regressed: Schema) -> dict[str, World]:
    """Baselines on the vector signals of logs: "persistence", "action_blind" and "linear".

    Args:
        episodes: training episodes.
        schema: schema of their signals.
        regressed: signals of the regressions, which are left out if no row of these is complete.
    """
    typical = typical_values(episodes, [one for one in schema.observations if one.kind is Kind.VECTOR])
    found: dict[str, World] = {"persistence": as_world(Persistence(schema=schema, typical=typical, context=1))}
    for name, family in (("action_blind", ActionBlind), ("linear", Linear)):
        with suppress(DataError):
            found[name] = as_world(replace(family.fit(episodes, regressed, context=CONTEXT), schema=schema))
    return found


def as_world(engine: Engine, calibration: Calibration | None = None) -> World:
    """A world over an engine, with the default planner."""
    return LocalWorld(engine, calibration, CrossEntropy())


def best_of(candidates: Mapping[str, Arrays], loss: Callable[[Arrays], NDArray[np.floating]]) -> str:
    """Name of the answers with the smallest mean loss; the first in a tie.

    Args:
        candidates: answers to the pilot scenes, by name.
        loss: maps answers to the loss of each scene [E].
    """
    return min(candidates, key=lambda name: float(np.mean(loss(candidates[name]))))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MarginalMean(Engine):
    """Predicts the mean of each vector signal over the logs, for every history.

    Args:
        schema: schema of the logs.
        mean: per vector observation [*shape].
    """

    schema: Schema
    mean: Arrays

    def describe(self) -> Card:
        """The card of the baseline."""
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
        """Stores nothing."""

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The means at every step."""
        del belief, num_samples, noise, seed
        worlds, versions, steps = next(iter(future.actions.values())).shape[:3]
        lead = (worlds, versions, 1, steps)
        return Samples(signals={n: np.broadcast_to(v, lead + v.shape).copy() for n, v in self.mean.items()})


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ShuffledActions(Engine):
    """Evaluates an engine under the actions of another batch element, or of another step in a batch of one.

    Args:
        inner: the engine.
    """

    inner: Engine

    def describe(self) -> Card:
        """The card of the inner engine, not action-conditioned."""
        return replace(self.inner.describe(), name="shuffled action", action_conditioned=False)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        """The belief of the inner engine."""
        return self.inner.observe(belief, steps, seed=seed)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The rollout of the inner engine under the actions of the previous batch element."""
        rolled = {name: np.roll(value, 1, 0 if len(value) > 1 else 2) for name, value in future.actions.items()}
        moved = replace(future, actions=rolled)
        return self.inner.imagine(belief, moved, num_samples=num_samples, noise=noise, seed=seed)
