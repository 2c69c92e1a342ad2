"""Windows: fixed-length slices of episodes.

`Windows` reads batches of consecutive observations from a store, for training. `forecast_windows` splits episodes in
memory at the present: a history, the inputs after it, and the ground truth. Calibration, out-of-distribution score,
audit and conformance checks use it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, grouped, warning
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import DataError, InputError
from worldline.schema import Role, Schema, Signal

if TYPE_CHECKING:
    from worldline.data.store import Store

Places = Sequence[tuple[Episode, int]]
"""Pairs of an episode and the index of its last known observation, the present."""


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
    """All windows of H observations in some episodes of a store, or the share of one of several processes.

    A window never crosses the end of its episode.

    Args:
        store: to read from.
        num_observations: H, at least 1.
        episodes: numbers of the episodes; those too short for a window are listed in `left_out`.
        signals: names of the signals to read.
        stride: steps from one observation to the next, at least 1. All inputs between them are read.
        shard: rank and number N of processes. The process gets every Nth window, from number `rank` on. Shards are
            disjoint, contain all windows together, and differ in length by at most one.

    Raises:
        InputError: H or the stride is not positive, an episode does not exist, or the rank is not in [0, N).
        UnknownNameError: a signal does not exist.
        DataError: no episode is long enough, or there are fewer windows than processes.
    """

    def __init__(
        self,
        store: Store,
        num_observations: int,
        episodes: Sequence[int],
        signals: Sequence[str],
        stride: int = 1,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        for name, number in (("num_observations", num_observations), ("stride", stride)):
            if number < 1:
                raise InputError(f"{name} is {number}. It must be at least 1.")
        if not 0 <= shard[0] < shard[1]:
            raise InputError(f"shard is {shard}. Expected (rank, number of processes), with the rank below the number.")
        self._shard = shard
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
        if 0 < self._num_windows < shard[1]:
            problem = f"there are {self._num_windows} windows for {shard[1]} processes"
            raise DataError(problem, fix="Use fewer processes, or shorter windows.", file=store.path)
        if self._num_windows == 0:
            problem = f"none of the {len(episodes)} episodes holds a window of {self.num_inputs + 1} observations"
            raise DataError(problem, fix="Log longer episodes, or use shorter windows.", file=store.path)

    def __len__(self) -> int:
        """The number of different windows."""
        return len(range(self._shard[0], self._num_windows, self._shard[1]))

    @property
    def _num_windows(self) -> int:
        """The number of windows of all shards."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def left_out(self) -> tuple[Finding, ...]:
        """A warning for each episode that is too short for a window."""
        return tuple(
            warning(
                problem=f"the episode has {steps + 1} observations, fewer than a window of {self.num_inputs + 1}",
                fix=f"Log longer episodes, or use windows of at most {steps + 1} observations.",
                episode=number,
            )
            for number in sorted(set(self._episodes.tolist()))
            if (steps := int(self._num_steps[number])) < self.num_inputs
        )

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
        arrays = grouped(self._signals, lambda signal: self._read_signal(signal, starts, into))
        return WindowBatch(
            **arrays,
            observed={name: self._read_mask(name, starts) for name in arrays["observations"]},
            terminated=self._read_terminated(starts),
            step_s=self._read_step_s(starts),
            starts=starts,
        )

    def _starts(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Starts [B, 2] of windows numbered from 0 to len - 1."""
        numbers = self._shard[0] + self._shard[1] * numbers
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
        terminated = np.zeros((len(places), self.num_inputs), np.bool_)
        if self.num_inputs:
            ends = places[:, 1] + self.num_inputs == self._num_steps[places[:, 0]]
            terminated[:, -1] = ends & self._terminated[places[:, 0]]
        return terminated

    def _read_step_s(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        step_s = np.full((len(places), self.num_inputs), self.store.schema.step_s or 1.0, np.float32)
        if self.store.has_step_s():
            for row, (episode, start) in zip(step_s, places.tolist(), strict=True):
                self.store.step_s_into(episode, start, row)
        return step_s


@dataclass(frozen=True, kw_only=True)
class ForecastWindows:
    """W windows of H observations up to the present, and T steps after it.

    Args:
        history: arrays [W, H, *shape], with a mask for every observation signal.
        actions: per signal [W, T, *shape], the logged actions after the present.
        exogenous: per signal [W, T, *shape].
        truth: per target signal [W, T, *shape], the ground truth.
        known: per target signal [W, T] bool; False where `truth` was not observed.
        episode: [W] number of the episode of each window, from 0 in the order of the windows.
    """

    history: History
    actions: Arrays
    exogenous: Arrays
    truth: Arrays
    known: Mapping[str, NDArray[np.bool_]]
    episode: NDArray[np.int64]

    @property
    def num_worlds(self) -> int:
        """W. Engines and worlds take each window as one world."""
        return len(self.episode)

    @property
    def horizon(self) -> int:
        """T."""
        return int(next(iter({**self.truth, **self.actions, **self.exogenous}.values())).shape[1])

    def future(self, num_candidates: int = 1, seed: int = 0) -> Future:
        """The inputs after the present, with N candidates: the logged actions, then steps drawn from all of them.

        Args:
            num_candidates: N, at least 1.
            seed: of the drawn steps.
        """
        actions = {name: value[:, None] for name, value in self.actions.items()}
        if num_candidates > 1:
            rng, shape = np.random.default_rng(seed), (self.num_worlds, num_candidates - 1, self.horizon)
            worlds, steps = (rng.integers(0, high, shape) for high in (self.num_worlds, self.horizon))
            others = {name: value[worlds, steps] for name, value in self.actions.items()}
            actions = {name: np.concatenate([value, others[name]], 1) for name, value in actions.items()}
        return Future(actions=actions, exogenous=self.exogenous)

    def select(self, index: slice | Sequence[int] | NDArray[np.generic]) -> ForecastWindows:
        """The windows with these indices, in this order."""
        groups: dict[str, Any] = {
            group: {name: value[index] for name, value in getattr(self, group).items()}
            for group in ("actions", "exogenous", "truth", "known")
        }
        return replace(self, history=self.history.worlds(index), episode=self.episode[index], **groups)


def forecast_windows(
    places: Places, *, length: int, horizon: int, schema: Schema | None = None, targets: Collection[str] | None = None
) -> ForecastWindows:
    """The windows around places in episodes with the same signals.

    Args:
        places: W places, each present in [length - 1, T - horizon] of its episode.
        length: H, at least 1.
        horizon: number of steps after the present, at least 1.
        schema: only its signals are read, in its order; None for all.
        targets: observation signals with ground truth; None for all. Name few to save memory.
    """
    episodes = {id(episode): episode for episode, _ in places}
    wholes = [episode.history() for episode in episodes.values()]
    if schema is not None:
        names = [signal.name for signal in schema.signals]
        wholes = [whole.select(names) for whole in wholes]
    wanted = wholes if targets is None else [w.select([*targets, *w.actions, *w.exogenous]) for w in wholes]
    numbers = {key: number for number, key in enumerate(episodes)}
    index = [(numbers[id(episode)], at) for episode, at in places]
    past = History.stack([wholes[number].window(at - length + 1, at + 1) for number, at in index])
    future = History.stack([wanted[number].window(at, at + horizon + 1) for number, at in index])
    return ForecastWindows(
        history=replace(past, observed=_masks(past)),
        actions=future.actions,
        exogenous=future.exogenous,
        truth={name: value[:, 1:] for name, value in future.observations.items()},
        known={name: mask[:, 1:] for name, mask in _masks(future).items()},
        episode=np.array([number for number, _ in index]),
    )


def joined_windows(parts: Sequence[ForecastWindows]) -> ForecastWindows:
    """Windows of different episodes as one, with the episodes renumbered.

    Args:
        parts: at least one, each of one episode, with the same signals and sizes.
    """

    def join(owners: Sequence[object], group: str) -> dict[str, NDArray[Any]]:
        arrays = [getattr(owner, group) for owner in owners]
        return {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}

    pasts, groups = [part.history for part in parts], ("actions", "exogenous", "truth", "known")
    return ForecastWindows(
        history=History(**{group: join(pasts, group) for group in vars(pasts[0])}),
        **{group: join(parts, group) for group in groups},
        episode=np.repeat(np.arange(len(parts)), [part.num_worlds for part in parts]),
    )


def _masks(history: History) -> dict[str, NDArray[np.bool_]]:
    """A mask [W, H] for every observation signal."""
    return {name: history.mask(name) for name in history.observations}


def evenly_spaced_windows(
    episodes: Sequence[Episode], *, length: int, horizon: int, per_episode: int
) -> ForecastWindows:
    """Windows spread evenly over each episode that is long enough.

    Args:
        episodes: complete episodes with the same signals.
        length: H, at least 1.
        horizon: T, at least 1.
        per_episode: number of windows, at least 1; fewer in short episodes.

    Raises:
        InputError: fewer than two episodes are long enough, or a count is below 1.
    """
    if min(length, horizon, per_episode) < 1:
        raise InputError(f"length, horizon and per_episode must be at least 1, got {length}, {horizon}, {per_episode}.")
    long = [episode for episode in episodes if episode.num_steps >= length - 1 + horizon]
    if len(long) < 2:
        raise InputError(
            f"expected at least two episodes of {length + horizon} observations, got {len(long)} of {len(episodes)}. "
            "Give longer episodes, or shorten length or horizon."
        )
    spaced = ((episode, evenly_spaced(episode.num_steps, length, horizon, per_episode)) for episode in long)
    places = [(episode, at) for episode, presents in spaced for at in presents]
    return forecast_windows(places, length=length, horizon=horizon)


def evenly_spaced(num_steps: int, length: int, horizon: int, count: int) -> list[int]:
    """Up to `count` indices of the present, each with `length` observations up to it and `horizon` steps after it.

    Args:
        num_steps: steps of the episode, at least `length - 1 + horizon`.
        length: H, at least 1.
        horizon: T, at least 1.
        count: at least 1.
    """
    return sorted(set(np.linspace(length - 1, num_steps - horizon, count).round().astype(int).tolist()))


def random_places(
    episodes: Sequence[Episode], *, length: int, horizon: int, count: int, rng: np.random.Generator
) -> list[tuple[Episode, int]]:
    """`count` random places in each episode, drawn independently, one episode after the other.

    Args:
        episodes: each with at least `length - 1 + horizon` steps.
        length: H, at least 1.
        horizon: T, at least 1.
        count: at least 1.
        rng: of the draws.
    """
    ends = [(episode, episode.num_steps - horizon + 1) for episode in episodes]
    return [(episode, int(at)) for episode, end in ends for at in rng.integers(length - 1, end, count)]
