"""Two engines that exams are examined with: one that knows a lab's law, and a network that has learned nothing."""

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
"""Takes states [M, *shape] and actions [M, T, *shape], gives states [M, T, *shape]: vector observation signals."""

WIDTH: Final = 64
"""Of the hidden layer of the untrained network."""
CONTEXT: Final = 3
"""Observations that it looks at."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LabOracle(Engine):
    """Follows a law through all that it is shown, and so keeps track of what is not observed.

    Args:
        schema: of the lab, whose vector observations are its whole state where nothing is hidden.
        law: of the lab, without noise.
        name: on the card.
    """

    schema: Schema
    law: Law
    name: str = "oracle"

    def describe(self) -> Card:
        """What this engine is."""
        names = tuple(signal.name for signal in _vectors(self.schema))
        return Card(
            name=self.name,
            engine="lawful",
            schema=self.schema,
            inputs=names,
            predicts=names,
            context=1,
            deterministic=True,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> dict[str, NDArray[np.generic]]:
        """The state [W, *shape]: what was observed, else what the law makes of the state before; see `Engine`.

        Raises:
            InputError: the belief is none of this engine's.
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
        """One sample, S = 1; see `Engine`."""
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
    """A network with one hidden layer and random weights, which knows how large signals are and no more.

    Args:
        schema: of the logs.
        centre: [D] of all vector observations side by side.
        scale: [D], above 0.
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
        """The network of a seed; `episodes` serve only for mean and deviation of what was observed."""
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
        """What this engine is."""
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
        """The last observations [W, CONTEXT, D], standardised; 0 where nothing was observed; see `Engine`."""
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
        """The network applied to its own output; see `Engine`.

        Raises:
            InputError: the belief is none of this engine's.
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
    """The values [n, D] of a signal that were observed."""
    value = episode.observations[signal.name].astype(float)
    return np.asarray(value[np.asarray(episode.observed.get(signal.name, np.ones(len(value), bool)), dtype=bool)])
