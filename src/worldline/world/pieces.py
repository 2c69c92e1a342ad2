"""Pieces of episodes as a batch: what was known, what was done next, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card, Engine
from worldline.episode import Arrays, Episode, Future, History
from worldline.schema import Kind, Schema, Signal

NUM_SAMPLES = 16
"""S for engines that draw. Calibration and use must agree on it: the band belongs to the mean of S samples."""

Places = Sequence[tuple[Episode, int]]
"""Each an episode and the index of its present."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """W pieces.

    Args:
        history: W worlds, H observations.
        future: W worlds, N = 1, T steps.
        truth: per signal that was asked for [W, T, *shape].
        known: per such signal [W, T], where `truth` was observed.
    """

    history: History
    future: Future
    truth: Arrays
    known: Arrays


def cut(schema: Schema, places: Places, *, length: int, horizon: int, truth: Sequence[str]) -> Pieces:
    """The pieces around each place.

    Args:
        schema: of the episodes.
        places: W, the present in [length - 1, T - horizon].
        length: H.
        horizon: T.
        truth: observation signals whose future is wanted.
    """
    names = [signal.name for signal in schema.observations if signal.name in places[0][0].observations]

    def known(episode: Episode, name: str, start: int, stop: int) -> NDArray[np.bool_]:
        return np.asarray(episode.observed.get(name, np.ones(episode.num_steps + 1, bool))[start:stop], dtype=bool)

    history = History(
        observations={n: np.stack([e.observations[n][at - length + 1 : at + 1] for e, at in places]) for n in names},
        actions={
            s.name: np.stack([e.actions[s.name][at - length + 1 : at] for e, at in places]) for s in schema.actions
        },
        exogenous={
            s.name: np.stack([e.exogenous[s.name][at - length + 1 : at] for e, at in places]) for s in schema.exogenous
        },
        observed={n: np.stack([known(e, n, at - length + 1, at + 1) for e, at in places]) for n in names},
    )
    future = Future(
        actions={
            s.name: np.stack([e.actions[s.name][at : at + horizon] for e, at in places])[:, None]
            for s in schema.actions
        },
        exogenous={
            s.name: np.stack([e.exogenous[s.name][at : at + horizon] for e, at in places]) for s in schema.exogenous
        },
    )
    return Pieces(
        history=history,
        future=future,
        truth={n: np.stack([e.observations[n][at + 1 : at + 1 + horizon] for e, at in places]) for n in truth},
        known={n: np.stack([known(e, n, at + 1, at + 1 + horizon) for e, at in places]) for n in truth},
    )


def tail_of(history: History, length: int) -> History:
    """The last `length` observations [W, H, *shape] and the inputs between them, or all where there are fewer."""

    def last(arrays: Arrays, count: int) -> Arrays:
        return {name: value[:, max(value.shape[1] - count, 0) :] for name, value in arrays.items()}

    return History(
        observations=last(history.observations, length),
        actions=last(history.actions, length - 1),
        exogenous=last(history.exogenous, length - 1),
        observed=last(history.observed, length),
    )


def vectors_of(card: Card) -> tuple[Signal, ...]:
    """The predicted vectors."""
    return tuple(card.schema[name] for name in card.predicts if card.schema[name].kind is Kind.VECTOR)


def worlds_of(history: History, those: NDArray[np.bool_]) -> History:
    """The histories of some of W worlds."""

    def kept(arrays: Arrays) -> Arrays:
        return {name: value[those] for name, value in arrays.items()}

    return History(
        observations=kept(history.observations),
        actions=kept(history.actions),
        exogenous=kept(history.exogenous),
        observed=kept(history.observed),
    )


def unfold(card: Card, history: History, num_steps: int) -> Pieces:
    """The last steps of W histories as W * num_steps pieces of one step each, those of a world in order of time.

    Args:
        card: says how long the past of a piece is, and that its truth are the predicted vectors.
        history: W worlds, at least `card.context + num_steps` observations.
        num_steps: at least 1.
    """
    length = card.context
    first = next(iter(history.observations.values())).shape[1] - num_steps - length

    def sliced(arrays: Arrays, count: int, offset: int) -> dict[str, NDArray[np.generic]]:
        """[W * num_steps, count, *shape]: of each piece what begins `offset` after its own beginning."""
        index = first + offset + np.arange(num_steps)[:, None] + np.arange(count)
        return {
            name: value[:, index].reshape(len(value) * num_steps, count, *value.shape[2:])
            for name, value in arrays.items()
        }

    names = [signal.name for signal in vectors_of(card) if signal.name in history.observations]
    shape = next(iter(history.observations.values())).shape[:2]
    known = {name: history.observed.get(name, np.ones(shape, bool)) for name in names}
    return Pieces(
        history=History(
            observations=sliced(history.observations, length, 0),
            actions=sliced(history.actions, length - 1, 0),
            exogenous=sliced(history.exogenous, length - 1, 0),
            observed=sliced(history.observed, length, 0),
        ),
        future=Future(
            actions={name: value[:, None] for name, value in sliced(history.actions, 1, length - 1).items()},
            exogenous=sliced(history.exogenous, 1, length - 1),
        ),
        truth=sliced({name: history.observations[name] for name in names}, 1, length),
        known=sliced(known, 1, length),
    )


def num_samples(card: Card) -> int:
    """S: 1 for an engine that draws nothing."""
    return 1 if card.deterministic else NUM_SAMPLES


def mean_of(signal: Signal, samples: NDArray[np.generic]) -> NDArray[np.floating]:
    """The mean over the S axis of vectors or images [W or N, S, T, *shape].

    Where the signal repeats it is the direction of the mean of the directions, in [low, low + period).
    """
    if signal.period is None:
        return np.asarray(samples.mean(1, dtype=np.float64))
    turn = samples.astype(np.float64) * (2 * np.pi / signal.period)
    middle = np.arctan2(np.sin(turn).mean(1), np.cos(turn).mean(1)) * (signal.period / (2 * np.pi))
    low = np.asarray(signal.low or 0.0)
    return np.asarray(np.mod(middle - low, signal.period) + low)


def residuals(engine: Engine, pieces: Pieces, *, seed: int) -> dict[str, NDArray[np.floating]]:
    """What came less what was expected [W, T, *shape] of each of `pieces.truth`, all vectors; 0 where missing."""
    return _compared(engine, pieces, seed)


def errors(engine: Engine, pieces: Pieces, *, seed: int) -> dict[str, NDArray[np.floating]]:
    """How far the prediction was from each signal in `pieces.truth`; 0 where that is missing.

    Of a vector the absolute error of the mean [W, T, *shape], the shorter way round where it repeats; of an image its
    average over the pixels [W, T, 1]; of a discrete signal the share of samples that got it wrong [W, T, 1].
    """
    return {name: np.abs(value) for name, value in _compared(engine, pieces, seed).items()}


def _compared(engine: Engine, pieces: Pieces, seed: int) -> dict[str, NDArray[np.floating]]:
    card = engine.describe()
    belief = engine.observe(None, pieces.history, seed=seed)
    samples = engine.imagine(belief, pieces.future, num_samples=num_samples(card), seed=seed).signals
    found: dict[str, NDArray[np.floating]] = {}
    for name, value in pieces.truth.items():
        signal, known = card.schema[name], pieces.known[name].astype(bool)
        truth = np.where(known.reshape(known.shape + (1,) * (value.ndim - 2)), value, 0)
        if signal.kind is Kind.DISCRETE:
            error = (samples[name][:, 0] != truth[:, None]).mean(1)[..., None]
        else:
            error = signal.difference(truth.astype(np.float64), mean_of(signal, samples[name][:, 0]))
        if signal.kind is Kind.IMAGE:
            error = np.abs(error).mean((2, 3, 4))[..., None]
        found[name] = np.where(known[..., None], error, 0.0)
    return found
