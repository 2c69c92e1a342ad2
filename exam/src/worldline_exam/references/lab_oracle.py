"""Engine that simulates a lab's law, and an untrained network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from worldline.engines import Card, EngineBelief, own_belief
from worldline.episode import Arrays, Episode, History
from worldline.schema import Schema
from worldline_exam.references.base import ReferenceEngine, each_version, flat, reference_card, vectors_of

Floats = NDArray[np.floating]
Law = Callable[[Arrays, Arrays], Arrays]
"""Maps states [M, *shape] and actions [M, T, *shape] to states [M, T, *shape], all vector observations."""


@runtime_checkable
class DeterministicLab(Protocol):
    """A lab that simulates many action sequences without noise."""

    @property
    def schema(self) -> Schema:
        """The signals of the lab."""

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Vector observations [M, T, *shape]; see `Law`."""


WIDTH: Final = 64
"""Width of the hidden layer of the untrained network."""
CONTEXT: Final = 3
"""Observations in the input of the untrained network."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LabOracle(ReferenceEngine):
    """Simulates a law through the history, and so tracks signals that are not observed.

    Args:
        schema: schema of the lab. Its vector observations are the complete state if nothing is hidden.
        law: law of the lab, without noise.
        name: name on the card.
    """

    schema: Schema
    law: Law
    name: str = "oracle"

    def describe(self) -> Card:
        """The card of this engine."""
        return reference_card(self.name, self.schema)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> dict[str, NDArray[np.generic]]:
        """The state [W, *shape]: observed values, else the law applied to the previous state.

        Raises:
            InputError: the belief is of another engine.
        """
        del seed  # nothing is drawn
        if all(mask.all() for mask in steps.observed.values()):
            return {name: steps.observations[name][:, -1] for name in vectors_of(self.schema)}
        length = next(iter(steps.observations.values())).shape[1]
        state: dict[str, NDArray[np.generic]] = {}
        if belief is not None:
            state = dict(own_belief(belief, dict))
        for step in range(length):
            place = step - (belief is None)
            if place >= 0:
                taken = {name: value[:, place : place + 1] for name, value in steps.actions.items()}
                state = {name: value[:, 0] for name, value in self.law(state, taken).items()}
            for name in vectors_of(self.schema):
                now, seen = steps.observations[name][:, step], steps.mask(name)[:, step, None]
                state[name] = np.where(seen, now, state.get(name, np.zeros_like(now)))
        return state

    def predict(self, belief: EngineBelief, actions: Arrays) -> Arrays:
        """The simulated paths."""
        return self.law(each_version(own_belief(belief, dict), actions), flat(actions))


def oracle_of(lab: DeterministicLab) -> LabOracle:
    """The oracle that knows the law of a lab."""
    return LabOracle(schema=lab.schema, law=lab.simulate)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Untrained(ReferenceEngine):
    """Network with one hidden layer and random weights; only the scales of signals come from the logs.

    Args:
        schema: schema of the logs.
        centre: [D], mean of the concatenated vector observations.
        scale: [D], their scale, above 0.
        first: [CONTEXT * D + A, WIDTH] weights.
        last: [WIDTH, D] weights.
    """

    schema: Schema
    centre: Floats
    scale: Floats
    first: Floats
    last: Floats

    @classmethod
    def fit(cls, episodes: Sequence[Episode], schema: Schema, seed: int) -> Untrained:
        """The network of a seed; `episodes` give only mean and standard deviation of observations."""
        rows = {signal: [_observed(episode, signal) for episode in episodes] for signal in vectors_of(schema)}
        joined = [np.concatenate(parts) for parts in rows.values()]
        centre = np.concatenate([values.mean(0) for values in joined])
        spread = np.concatenate([values.std(0) for values in joined])
        size, num_inputs = len(centre), sum(signal.size for signal in schema.actions)
        rng, taken = np.random.default_rng(seed), CONTEXT * size + num_inputs
        return cls(
            schema=schema,
            centre=centre,
            scale=np.where(spread > 0, spread, 1.0),
            first=rng.standard_normal((taken, WIDTH)) / np.sqrt(taken),
            last=rng.standard_normal((WIDTH, size)) / np.sqrt(WIDTH),
        )

    def describe(self) -> Card:
        """The card of this engine."""
        return reference_card("untrained network", self.schema, context=CONTEXT)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Floats:
        """The last observations [W, CONTEXT, D], standardised; 0 where nothing was observed."""
        del seed
        parts = []
        for name in vectors_of(self.schema):
            value = steps.observations[name].astype(float)
            parts.append(np.where(steps.mask(name)[..., None], value, np.nan))
        rows = np.nan_to_num((np.concatenate(parts, -1) - self.centre) / self.scale)
        before = np.zeros((len(rows), CONTEXT, rows.shape[-1]))
        if isinstance(belief, np.ndarray):
            before = belief
        return np.concatenate([before, rows], 1)[:, -CONTEXT:]

    def predict(self, belief: EngineBelief, actions: Arrays) -> Arrays:
        """The network applied to its own output."""
        belief = own_belief(belief, np.ndarray)
        pushes = np.concatenate([actions[signal.name] for signal in self.schema.actions], -1).astype(float)
        past = np.repeat(belief[:, None], pushes.shape[1], 1)
        path = []
        for step in range(pushes.shape[2]):
            taken = np.concatenate([past.reshape(*past.shape[:2], -1), pushes[:, :, step]], -1)
            path.append(past[:, :, -1] + np.tanh(taken @ self.first) @ self.last)
            past = np.concatenate([past[:, :, 1:], path[-1][:, :, None]], 2)
        path_values = np.stack(path, 2) * self.scale + self.centre
        names = vectors_of(self.schema)
        ends = np.cumsum([self.schema[name].size for name in names])[:-1]
        return dict(zip(names, np.split(path_values, ends, -1), strict=True))


def _observed(episode: Episode, name: str) -> Floats:
    """The observed values [n, D] of a signal."""
    return np.asarray(episode.observations[name].astype(float)[episode.mask(name)])
