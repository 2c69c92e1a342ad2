"""Windows: fixed-length slices of episodes, read in batches or sampled at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, check_lengths
from worldline.data.store import Store
from worldline.episode import Arrays
from worldline.errors import DataError, InputError
from worldline.schema import Role, Signal


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """B windows of H observations, one every `stride` steps, and the T = (H-1) * stride inputs between them.

    Args:
        observations: per signal [B, H, *shape], physical units, in the dtype of the store.
        observed: per observation signal [B, H] bool; False for missing values, which must be ignored.
        actions: per signal [B, T, *shape]; with a stride of 1, input i leads from observation i to i+1.
        exogenous: per signal [B, T, *shape].
        rewards: per signal [B, T, *shape], of each step.
        terminated: [B, T] bool, whether the step led to a terminal state.
        step_s: [B, T] float32, duration of each step in seconds; 1 if unknown.
        starts: [B, 2] int64: episode, and step of the first observation.
    """

    observations: Arrays
    observed: Arrays
    actions: Arrays
    exogenous: Arrays
    rewards: Arrays
    terminated: NDArray[np.bool_]
    step_s: NDArray[np.float32]
    starts: NDArray[np.int64]


class Windows:
    """All windows of H observations in some episodes of a store. A window never crosses the end of its episode.

    Args:
        store: to read from.
        num_observations: H, at least 1.
        episodes: numbers of the episodes; those too short for a window are listed in `left_out`.
        signals: names of the signals to read.
        stride: steps from one observation to the next, at least 1. All inputs between them are read.

    Raises:
        InputError: H or the stride is not positive, or an episode does not exist.
        UnknownNameError: a signal does not exist.
        DataError: no episode is long enough.
    """

    def __init__(
        self,
        store: Store,
        num_observations: int,
        episodes: Sequence[int],
        signals: Sequence[str],
        stride: int = 1,
    ) -> None:
        for name, number in (("num_observations", num_observations), ("stride", stride)):
            if number < 1:
                raise InputError(f"{name} is {number}. It must be at least 1.")
        self._episodes = np.array(episodes, np.int64)
        bad = self._episodes[(self._episodes < 0) | (self._episodes >= len(store))]
        if len(bad):
            raise InputError(f"there is no episode {bad[0]}. The store has {len(store)}, counted from 0.")
        self.store, self.num_observations, self.stride = store, num_observations, stride
        self.num_inputs = (num_observations - 1) * stride
        self._signals = [store.schema[name] for name in signals]
        self._num_steps, self._terminated = store.num_steps, store.terminated
        num_starts = np.maximum(self._num_steps[self._episodes] + 1 - self.num_inputs, 0)
        self._ends = np.cumsum(num_starts)  # of each episode's starts, in the list of all starts
        self._begins = self._ends - num_starts
        if len(self) == 0:
            problem = f"none of the {len(episodes)} episodes holds a window of {self.num_inputs + 1} observations"
            raise DataError(problem, fix="Log longer episodes, or use shorter windows.", file=store.path)

    def __len__(self) -> int:
        """The number of different windows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def left_out(self) -> tuple[Finding, ...]:
        """A warning for each episode that is too short for a window."""
        chosen = set(self._episodes.tolist())
        return tuple(f for f in check_lengths(self._num_steps, self.num_inputs + 1) if f.episode in chosen)

    def all_starts(self) -> NDArray[np.int64]:
        """The start of every window, [len, 2]: episode, and step of the first observation."""
        return self._starts(np.arange(len(self)))

    def sample(
        self, batch_size: int, generator: np.random.Generator, *, into: WindowBatch | None = None
    ) -> WindowBatch:
        """`batch_size` windows, drawn uniformly from all, with replacement.

        Args:
            batch_size: B, at least 1.
            generator: of the draw.
            into: as in `read`.
        """
        return self.read(self.draw(batch_size, generator), into=into)

    def draw(self, batch_size: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """The starts of the windows that `sample` would read, [B, 2]: episode, and step of the first observation."""
        return self._starts(generator.integers(len(self), size=batch_size))

    def read(self, starts: NDArray[np.int64], *, into: WindowBatch | None = None) -> WindowBatch:
        """The windows that begin at `starts`.

        Args:
            starts: [B, 2]: episode, and step of the first observation.
            into: a batch of the same size whose arrays are reused, which avoids allocating memory for large images.
                Default is to allocate new arrays.

        Raises:
            InputError: a window does not lie within its episode.
        """
        steps = self._num_steps
        exists = (starts >= 0).all(1) & (starts[:, 0] < len(steps))
        inside = exists & (starts[:, 1] + self.num_inputs <= steps[np.where(exists, starts[:, 0], 0)])
        if not inside.all():
            episode, step = starts[~inside][0].tolist()
            length = self.num_inputs + 1
            raise InputError(f"no window of {length} observations begins at step {step} of episode {episode}.")
        batch: dict[Role, dict[str, NDArray[np.generic]]] = {role: {} for role in Role}
        for signal in self._signals:
            batch[signal.role][signal.name] = self._read_signal(signal, starts, into)
        return WindowBatch(
            observations=batch[Role.OBSERVATION],
            observed={name: self._read_mask(name, starts) for name in batch[Role.OBSERVATION]},
            actions=batch[Role.ACTION],
            exogenous=batch[Role.EXOGENOUS],
            rewards=batch[Role.REWARD],
            terminated=self._read_terminated(starts),
            step_s=self._read_step_s(starts),
            starts=starts,
        )

    def _starts(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Starts [B, 2] of windows numbered from 0 to len - 1."""
        which = np.searchsorted(self._ends, numbers, side="right")
        return np.stack([self._episodes[which], numbers - self._begins[which]], 1)

    def _read_signal(self, signal: Signal, places: NDArray[np.int64], into: WindowBatch | None) -> NDArray[np.generic]:
        is_observation = signal.role is Role.OBSERVATION
        rows, stride = (self.num_observations, self.stride) if is_observation else (self.num_inputs, 1)
        if into is not None and is_observation and len(into.starts) == len(places):
            values = into.observations[signal.name]
        else:
            values = np.empty((len(places), rows, *signal.shape), signal.dtype)
        self.store.read_into(signal.name, places, values, stride)
        return values

    def _read_mask(self, name: str, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask = np.ones((len(places), self.num_observations), np.bool_)
        if self.store.has_missing():
            for row, (episode, start) in zip(mask, places.tolist(), strict=True):
                self.store.observed_into(name, episode, start, row, self.stride)
        return mask

    def _read_terminated(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Only the last step of an episode can lead to a terminal state."""
        found = np.zeros((len(places), self.num_inputs), np.bool_)
        if self.num_inputs:
            ends = places[:, 1] + self.num_inputs == self._num_steps[places[:, 0]]
            found[:, -1] = ends & self._terminated[places[:, 0]]
        return found

    def _read_step_s(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        step_s = np.full((len(places), self.num_inputs), self.store.schema.step_s or 1.0, np.float32)
        if self.store.has_step_s():
            for row, (episode, start) in zip(step_s, places.tolist(), strict=True):
                self.store.step_s_into(episode, start, row)
        return step_s
