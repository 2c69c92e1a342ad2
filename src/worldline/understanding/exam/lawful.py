"""A world that follows a law which is given as a function: the oracle of a lab that shows its whole state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

from worldline.contracts.engine import Card, Engine, EngineBelief, Future, Noise, Samples
from worldline.contracts.episode import Arrays, History
from worldline.contracts.schema import Kind, Schema
from worldline.engines.checks import check_future, check_observations
from worldline.errors import InputError

Law = Callable[[Arrays, Arrays], Arrays]
"""Takes observation signals [M, *shape] and action signals [M, T, *shape], gives vector signals [M, T, *shape]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """The belief: the last observation of W worlds.

    Args:
        state: per vector observation signal [W, *shape].
    """

    state: Arrays


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Lawful(Engine):
    """Follows `law` from the last observation, which has to be complete.

    Args:
        schema: of the lab.
        law: what follows a state under actions.
        name: on the card.
    """

    schema: Schema
    law: Law
    name: str = "oracle"

    def describe(self) -> Card:
        """What this engine is."""
        vectors = tuple(signal.name for signal in self.schema.observations if signal.kind is Kind.VECTOR)
        return Card(
            name=self.name,
            engine="lawful",
            schema=self.schema,
            inputs=vectors,
            predicts=vectors,
            context=1,
            deterministic=True,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Seen:
        """The last observation; see `Engine`."""
        del belief, seed  # all that counts is what was seen last, and nothing is drawn
        signals = [self.schema[name] for name in self.describe().inputs]
        check_observations(steps, signals)
        return Seen(state={signal.name: steps.observations[signal.name][:, -1] for signal in signals})

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """One sample, S = 1; see `Engine`."""
        del num_samples, noise, seed  # deterministic
        if not isinstance(belief, Seen):
            raise InputError(f"belief is a {type(belief).__name__}. Pass one that this engine's observe returned.")
        size = check_future(future, self.schema)
        start = {name: np.repeat(value, size.num_versions, 0) for name, value in belief.state.items()}
        actions = {name: value.reshape(-1, *value.shape[2:]) for name, value in future.actions.items()}
        path = self.law(start, actions)
        lead = (size.num_worlds, size.num_versions, 1, size.horizon)
        return Samples(signals={name: path[name].reshape(lead + path[name].shape[2:]) for name in belief.state})
