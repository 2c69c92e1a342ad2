"""Segments: parts of episodes as numeric tables, and how they are sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.array_size import check_one_hot
from worldline.data.checks import arrays_of
from worldline.data.formats.reading import filled
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal
from worldline.stats import Floats

Booleans = NDArray[np.bool_]

MAX_STEPS: Final = 15_000
"""Steps that are sampled; more would only narrow the intervals."""
MAX_PICTURES: Final = 9_000
SEGMENT: Final = 400
"""Largest number of steps of a segment, unless the episodes are so few that longer ones are sampled."""
GRID: Final = 16
"""Rows and columns that images are shrunk to, approximately."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A contiguous part of one episode as numeric tables.

    Args:
        number: of the episode.
        states: per signal [T+1, d], the observations without images.
        pictures: per camera [T+1, rows, columns, channels], shrunk images.
        known: per signal and camera [T+1], whether it was observed.
        actions: [T, m].
        inputs: [T, e], the exogenous signals and the duration of the step [s].
        start: step of the episode at which it begins.
    """

    number: int
    states: Mapping[str, Floats]
    pictures: Mapping[str, Floats]
    known: Mapping[str, Booleans]
    actions: Floats
    inputs: Floats
    start: int = 0

    @property
    def table(self) -> Floats:
        """All states, concatenated, [T+1, d]."""
        return np.concatenate([np.empty((len(self.actions) + 1, 0)), *self.states.values()], 1)

    @property
    def whole(self) -> Booleans:
        """Whether every signal was observed, [T+1]."""
        return np.asarray(np.all([np.ones(len(self.actions) + 1, np.bool_), *self.known.values()], axis=0))


class Sample:
    """A random sample of segments of a store; `add` collects them in `tracks`.

    Args:
        store: to sample from.
        seed: of the sample.
    """

    def __init__(self, store: Store, seed: int) -> None:
        self.schema, self.tracks = store.schema, list[Segment]()
        draw = np.random.default_rng(seed)
        shuffled = draw.permutation(len(store))
        steps = store.num_steps[shuffled]
        has_pictures = any(signal.kind is Kind.IMAGE for signal in store.schema.observations)
        limit = MAX_PICTURES if has_pictures else MAX_STEPS
        self._length = max(SEGMENT, limit // max(1, len(store)))
        taken = np.minimum(steps, self._length)
        enough = np.cumsum(taken) - taken < limit
        starts = draw.integers(0, np.maximum(steps - self._length, 0) + 1)
        self._starts = dict(zip(shuffled[enough].tolist(), starts[enough].tolist(), strict=True))

    @property
    def episodes(self) -> tuple[int, ...]:
        """The numbers of the sampled episodes, ascending."""
        return tuple(sorted(self._starts))

    def add(self, number: int, episode: Episode) -> None:
        """Keeps a segment of an episode if the episode is in the sample."""
        if number in self._starts:
            self.tracks.append(track(number, episode, self.schema, self._starts[number], self._length))


def track(number: int, episode: Episode, schema: Schema, start: int = 0, length: int = SEGMENT) -> Segment:
    """A segment of at most `length` steps of an episode; discrete signals are one-hot without their last value.

    Args:
        number: of the episode.
        episode: that fits the schema.
        schema: of its signals.
        start: first step.
        length: largest number of steps.
    """
    stop = min(start + length, episode.num_steps)
    rows, steps = slice(start, stop + 1), slice(start, stop)
    # Missing rows repeat the last known one; `known` says which are missing.
    every = np.ones(episode.num_steps + 1, np.bool_)
    known = {s.name: np.asarray(episode.observed.get(s.name, every)[rows], np.bool_) for s in schema.observations}
    values = {s: episode.observations[s.name][rows] for s in schema.observations}
    tables = {
        s.name: filled(_columns(part, s), known[s.name]) for s, part in values.items() if s.kind is not Kind.IMAGE
    }
    # The duration of a step is an input, because a longer step changes more.
    usual = np.full(episode.num_steps, schema.step_s or 1.0, np.float32)
    times = (usual if episode.step_s is None else episode.step_s)[steps, None].astype(np.float64)
    return Segment(
        number=number,
        states={name: np.asarray(table, np.float64) for name, table in tables.items()},
        pictures={s.name: shrink(part) for s, part in values.items() if s.kind is Kind.IMAGE},
        known=known,
        actions=_table(episode, schema, Role.ACTION, steps),
        inputs=np.concatenate([_table(episode, schema, Role.EXOGENOUS, steps), times], 1),
        start=start,
    )


def seldom_seen(tracks: Sequence[Segment]) -> tuple[str, ...]:
    """The observation signals to drop, so that all others are observed together in at least half of the steps.

    Args:
        tracks: segments of one schema.
    """
    left = list(tracks[0].known) if tracks else []
    masks = {name: np.concatenate([segment.known[name] for segment in tracks]) for name in left}
    left.sort(key=lambda name: float(masks[name].mean()))
    dropped = []
    while len(left) > 1 and np.all([masks[name] for name in left], axis=0).mean() < 0.5:
        dropped.append(left.pop(0))
    return tuple(dropped)


def without(segment: Segment, names: Sequence[str]) -> Segment:
    """The segment without some of its observation signals."""
    groups: dict[str, Any] = {
        group: {name: values for name, values in getattr(segment, group).items() if name not in names}
        for group in ("states", "pictures", "known")
    }
    return replace(segment, **groups)


def shrink(pictures: NDArray[np.generic]) -> Floats:
    """Means of about 16 by 16 blocks of images [n, h, w, c], as [n, rows, columns, c] float32; edges are cropped."""
    num, height, width, channels = pictures.shape
    down, across = max(1, height // GRID), max(1, width // GRID)
    cut = pictures[:, : height // down * down, : width // across * across]
    blocks = cut.reshape(num, height // down, down, width // across, across * channels)
    lines = blocks.sum(2, dtype=np.float32)  # rows first: twice as fast as both axes at once
    return np.asarray(lines.reshape(*lines.shape[:3], across, channels).sum(3) / (down * across))


def component_names(schema: Schema, role: Role) -> tuple[str, ...]:
    """A name for each column of the tables of a segment."""
    return tuple(name for signal in schema.of(role) if signal.kind is not Kind.IMAGE for name in names_of(signal))


def names_of(signal: Signal) -> list[str]:
    """A name for each column of a signal: its components, or `signal=value` for each value of a discrete signal."""
    if signal.num_values is not None:
        values = signal.components or tuple(map(str, range(signal.size)))
        return [f"{signal.name}={value}" for value in values[: _num_columns(signal)]]
    if signal.size == 1:
        return [signal.name]
    return [f"{signal.name}.{part}" for part in (signal.components or tuple(map(str, range(signal.size))))]


def _num_columns(signal: Signal) -> int:
    """Columns of a discrete signal: one-hot without the last value, which follows from the others."""
    return max(1, signal.size - 1)


def _table(episode: Episode, schema: Schema, role: Role, steps: slice) -> Floats:
    arrays = arrays_of(episode, role)
    parts = [_columns(arrays[s.name][steps], s) for s in schema.of(role) if s.kind is not Kind.IMAGE]
    return np.concatenate([np.empty((steps.stop - steps.start, 0)), *parts], 1)


def _columns(values: NDArray[np.generic], signal: Signal) -> Floats:
    if signal.num_values is None:
        return values.reshape(len(values), -1).astype(np.float64)
    check_one_hot(signal, len(values))
    return np.asarray(values[:, None] == np.arange(_num_columns(signal)), np.float64)
