"""Changes of logged arrays: hidden, corrupted, misshapen and spliced values, and errors against the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.episode import Arrays, Episode
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


def hide(batch: Any, hidden: Any, values: str) -> Any:
    """A `History` of arrays or a `Window` of tensors, with some observations marked as missing.

    Args:
        batch: B entries, H observations.
        hidden: [B, H], True where all signals are missing.
        values: the hidden values: "kept" true ones, "other" wrong ones, "nan" NaN for continuous signals; or "zero":
            they are 0, and not marked as missing.
    """
    observations = {}
    for name, value in batch.observations.items():
        where: Any = np.where if isinstance(value, np.ndarray) else torch.where
        place = hidden.reshape(hidden.shape + (1,) * (value.ndim - 2))
        observations[name] = where(place, _filled(value, values), value)
    observed = {name: mask & (~hidden | (values == "zero")) for name, mask in batch.observed.items()}
    return replace(batch, observations=observations, observed=observed)


def _filled(value: Any, content: str) -> Any:
    """Values in place of hidden ones, of the same kind; wrong ones are also wrong if the array is constant."""
    if content == "kept":
        return value
    if content == "zero":
        return 0 * value
    if "float" in str(value.dtype):
        return value * np.nan if content == "nan" else -value - 1
    return 255 - value if "uint8" in str(value.dtype) else value[list(range(len(value)))[::-1]]
