"""Trivial baselines that every score must beat, as worlds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from worldline.audit.input_baselines import InputBaseline, InputReadouts, needs_readouts
from worldline.engines.base import Card, Engine, EngineBelief, Noise, Samples
from worldline.engines.baselines import ActionBlind, ConstantVelocity, Extrapolation, Linear, Persistence
from worldline.engines.fixed_lag import FixedLagBaseline, typical_values
from worldline.engines.numpy_engine import NumpyEngine
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import DataError, InputError
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
    vectors = [signal for signal in schema.observations if signal.kind is Kind.VECTOR]
    baselines: dict[str, Engine] = {
        "persistence": Persistence.fit(episodes, schema),
        "constant velocity": ConstantVelocity.fit(episodes, schema),
        "action-blind": ActionBlind.fit(episodes, schema, context=CONTEXT),
        "marginal mean": MarginalMean(schema=schema, typical=typical_values(episodes, vectors), context=1),
    }
    if schema.actions:
        baselines["shuffled action"] = ShuffledActions(inner=Linear.fit(episodes, schema, context=CONTEXT))
    return baselines


def fitted_baselines(episodes: Sequence[Episode], card: Card, rare: Sequence[str] = ()) -> dict[str, World]:
    """Baselines that see the inputs of a world: "persistence", "action_blind" and "linear".

    A predicted vector that is no input is read linearly from the inputs, with images reduced to a few pixels.

    Args:
        episodes: training episodes; if images are needed, those without images are left out.
        card: of the world.
        rare: signals to leave out of the regressions, because they are rarely observed. Without a complete row of the
            others there are no regressions.

    Raises:
        DataError: no episode has the inputs that a predicted signal is read from.
    """
    schema = card.schema
    if needs_readouts(card):
        readout = InputReadouts.fit(episodes, card, rare)
        names = {signal.name for signal in readout.inputs}
        read = [readout.episode(episode) for episode in episodes if names <= episode.observations.keys()]
        seen = replace(schema, signals=(*readout.signals, *schema.actions, *schema.exogenous))
        inner: dict[str, FixedLagBaseline] = {"persistence": Persistence.fit(read, seen), **_regressions(read, seen)}
        return {n: as_world(InputBaseline(inner=engine, readout=readout, card=card)) for n, engine in inner.items()}
    known = {*card.inputs, *card.predicts}
    vectors = [signal for signal in schema.observations if signal.kind is Kind.VECTOR and signal.name in known]
    often = [signal for signal in vectors if signal.name not in rare]
    regressed = replace(schema, signals=(*often, *schema.actions, *schema.exogenous))
    persistence = Persistence(schema=schema, typical=typical_values(episodes, vectors), context=1)
    regressions = {name: replace(engine, schema=schema) for name, engine in _regressions(episodes, regressed).items()}
    return {name: as_world(engine) for name, engine in {"persistence": persistence, **regressions}.items()}


def _regressions(episodes: Sequence[Episode], schema: Schema) -> dict[str, FixedLagBaseline]:
    """The linear models of a schema; empty if no row is complete."""
    models: dict[str, FixedLagBaseline] = {}
    for name, family in (("action_blind", ActionBlind), ("linear", Linear)):
        with suppress(DataError, InputError):
            models[name] = family.fit(episodes, schema, context=CONTEXT)
    return models


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
class MarginalMean(Extrapolation):
    """Predicts the typical value of each vector signal, its mean over the logs, for every history."""

    kind = "marginal_mean"
    min_context = 1

    def path(self, past: Arrays, future: Future) -> Arrays:
        """The means at every step."""
        lead = next(iter(future.actions.values())).shape[:3]
        return {name: np.broadcast_to(mean, lead + mean.shape) for name, mean in self.typical.items()}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ShuffledActions(NumpyEngine):
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
