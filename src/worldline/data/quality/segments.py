"""Segments: parts of episodes as numeric tables, how they are sampled, and ridge regressions on held-out episodes."""

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

Floats = NDArray[np.floating]
Booleans = NDArray[np.bool_]

MAX_STEPS: Final = 15_000
"""Steps that are sampled; more would only narrow the intervals."""
MAX_PICTURES: Final = 9_000
SEGMENT: Final = 400
"""Largest number of steps of a segment, unless the episodes are so few that longer ones are sampled."""
GRID: Final = 16
"""Rows and columns that images are shrunk to, approximately."""

NUM_FOLDS: Final = 5


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
        pictures = any(signal.kind is Kind.IMAGE for signal in store.schema.observations)
        most = MAX_PICTURES if pictures else MAX_STEPS
        self._length = length = max(SEGMENT, most // max(1, len(store)))
        taken = np.minimum(steps, length)
        enough = np.cumsum(taken) - taken < most
        starts = draw.integers(0, np.maximum(steps - length, 0) + 1)
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
    # Missing rows repeat the last known one; `known` says which are missing.
    known: dict[str, Booleans] = {}
    states: dict[str, Floats] = {}
    pictures: dict[str, Floats] = {}
    for signal in schema.observations:
        name, rows = signal.name, slice(start, stop + 1)
        mask = episode.observed.get(name)
        known[name] = np.ones(stop + 1 - start, np.bool_) if mask is None else mask[rows].astype(np.bool_)
        if signal.kind is Kind.IMAGE:
            pictures[name] = shrink(episode.observations[name][rows])
        else:
            table = _columns(episode.observations[name][rows], signal)
            states[name] = np.asarray(filled(table, known[name]), np.float64)
    # The duration of a step is an input, because a longer step changes more.
    usual = np.full(episode.num_steps, schema.step_s or 1.0, np.float32)
    times = (usual if episode.step_s is None else episode.step_s)[start:stop, None].astype(np.float64)
    return Segment(
        number=number,
        states=states,
        pictures=pictures,
        known=known,
        actions=_table(episode, schema, Role.ACTION, slice(start, stop)),
        inputs=np.concatenate([_table(episode, schema, Role.EXOGENOUS, slice(start, stop)), times], 1),
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
    kept: list[dict[str, NDArray[Any]]] = [
        {name: values for name, values in arrays.items() if name not in names}
        for arrays in (segment.states, segment.pictures, segment.known)
    ]
    return replace(segment, states=kept[0], pictures=kept[1], known=kept[2])


def shrink(pictures: NDArray[np.generic]) -> Floats:
    """Means of about 16 by 16 blocks of images [n, h, w, c], as [n, rows, columns, c] float32; edges are cropped."""
    num, height, width, channels = pictures.shape
    down, across = max(1, height // GRID), max(1, width // GRID)
    cut = pictures[:, : height // down * down, : width // across * across]
    blocks = cut.reshape(num, height // down, down, width // across, across * channels)
    lines = blocks.sum(2, dtype=np.float32)
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


class HeldOut:
    """Cross-validated ridge regressions on any columns of a table; each residual is from a fit without its row.

    Args:
        inputs: [n, P]; scaled here.
        targets: [n, q].
        fold: [n] which of `NUM_FOLDS` parts each row belongs to; a row is predicted from the other parts.
    """

    def __init__(self, inputs: Floats, targets: Floats, fold: NDArray[np.integer]) -> None:
        deviation = inputs.std(0)
        scaled = (inputs - inputs.mean(0)) / np.where(deviation > 0, deviation, 1.0)
        self._inputs = np.concatenate([scaled, np.ones((len(inputs), 1))], 1)
        self._targets, self._rows = targets, [np.flatnonzero(fold == part) for part in range(NUM_FOLDS)]
        self._squares = np.stack([self._inputs[rows].T @ self._inputs[rows] for rows in self._rows])
        self._products = np.stack([self._inputs[rows].T @ targets[rows] for rows in self._rows])

    def residual(self, columns: NDArray[np.integer], targets: NDArray[np.integer], ridge: float) -> Floats:
        """The residuals of a regression of these targets on these columns, [n, targets].

        Args:
            columns: numbers of the inputs; a constant is added.
            targets: numbers of the targets.
            ridge: penalty per row, for inputs with standard deviation 1.
        """
        columns = np.append(columns, self._inputs.shape[1] - 1)
        left = self._targets[:, targets].copy()
        squares, products = self._squares.sum(0), self._products.sum(0)
        for part, rows in enumerate(self._rows):
            matrix = (squares - self._squares[part])[np.ix_(columns, columns)]
            matrix[np.diag_indices(len(columns))] += ridge * (len(left) - len(rows)) + 1e-9
            weights = np.linalg.solve(matrix, (products - self._products[part])[np.ix_(columns, targets)])
            left[rows] -= self._inputs[np.ix_(rows, columns)] @ weights
        return left


def folds(group: NDArray[np.integer], draw: np.random.Generator) -> NDArray[np.integer]:
    """A random fold for each row; rows of one group share it."""
    return np.asarray(draw.permutation(int(group.max()) + 1)[group] % NUM_FOLDS)


def waves(table: Floats, num: int, draw: np.random.Generator) -> Floats:
    """Random Fourier features [n, num] of the rows of `table` [n, d], for nonlinear ridge regression.

    Source: Rahimi and Recht 2007, "Random features for large-scale kernel machines", section 3.
    """
    if not table.shape[1]:
        return np.empty((len(table), 0))
    lengths = np.sqrt(table.shape[1]) * draw.choice([0.5, 1.0, 2.0], num)
    turns = table @ (draw.normal(size=(table.shape[1], num)) / lengths)
    return np.asarray(np.sqrt(2) * np.cos(turns + draw.uniform(0, 2 * np.pi, num)))


def scaled(table: Floats) -> Floats:
    """The z-scores of the columns of `table` that vary."""
    if not len(table):
        return table[:, :0]
    deviation = table.std(0)
    live = deviation > 1e-9 * np.abs(table).max(0, initial=0)
    return np.asarray((table[:, live] - table[:, live].mean(0)) / deviation[live])


def clipped(table: Floats) -> Floats:
    """`table` with outliers clipped, which would dominate a regression."""
    if not len(table):
        return table
    low, high = np.quantile(table, (0.005, 0.995), axis=0)
    span = np.where(high > low, high - low, np.inf)
    return np.asarray(np.clip(table, low - span, high + span))
