"""Fixed-length slices of episodes, drawn fast and at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldline.contracts.episode import Arrays
from worldline.contracts.schema import Role, Signal
from worldline.data.checks import Finding, check_lengths
from worldline.data.store import Store
from worldline.errors import DataError, InputError


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """B windows of H observations and the H-1 inputs between them; input i takes observation i to i+1.

    Args:
        observations: per signal [B, H, *shape], physical units, in the dtype of the store.
        observed: per observation signal [B, H] bool; where False the value must not matter.
        actions: per signal [B, H-1, *shape].
        exogenous: per signal [B, H-1, *shape].
        starts: [B, 2] int64: episode, and step of the first observation.
    """

    observations: Arrays
    observed: Arrays
    actions: Arrays
    exogenous: Arrays
    starts: NDArray[np.int64]


class Windows:
    """All windows of H observations in some episodes of a store. A window never crosses the end of its episode.

    Args:
        store: to read from.
        num_observations: H, at least 1.
        episodes: their numbers; those too short for a window are left out, see `left_out`.
        signals: names of the observation, action and exogenous signals to read.

    Raises:
        InputError: H is not positive, an episode does not exist, or a signal is a reward.
        UnknownNameError: there is no such signal.
        DataError: no episode is long enough.
    """

    def __init__(self, store: Store, num_observations: int, episodes: Sequence[int], signals: Sequence[str]) -> None:
        if num_observations < 1:
            raise InputError(f"num_observations is {num_observations}. A window needs at least one observation.")
        bad = [number for number in episodes if not 0 <= number < len(store)]
        if bad:
            raise InputError(f"there is no episode {bad[0]}. The store has {len(store)}, counted from 0.")
        self.store, self.num_observations = store, num_observations
        self._signals = [store.schema[name] for name in signals]
        rewards = [signal.name for signal in self._signals if signal.role is Role.REWARD]
        if rewards:
            raise InputError(f"windows hold observations and inputs; {rewards[0]!r} is a reward. Leave it out.")
        self._episodes = np.array(episodes, np.int64)
        self._num_steps = store.num_steps
        self._masked = [frozenset(entry.masked) for entry in store.entries]
        num_starts = np.maximum(self._num_steps[self._episodes] + 2 - num_observations, 0)
        self._ends = np.cumsum(num_starts)  # of each episode's starts, in the list of all starts
        if len(self) == 0:
            problem = f"none of the {len(episodes)} episodes holds a window of {num_observations} observations"
            raise DataError(problem, fix="Log longer episodes, or learn from shorter windows.", file=store.path)

    def __len__(self) -> int:
        """The number of different windows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def left_out(self) -> tuple[Finding, ...]:
        """A finding for each of the episodes that is too short for a window."""
        chosen = set(self._episodes.tolist())
        return tuple(f for f in check_lengths(self._num_steps, self.num_observations) if f.episode in chosen)

    def all_starts(self) -> NDArray[np.int64]:
        """Where every window begins, [len, 2]: episode, and step of the first observation."""
        return self._starts(np.arange(len(self)))

    def sample(self, batch_size: int, generator: np.random.Generator) -> WindowBatch:
        """`batch_size` windows, drawn uniformly from all, with replacement.

        Args:
            batch_size: B, at least 1.
            generator: of the draw.
        """
        return self.read(self._starts(generator.integers(len(self), size=batch_size)))

    def read(self, starts: NDArray[np.int64]) -> WindowBatch:
        """The windows that begin at `starts`.

        Args:
            starts: [B, 2]: episode, and step of the first observation.

        Raises:
            InputError: a window does not lie within its episode.
        """
        length, steps = self.num_observations, self._num_steps
        exists = (starts >= 0).all(1) & (starts[:, 0] < len(steps))
        inside = exists & (starts[:, 1] + length <= steps[np.where(exists, starts[:, 0], 0)] + 1)
        if not inside.all():
            episode, step = starts[~inside][0].tolist()
            raise InputError(f"no window of {length} observations begins at step {step} of episode {episode}.")
        places = [(int(episode), int(start)) for episode, start in starts]
        batch: dict[Role, dict[str, NDArray[np.generic]]] = {role: {} for role in Role}
        for signal in self._signals:
            batch[signal.role][signal.name] = self._read_signal(signal, places)
        return WindowBatch(
            observations=batch[Role.OBSERVATION],
            observed={name: self._read_mask(name, places) for name in batch[Role.OBSERVATION]},
            actions=batch[Role.ACTION],
            exogenous=batch[Role.EXOGENOUS],
            starts=starts,
        )

    def _starts(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """[B, 2] starts of windows numbered from 0 to len - 1."""
        which = np.searchsorted(self._ends, numbers, side="right")
        before = np.concatenate([[0], self._ends])[which]
        return np.stack([self._episodes[which], numbers - before], 1)

    def _read_signal(self, signal: Signal, places: Sequence[tuple[int, int]]) -> NDArray[np.generic]:
        rows = self.num_observations - (signal.role is not Role.OBSERVATION)
        values = np.empty((len(places), rows, *signal.shape), signal.dtype)
        for out, (episode, start) in zip(values, places, strict=True):
            self.store.read_into(signal.name, episode, start, out)
        return values

    def _read_mask(self, name: str, places: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
        length = self.num_observations
        mask = np.ones((len(places), length), np.bool_)
        for row, (episode, start) in zip(mask, places, strict=True):
            if name in self._masked[episode]:
                row[:] = self.store.observed(name, episode, start, start + length)
        return mask
