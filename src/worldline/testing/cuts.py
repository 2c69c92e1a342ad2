"""Batches cut from logged episodes: a history, the following inputs, and the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import InputError
from worldline.schema import Signal


@dataclass(frozen=True, kw_only=True)
class Cut:
    """W windows of the logs.

    Args:
        history: W worlds, H observations.
        actions: per signal [W, T, *shape], the logged actions after the history.
        exogenous: per signal [W, T, *shape].
        truth: per observation signal [W, T, *shape], the ground truth.
        known: per observation signal [W, T], whether `truth` was observed.
    """

    history: History
    actions: Arrays
    exogenous: Arrays
    truth: Arrays
    known: Arrays

    @property
    def num_worlds(self) -> int:
        """W."""
        return len(next(iter(self.truth.values())))

    @property
    def horizon(self) -> int:
        """T."""
        return int(next(iter(self.truth.values())).shape[1])

    def future(self, num_versions: int, seed: int) -> Future:
        """N candidates: the logged actions first, then steps drawn from all actions of the cut."""
        rng = np.random.default_rng(seed)
        shape = (self.num_worlds, num_versions - 1, self.horizon)
        worlds, steps = (rng.integers(0, high, shape) for high in (self.num_worlds, self.horizon))
        actions = {
            name: np.concatenate([value[:, None], value[worlds, steps]], axis=1) for name, value in self.actions.items()
        }
        return Future(actions=actions, exogenous=self.exogenous)

    def select(self, worlds: Sequence[int]) -> Cut:
        """The windows with the indices `worlds`, in this order."""
        index = np.asarray(worlds)

        def pick(arrays: Arrays) -> Arrays:
            return {name: value[index] for name, value in arrays.items()}

        return Cut(
            history=map_history(self.history, pick),
            actions=pick(self.actions),
            exogenous=pick(self.exogenous),
            truth=pick(self.truth),
            known=pick(self.known),
        )


def cut(episodes: Sequence[Episode], at: Sequence[int], *, length: int, horizon: int) -> Cut:
    """One window of each episode.

    Args:
        episodes: W episodes with the same signals.
        at: per episode the index of the present, in [length - 1, T - horizon].
        length: H, observations in the history.
        horizon: T, steps after the present.
    """
    pairs = [(_with_masks(episode), now) for episode, now in zip(episodes, at, strict=True)]
    histories = [episode.history(now, length) for episode, now in pairs]

    def ahead(arrays: Callable[[Episode], Arrays], first: int) -> Arrays:
        steps = [(arrays(episode), now + first) for episode, now in pairs]
        return stack([{name: value[at : at + horizon] for name, value in item.items()} for item, at in steps])

    return Cut(
        history=History(
            observations=stack([history.observations for history in histories]),
            actions=stack([history.actions for history in histories]),
            exogenous=stack([history.exogenous for history in histories]),
            observed=stack([history.observed for history in histories]),
        ),
        actions=ahead(lambda episode: episode.actions, 0),
        exogenous=ahead(lambda episode: episode.exogenous, 0),
        truth=ahead(lambda episode: episode.observations, 1),
        known=ahead(lambda episode: episode.observed, 1),
    )


def places(episodes: Sequence[Episode], *, length: int, horizon: int, seed: int, margin: int = 0) -> list[int]:
    """A random index of the present for each episode, for `cut`.

    Args:
        episodes: as in `cut`.
        length: H.
        horizon: T.
        seed: of the places.
        margin: unused steps before the history and after the future.

    Raises:
        InputError: an episode is too short, or there are fewer than two.
    """
    need = length - 1 + horizon + 2 * margin
    short = [number for number, episode in enumerate(episodes) if episode.num_steps < need]
    if short or len(episodes) < 2:
        raise InputError(
            f"got {len(episodes)} episodes, of which {short} have fewer than the {need} steps that the check needs "
            f"({length} observations, {horizon} steps ahead). Give at least two, and longer ones."
        )
    rng = np.random.default_rng(seed)
    first = length - 1 + margin
    return [int(rng.integers(first, episode.num_steps - horizon - margin + 1)) for episode in episodes]


def random_cut(episodes: Sequence[Episode], *, length: int, horizon: int, seed: int) -> Cut:
    """One window of each episode at a random place; see `places`."""
    return cut(episodes, places(episodes, length=length, horizon=horizon, seed=seed), length=length, horizon=horizon)


def splice(first: Future, second: Future, step: int) -> Future:
    """`first` before `step`, `second` from `step` on."""

    def join(early: Arrays, late: Arrays, axis: int) -> Arrays:
        before, after = (slice(None),) * axis + (slice(step),), (slice(None),) * axis + (slice(step, None),)
        return {name: np.concatenate([early[name][before], late[name][after]], axis) for name in early}

    return Future(actions=join(first.actions, second.actions, 2), exogenous=join(first.exogenous, second.exogenous, 1))


def pick_versions(future: Future, index: Sequence[int]) -> Future:
    """The candidates with the indices `index`, in this order."""
    return replace(future, actions={name: value[:, list(index)] for name, value in future.actions.items()})


ROUNDS: Final = 4
"""Windows of each episode on which alignment and horizon are measured."""


def alignment_errors(
    answer: Callable[[Cut, Arrays], Arrays], episodes: Sequence[Episode], *, length: int, horizon: int, seed: int
) -> dict[int, NDArray[np.floating]]:
    """Errors of predictions under logged actions that are shifted by -1, 0 and 1 steps.

    Args:
        answer: takes a cut and actions [W, T, *shape], returns predicted signals [W, T, *shape].
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
        piece = cut(episodes, at, length=length, horizon=horizon)
        for shift, found in errors.items():
            moved = cut(episodes, [now + shift for now in at], length=length, horizon=horizon).actions
            each = [squared_error(piece, name, value) for name, value in answer(piece, moved).items()]
            found.append(np.mean(each, axis=0))
    return {shift: np.concatenate(found) for shift, found in errors.items()}


def squared_error(piece: Cut, name: str, value: NDArray[np.generic]) -> NDArray[np.floating]:
    """The mean squared error [W] of predictions [W, T, *shape] over known steps, in variances of the signal."""
    truth, known = piece.truth[name].astype(np.float64), piece.known[name].astype(bool)
    scale = np.nanvar(truth[known], axis=0) + 1e-12
    error = np.square(value.astype(np.float64) - truth) / scale
    per_step = error.reshape(*known.shape, -1).mean(-1)
    found: NDArray[np.floating] = np.where(known, per_step, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    return found


def stack(items: Sequence[Arrays]) -> Arrays:
    """Named arrays with a new leading axis."""
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def map_history(history: History, function: Callable[[Arrays], Arrays]) -> History:
    """`history` with `function` applied to each of its four groups of arrays."""
    return History(
        observations=function(history.observations),
        actions=function(history.actions),
        exogenous=function(history.exogenous),
        observed=function(history.observed),
    )


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
        values: the hidden values: "kept" true ones, "other" wrong ones, "nan" NaN for continuous signals.
    """
    observations, observed = {}, {}
    for name, value in history.observations.items():
        wrong = disturb(value)
        if values == "nan" and np.issubdtype(value.dtype, np.floating):
            wrong = np.full_like(value, np.nan)
        place = hidden.reshape(hidden.shape + (1,) * (value.ndim - 2))
        observations[name] = value if values == "kept" else np.where(place, wrong, value)
        observed[name] = history.observed[name].astype(bool) & ~hidden
    return replace(history, observations=observations, observed=observed)


def observed_of(episode: Episode, name: str) -> NDArray[np.bool_]:
    """Whether an observation signal was observed [T + 1]."""
    return episode.observed.get(name, np.ones(episode.num_steps + 1, bool)).astype(bool)


def _with_masks(episode: Episode) -> Episode:
    """`episode` with a mask for every observation signal."""
    everything = {name: np.ones(len(value), bool) for name, value in episode.observations.items()}
    return replace(episode, observed={**everything, **episode.observed})
