"""Engine that simulates a lab's law, and an untrained network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.engines import Card, Engine, EngineBelief, Noise, Samples, own_belief
from worldline.episode import Arrays, Episode, Future, History
from worldline.schema import Kind, Schema, Signal

Floats = NDArray[np.floating]
Law = Callable[[Arrays, Arrays], Arrays]
"""Maps states [M, *shape] and actions [M, T, *shape] to states [M, T, *shape], all vector observations."""

WIDTH: Final = 64
"""Width of the hidden layer of the untrained network."""
CONTEXT: Final = 3
"""Observations in the input of the untrained network."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LabOracle(Engine):
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
        names = tuple(signal.name for signal in _vectors(self.schema))
        return Card(
            name=self.name,
            engine="lab_oracle",
            schema=self.schema,
            inputs=names,
            predicts=names,
            context=1,
            deterministic=True,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> dict[str, NDArray[np.generic]]:
        """The state [W, *shape]: observed values, else the law applied to the previous state.

        Raises:
            InputError: the belief is of another engine.
        """
        del seed  # nothing is drawn
        length = next(iter(steps.observations.values())).shape[1]
        state: dict[str, NDArray[np.generic]] = {}
        if belief is not None:
            state = dict(own_belief(belief, dict))
        for step in range(length):
            place = step - (belief is None)
            if place >= 0:
                taken = {name: value[:, place : place + 1] for name, value in steps.actions.items()}
                state = {name: value[:, 0] for name, value in self.law(state, taken).items()}
            for signal in _vectors(self.schema):
                now = steps.observations[signal.name][:, step]
                seen = steps.observed.get(signal.name, np.ones(steps.observations[signal.name].shape[:2], bool))
                before = state.get(signal.name, np.zeros_like(now))
                state[signal.name] = np.where(seen[:, step, None].astype(bool), now, before)
        return state

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """One simulated sample, S = 1."""
        del num_samples, noise, seed
        state = own_belief(belief, dict)
        lead = next(iter(future.actions.values())).shape[:3]
        start = {name: np.repeat(value, lead[1], 0) for name, value in state.items()}
        actions = {name: value.reshape(-1, *value.shape[2:]) for name, value in future.actions.items()}
        found = self.law(start, actions)
        return Samples(signals={n: v.reshape(*lead[:2], 1, *v.shape[1:]).astype(np.float32) for n, v in found.items()})


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Untrained(Engine):
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
        rows = {signal.name: [_observed(episode, signal) for episode in episodes] for signal in _vectors(schema)}
        joined = [np.concatenate(parts) for parts in rows.values()]
        centre = np.concatenate([one.mean(0) for one in joined])
        spread = np.concatenate([one.std(0) for one in joined])
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
        names = tuple(signal.name for signal in _vectors(self.schema))
        return Card(
            name="untrained network",
            engine="untrained",
            schema=self.schema,
            inputs=names,
            predicts=names,
            context=CONTEXT,
            deterministic=True,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Floats:
        """The last observations [W, CONTEXT, D], standardised; 0 where nothing was observed."""
        del seed
        parts = []
        for signal in _vectors(self.schema):
            value = steps.observations[signal.name].astype(float)
            seen = steps.observed.get(signal.name, np.ones(value.shape[:2], bool)).astype(bool)
            parts.append(np.where(seen[..., None], value, np.nan))
        rows = np.nan_to_num((np.concatenate(parts, -1) - self.centre) / self.scale)
        before = np.zeros((len(rows), CONTEXT, rows.shape[-1]))
        if isinstance(belief, np.ndarray):
            before = belief
        return np.concatenate([before, rows], 1)[:, -CONTEXT:]

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The network applied to its own output, one sample.

        Raises:
            InputError: the belief is of another engine.
        """
        del num_samples, noise, seed
        belief = own_belief(belief, np.ndarray)
        actions = np.concatenate([future.actions[s.name] for s in self.schema.actions], -1).astype(float)
        past = np.repeat(belief[:, None], actions.shape[1], 1)
        path = []
        for step in range(actions.shape[2]):
            taken = np.concatenate([past.reshape(*past.shape[:2], -1), actions[:, :, step]], -1)
            path.append(past[:, :, -1] + np.tanh(taken @ self.first) @ self.last)
            past = np.concatenate([past[:, :, 1:], path[-1][:, :, None]], 2)
        found = (np.stack(path, 2) * self.scale + self.centre)[:, :, None].astype(np.float32)
        signals = _vectors(self.schema)
        ends = np.cumsum([signal.size for signal in signals])[:-1]
        return Samples(signals={s.name: part for s, part in zip(signals, np.split(found, ends, -1), strict=True)})


def _vectors(schema: Schema) -> tuple[Signal, ...]:
    return tuple(signal for signal in schema.observations if signal.kind is Kind.VECTOR)


def _observed(episode: Episode, signal: Signal) -> Floats:
    """The observed values [n, D] of a signal."""
    value = episode.observations[signal.name].astype(float)
    return np.asarray(value[np.asarray(episode.observed.get(signal.name, np.ones(len(value), bool)), dtype=bool)])
