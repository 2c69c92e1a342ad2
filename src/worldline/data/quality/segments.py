"""Segments: parts of episodes as numeric tables, and how they are sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

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
        table: [T+1, d], the observations without images. Missing values repeat the last known one.
        columns: [d], the signal of each column of `table`.
        pictures: per camera [T+1, rows, columns, channels], shrunk images.
        known: per signal and camera [T+1], whether it was observed.
        actions: [T, m].
        inputs: [T, e], the exogenous signals and the duration of the step [s].
        start: step of the episode at which it begins.
    """

    number: int
    table: Floats
    columns: tuple[str, ...]
    pictures: Mapping[str, Floats]
    known: Mapping[str, Booleans]
    actions: Floats
    inputs: Floats
    start: int = 0

    @property
    def whole(self) -> Booleans:
        """Whether every signal was observed, [T+1]."""
        return np.asarray(np.all([np.ones(len(self.table), np.bool_), *self.known.values()], axis=0))

    def with_columns(self, chosen: Sequence[int] | NDArray[np.integer]) -> Segment:
        """The segment with some of the columns of its table."""
        return replace(self, table=self.table[:, chosen], columns=tuple(self.columns[at] for at in chosen))

    def between(self, first: int, stop: int) -> Segment:
        """The steps from `first` to before `stop`, without images."""
        return replace(
            self,
            table=self.table[first : stop + 1],
            pictures={},
            known={name: mask[first : stop + 1] for name, mask in self.known.items()},
            actions=self.actions[first:stop],
            inputs=self.inputs[first:stop],
            start=self.start + first,
        )


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
    every = np.ones(episode.num_steps + 1, np.bool_)
    known = {s.name: np.asarray(episode.observed.get(s.name, every)[rows], np.bool_) for s in schema.observations}
    # The duration of a step is an input, because a longer step changes more.
    usual = np.full(episode.num_steps, schema.step_s or 1.0, np.float32)
    times = (usual if episode.step_s is None else episode.step_s)[steps, None].astype(np.float64)
    cameras = [signal.name for signal in schema.observations if signal.kind is Kind.IMAGE]
    return Segment(
        number=number,
        table=_table(episode, schema, Role.OBSERVATION, rows, known),
        columns=tuple(s.name for s, columns in columns_of(schema, Role.OBSERVATION).items() for _ in columns),
        pictures={name: shrink(episode.observations[name][rows]) for name in cameras},
        known=known,
        actions=_table(episode, schema, Role.ACTION, steps, {}),
        inputs=np.concatenate([_table(episode, schema, Role.EXOGENOUS, steps, {}), times], 1),
        start=start,
    )


def _table(episode: Episode, schema: Schema, role: Role, rows: slice, known: Mapping[str, Booleans]) -> Floats:
    """The columns of all signals without images; a missing row repeats the last known one."""
    parts = [np.empty((rows.stop - rows.start, 0))]
    for signal, columns in columns_of(schema, role).items():
        values = arrays_of(episode, role)[signal.name][rows]
        if signal.num_values is not None:
            check_one_hot(signal, len(values))
            values = values[:, None] == np.arange(len(columns))
        values = filled(values, known[signal.name]) if signal.name in known else values
        parts.append(values.reshape(len(values), -1).astype(np.float64))
    return np.concatenate(parts, 1)


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
    known = {name: mask for name, mask in segment.known.items() if name not in names}
    pictures = {name: images for name, images in segment.pictures.items() if name not in names}
    kept = [at for at, name in enumerate(segment.columns) if name not in names]
    return replace(segment.with_columns(kept), known=known, pictures=pictures)


def shrink(pictures: NDArray[np.generic]) -> Floats:
    """Means of about 16 by 16 blocks of images [n, h, w, c], as [n, rows, columns, c] float32; edges are cropped."""
    num, height, width, channels = pictures.shape
    down, across = max(1, height // GRID), max(1, width // GRID)
    cut = pictures[:, : height // down * down, : width // across * across]
    blocks = cut.reshape(num, height // down, down, width // across, across * channels)
    lines = blocks.sum(2, dtype=np.float32)  # rows first: faster than both axes at once
    return np.asarray(lines.reshape(*lines.shape[:3], across, channels).sum(3) / (down * across))


def columns_of(schema: Schema, role: Role) -> dict[Signal, range]:
    """The columns of each signal in the tables of a segment; images have none."""
    signals = [signal for signal in schema.of(role) if signal.kind is not Kind.IMAGE]
    sizes = [signal.size if signal.num_values is None else max(1, signal.size - 1) for signal in signals]
    edges = np.cumsum([0, *sizes]).tolist()
    return {signal: range(*ends) for signal, ends in zip(signals, pairwise(edges), strict=True)}


def component_names(schema: Schema, role: Role) -> tuple[str, ...]:
    """A name for each column of the tables of a segment."""
    return tuple(name for signal in columns_of(schema, role) for name in names_of(signal))


def names_of(signal: Signal) -> list[str]:
    """A name for each column of a signal: its components, or `signal=value` for each value of a discrete signal.

    The last value of a discrete signal has no column, because it follows from the others.
    """
    parts = signal.components or tuple(map(str, range(signal.size)))
    if signal.num_values is not None:
        return [f"{signal.name}={value}" for value in parts[: max(1, signal.size - 1)]]
    return [signal.name] if signal.size == 1 else [f"{signal.name}.{part}" for part in parts]
