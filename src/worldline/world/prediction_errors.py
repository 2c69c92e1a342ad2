"""Errors of the predictions of an engine in windows of logged episodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.engines.base import Card, Engine
from worldline.schema import Kind, Signal

NUM_SAMPLES = 16
"""S for stochastic engines. Calibration and use must agree, because the band is around the mean of S samples."""


def vectors_of(card: Card) -> tuple[Signal, ...]:
    """The predicted vector signals."""
    return tuple(card.schema[name] for name in card.predicts if card.schema[name].kind is Kind.VECTOR)


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


def residuals(engine: Engine, windows: ForecastWindows, *, seed: int) -> dict[str, NDArray[np.floating]]:
    """Observed minus predicted per signal of `windows.truth`; 0 where missing.

    Vector: difference from the mean of the samples [W, T, *shape], the shorter way round if periodic. Image: the mean
    absolute difference over the pixels [W, T, 1]. Discrete: the share of wrong samples [W, T, 1].
    """
    card = engine.describe()
    belief = engine.observe(None, windows.history, seed=seed)
    samples = engine.imagine(belief, windows.future(), num_samples=num_samples(card), seed=seed).signals
    found: dict[str, NDArray[np.floating]] = {}
    for name, value in windows.truth.items():
        signal, known = card.schema[name], windows.known[name]
        truth = np.where(known.reshape(known.shape + (1,) * (value.ndim - 2)), value, 0)
        if signal.kind is Kind.DISCRETE:
            error = (samples[name][:, 0] != truth[:, None]).mean(1)[..., None]
        else:
            error = signal.difference(truth.astype(np.float64), mean_of(signal, samples[name][:, 0]))
        if signal.kind is Kind.IMAGE:
            error = np.abs(error).mean((2, 3, 4))[..., None]
        found[name] = np.where(known[..., None], error, 0.0)
    return found


def errors(engine: Engine, windows: ForecastWindows, *, seed: int) -> dict[str, NDArray[np.floating]]:
    """The absolute values of `residuals`."""
    return {name: np.abs(value) for name, value in residuals(engine, windows, seed=seed).items()}
