"""Errors of the predictions of an engine in windows of logged episodes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.engines.base import Card, Engine
from worldline.engines.validation import check_answer
from worldline.episode import Arrays, History
from worldline.schema import Kind, Schema, Signal

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
    return np.asarray(signal.wrapped(middle))


def point_of(signal: Signal, samples: NDArray[np.generic]) -> NDArray[np.generic]:
    """The mean over samples in the signal's dtype; the most frequent label if discrete."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    if signal.kind is Kind.DISCRETE:
        return np.asarray(np.eye(signal.size)[samples].sum(1).argmax(-1))
    mean = mean_of(signal, samples)
    return np.asarray(np.rint(mean) if signal.kind is Kind.IMAGE else mean).astype(signal.dtype)


def residuals(engine: Engine, windows: ForecastWindows, *, seed: int) -> dict[str, NDArray[np.floating]]:
    """Observed minus predicted per signal of `windows.truth`, as in `differences`."""
    card = engine.describe()
    belief = engine.observe(None, windows.history, seed=seed)
    samples = engine.imagine(belief, windows.future(), num_samples=num_samples(card), seed=seed).signals
    check_answer(samples, card.name, axis=3)
    predicted = {name: samples[name][:, 0] for name in windows.truth}
    return differences(card.schema, predicted, windows.truth, windows.known)


def differences(
    schema: Schema, predicted: Arrays, truth: Arrays, known: Mapping[str, NDArray[np.bool_]]
) -> dict[str, NDArray[np.floating]]:
    """Observed minus predicted per signal of `truth`; 0 where missing.

    Vector: difference from the mean of the samples [W, T, *shape], the shorter way round if periodic. Image: the mean
    absolute difference over the pixels [W, T, 1]. Discrete: the share of wrong samples [W, T, 1].

    Args:
        schema: of the signals.
        predicted: per signal the samples [W, S, T, *shape].
        truth: per signal [W, T, *shape].
        known: per signal [W, T], whether the value was observed.
    """
    signal_errors: dict[str, NDArray[np.floating]] = {}
    for name, value in truth.items():
        signal, mask = schema[name], known[name]
        value = np.where(mask.reshape(mask.shape + (1,) * (value.ndim - 2)), value, 0)
        if signal.kind is Kind.DISCRETE:
            error = (predicted[name] != value[:, None]).mean(1)[..., None]
        else:
            error = signal.difference(value.astype(np.float64), mean_of(signal, predicted[name]))
        if signal.kind is Kind.IMAGE:
            error = np.abs(error).mean((2, 3, 4))[..., None]
        signal_errors[name] = np.where(mask[..., None], error, 0.0)
    return signal_errors


def step_differences(
    card: Card, history: History, predicted: Arrays
) -> tuple[dict[str, NDArray[np.floating]], dict[str, NDArray[np.bool_]]]:
    """The absolute errors [W, L, ...] of one-step predictions, and whether each outcome was observed [W, L].

    Args:
        card: of the engine.
        history: W worlds, with L steps or more. Predicted signals that it lacks have error 0 and were not observed.
        predicted: per predicted signal the samples [W, L, S, *shape] of the observation after each of the last L steps.
    """
    shape = (history.num_worlds, next(iter(predicted.values())).shape[1])
    after = history.last(shape[1], axis=1)
    logged = [name for name in card.predicts if name in after.observations]
    known = dict.fromkeys(card.predicts, np.zeros(shape, bool))
    known |= {name: after.mask(name) for name in logged}
    samples = {name: np.moveaxis(predicted[name], 2, 1) for name in logged}
    signal_errors = differences(card.schema, samples, {name: after.observations[name] for name in logged}, known)
    nothing = dict.fromkeys(card.predicts, np.zeros((*shape, 1)))
    return nothing | {name: np.abs(value) for name, value in signal_errors.items()}, known
