"""Changes of logged arrays: hidden, corrupted, misshapen and spliced values, and errors against the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.episode import Arrays, Episode, History
from worldline.schema import Signal
from worldline.testing.comparing import Floats, as_float


def observed_values(episodes: Sequence[Episode], name: str) -> Floats:
    """All observed values of an observation signal [n, *shape]."""
    return np.concatenate([as_float(episode.observations[name])[episode.mask(name)] for episode in episodes])


def squared_error(windows: ForecastWindows, name: str, value: NDArray[np.generic]) -> Floats:
    """The mean squared error [W] of predictions [W, T, *shape] over known steps, in variances of the signal."""
    truth, known = as_float(windows.truth[name]), windows.known[name]
    scale = np.nanvar(truth[known], axis=0) + 1e-12
    per_step = (np.square(as_float(value) - truth) / scale).reshape(*known.shape, -1).mean(-1)
    return np.asarray(np.where(known, per_step, 0.0).sum(1) / np.maximum(known.sum(1), 1))


def without(arrays: Arrays, name: str) -> Arrays:
    """The arrays except the one with this name."""
    return {other: value for other, value in arrays.items() if other != name}


def wider(values: Any, signal: Signal) -> NDArray[np.generic]:
    """`values` with one extra component in the last axis, or an extra axis for scalars."""
    values = np.asarray(values)
    return np.concatenate([values, values[..., :1]], -1) if signal.shape else values[..., None]


def corrupt(arrays: Arrays, seed: int) -> Arrays:
    """Observations out of distribution: vectors shifted by 10 standard deviations, noise images, discrete unchanged."""
    rng = np.random.default_rng(seed)
    wild = {}
    for name, value in arrays.items():
        wild[name] = value.copy()
        if np.issubdtype(value.dtype, np.floating):
            shift = 10 * (float(np.nanstd(as_float(value))) + 1e-6) * rng.choice([-1.0, 1.0], value.shape)
            wild[name] = (as_float(value) + shift).astype(value.dtype)
        elif value.dtype == np.uint8:
            wild[name] = rng.integers(0, 256, value.shape, dtype=np.uint8)
    return wild


def jump(episode: Episode, at: Sequence[int], names: tuple[str, ...], seed: int) -> Episode:
    """The episode with corrupted observations of these signals at the indices `at`."""
    observations = dict(episode.observations)
    for name, value in corrupt({name: episode.observations[name] for name in names}, seed).items():
        observations[name] = observations[name].copy()
        observations[name][list(at)] = value[list(at)]
    return replace(episode, observations=observations)


def some_hidden(num_worlds: int, length: int) -> NDArray[np.bool_]:
    """[W, H]: hides one observation of every other world, at different places; the first hides its last."""
    hidden = np.zeros((num_worlds, length), bool)
    even = np.arange(0, num_worlds, 2)
    hidden[even, (even + length - 1) % length] = True
    return hidden


def hide(history: History, hidden: NDArray[np.bool_], values: str) -> History:
    """`history` with some observations marked as missing.

    Args:
        history: W worlds, H observations.
        hidden: [W, H], True where all signals are missing.
        values: the hidden values: "kept" true ones, "other" wrong ones, "nan" NaN for continuous signals; or "zero":
            they are 0, and not marked as missing.
    """
    observations, observed = {}, {}
    for name, value in history.observations.items():
        wrong = _other(value)
        if values == "nan" and np.issubdtype(value.dtype, np.floating):
            wrong = np.full_like(value, np.nan)
        elif values in ("kept", "zero"):
            wrong = value if values == "kept" else np.zeros_like(value)
        place = hidden.reshape(hidden.shape + (1,) * (value.ndim - 2))
        observations[name] = np.where(place, wrong, value)
        observed[name] = history.observed[name].astype(bool) & (~hidden | (values == "zero"))
    return replace(history, observations=observations, observed=observed)


def _other(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Other values of the same kind and range: each is one from elsewhere in the array.

    Continuous values also get an offset, so that a constant array changes too.
    """
    if values.dtype == np.uint8:
        return (255 - values.astype(np.int64)).astype(np.uint8)
    other = np.roll(values.reshape(-1), max(1, values.size // 2)).reshape(values.shape)
    if np.issubdtype(values.dtype, np.floating):
        return np.add(other, np.nanstd(as_float(values)) + 1.0).astype(values.dtype)
    return other
