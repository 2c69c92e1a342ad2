"""Windows of logged episodes for the checks: random places, changes of them, and errors under shifted actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows, forecast_windows
from worldline.episode import Arrays, Episode, History
from worldline.schema import Signal
from worldline.testing.clauses import CaseError


def places(
    episodes: Sequence[Episode], *, length: int, horizon: int, seed: int, margin: int = 0
) -> list[tuple[Episode, int]]:
    """Each episode with a random index of the present, for `forecast_windows`.

    Args:
        episodes: W episodes with the same signals.
        length: H.
        horizon: T.
        seed: of the places.
        margin: unused steps before the history and after the future.

    Raises:
        CaseError: an episode is too short, or there are fewer than two.
    """
    need = length - 1 + horizon + 2 * margin
    short = [number for number, episode in enumerate(episodes) if episode.num_steps < need]
    if short or len(episodes) < 2:
        raise CaseError(
            f"got {len(episodes)} episodes, of which {short} have fewer than the {need} steps that the check needs "
            f"({length} observations, {horizon} steps ahead). Give at least two, and longer ones."
        )
    rng = np.random.default_rng(seed)
    first = length - 1 + margin
    return [(episode, int(rng.integers(first, episode.num_steps - horizon - margin + 1))) for episode in episodes]


def random_windows(episodes: Sequence[Episode], *, length: int, horizon: int, seed: int) -> ForecastWindows:
    """One window of each episode at a random place; see `places`."""
    at = places(episodes, length=length, horizon=horizon, seed=seed)
    return forecast_windows(at, length=length, horizon=horizon)


ROUNDS: Final = 4
"""Windows of each episode on which alignment and horizon are measured."""


def alignment_errors(
    answer: Callable[[ForecastWindows], Arrays], episodes: Sequence[Episode], *, length: int, horizon: int, seed: int
) -> dict[int, NDArray[np.floating]]:
    """Errors of predictions under logged actions that are shifted by -1, 0 and 1 steps.

    Args:
        answer: takes windows, returns predicted signals [W, T, *shape].
        episodes: W episodes.
        length: H.
        horizon: T.
        seed: of the places.

    Returns:
        Per shift the mean squared error [4 * W], in variances of each signal, over known values.
    """
    errors: dict[int, list[NDArray[np.floating]]] = {-1: [], 0: [], 1: []}
    for number in range(ROUNDS):
        at = places(episodes, length=length, horizon=horizon, seed=seed + number, margin=1)
        windows = forecast_windows(at, length=length, horizon=horizon)
        for shift, rounds in errors.items():
            later = [(episode, now + shift) for episode, now in at]
            moved = replace(windows, actions=forecast_windows(later, length=length, horizon=horizon).actions)
            per_signal = [squared_error(windows, name, value) for name, value in answer(moved).items()]
            rounds.append(np.mean(per_signal, axis=0))
    return {shift: np.concatenate(rounds) for shift, rounds in errors.items()}


def squared_error(windows: ForecastWindows, name: str, value: NDArray[np.generic]) -> NDArray[np.floating]:
    """The mean squared error [W] of predictions [W, T, *shape] over known steps, in variances of the signal."""
    truth, known = windows.truth[name].astype(np.float64), windows.known[name]
    scale = np.nanvar(truth[known], axis=0) + 1e-12
    error = np.square(value.astype(np.float64) - truth) / scale
    per_step = error.reshape(*known.shape, -1).mean(-1)
    mean: NDArray[np.floating] = np.where(known, per_step, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    return mean


def disturb(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Other values of the same kind and range: every value is replaced by one from elsewhere in the array.

    Continuous values also get an offset, so that a constant array changes too.
    """
    other = np.roll(values.reshape(-1), max(1, values.size // 2)).reshape(values.shape)
    if values.dtype == np.uint8:
        return (255 - values.astype(np.int64)).astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating):
        return np.add(other, np.nanstd(values.astype(np.float64)) + 1.0).astype(values.dtype)
    return other


def wider(values: NDArray[np.generic], signal: Signal) -> NDArray[np.generic]:
    """`values` with one extra component in the last axis, or an extra axis for scalars."""
    return np.concatenate([values, values[..., :1]], -1) if signal.shape else values[..., None]


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
        wrong = disturb(value)
        if values == "nan" and np.issubdtype(value.dtype, np.floating):
            wrong = np.full_like(value, np.nan)
        elif values == "zero":
            wrong = np.zeros_like(value)
        place = hidden.reshape(hidden.shape + (1,) * (value.ndim - 2))
        observations[name] = value if values == "kept" else np.where(place, wrong, value)
        observed[name] = history.observed[name].astype(bool) & (~hidden | (values == "zero"))
    return replace(history, observations=observations, observed=observed)
