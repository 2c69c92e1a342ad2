"""Windows of episodes as a batch: history, future inputs and ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card, Engine
from worldline.episode import Arrays, Episode, Future, History
from worldline.schema import Kind, Schema, Signal

NUM_SAMPLES = 16
"""S for stochastic engines. Calibration and use must agree, because the band is around the mean of S samples."""

Places = Sequence[tuple[Episode, int]]
"""Pairs of an episode and the index of its last known observation, the present."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """W windows.

    Args:
        history: W worlds, H observations.
        future: W worlds, N = 1, T steps.
        truth: per requested signal [W, T, *shape], ground truth.
        known: per requested signal [W, T], whether `truth` was observed.
    """

    history: History
    future: Future
    truth: Arrays
    known: Arrays


def cut(schema: Schema, places: Places, *, length: int, horizon: int, truth: Sequence[str]) -> Pieces:
    """Cuts the window around each place.

    Args:
        schema: schema of the episodes.
        places: W places, each present in [length - 1, number of steps - horizon].
        length: H.
        horizon: T.
        truth: observation signals whose future is returned.
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
    """The last `length` observations [W, H, *shape] and the inputs between them; all if there are fewer."""

    def last(arrays: Arrays, count: int) -> Arrays:
        return {name: value[:, max(value.shape[1] - count, 0) :] for name, value in arrays.items()}

    return History(
        observations=last(history.observations, length),
        actions=last(history.actions, length - 1),
        exogenous=last(history.exogenous, length - 1),
        observed=last(history.observed, length),
    )


def vectors_of(card: Card) -> tuple[Signal, ...]:
    """The predicted vector signals."""
    return tuple(card.schema[name] for name in card.predicts if card.schema[name].kind is Kind.VECTOR)


def worlds_of(history: History, mask: NDArray[np.bool_]) -> History:
    """The histories of the worlds selected by a mask [W]."""

    def kept(arrays: Arrays) -> Arrays:
        return {name: value[mask] for name, value in arrays.items()}

    return History(
        observations=kept(history.observations),
        actions=kept(history.actions),
        exogenous=kept(history.exogenous),
        observed=kept(history.observed),
    )


def unfold(card: Card, history: History, num_steps: int) -> Pieces:
    """The last steps of W histories as W * num_steps windows of one step, ordered by world, then by time.

    Args:
        card: gives the length of a window's history and its truth, the predicted vectors.
        history: W worlds, at least `card.context + num_steps` observations.
        num_steps: at least 1.
    """
    length = card.context
    first = next(iter(history.observations.values())).shape[1] - num_steps - length

    def sliced(arrays: Arrays, count: int, offset: int) -> dict[str, NDArray[np.generic]]:
        """[W * num_steps, count, *shape]: values from `offset` after the beginning of each window."""
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
    """S: 1 for a deterministic engine."""
    return 1 if card.deterministic else NUM_SAMPLES


def mean_of(signal: Signal, samples: NDArray[np.generic]) -> NDArray[np.floating]:
    """The mean over the S axis of vectors or images [W or N, S, T, *shape].

    For a periodic signal it is the circular mean, in [low, low + period).
    """
    if signal.period is None:
        return np.asarray(samples.mean(1, dtype=np.float64))
    turn = samples.astype(np.float64) * (2 * np.pi / signal.period)
    middle = np.arctan2(np.sin(turn).mean(1), np.cos(turn).mean(1)) * (signal.period / (2 * np.pi))
    low = np.asarray(signal.low or 0.0)
    return np.asarray(np.mod(middle - low, signal.period) + low)


def residuals(engine: Engine, pieces: Pieces, *, seed: int) -> dict[str, NDArray[np.floating]]:
    """Observed minus predicted [W, T, *shape] per vector signal of `pieces.truth`; 0 where missing."""
    return _compared(engine, pieces, seed)


def errors(engine: Engine, pieces: Pieces, *, seed: int) -> dict[str, NDArray[np.floating]]:
    """The prediction error per signal of `pieces.truth`; 0 where missing.

    Vector: absolute error of the mean [W, T, *shape], the shorter way round if periodic. Image: the average over the
    pixels [W, T, 1]. Discrete: the share of wrong samples [W, T, 1].
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
