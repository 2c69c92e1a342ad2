"""Figures of each signal in each episode, collected one by one, with memory for a few numbers per episode."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import arrays_of
from worldline.data.quality.false_alarms import part_of
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal
from worldline.stats import Floats

MAX_SAMPLED: Final = 200
"""Episodes of which rows are kept to compare signals with each other."""
ROWS_PER_EPISODE: Final = 60
MAX_GRID: Final = 32
"""Images are sampled on a grid of at most this many rows and columns."""
MAX_BLACK_LEVEL: Final = 3
"""Largest value of a black image, of 255."""

FIGURES: Final = np.dtype(
    [(name, np.float64) for name in ("low", "high", "changes", "run_value")]
    + [(name, np.int64) for name in ("low_at", "high_at", "num_rows", "run", "next_run", "run_from", "run_to")]
)
"""Figures of a component in an episode, without missing rows; `num_rows` is 0 if it was never observed.

Its extremes and their steps; the share of steps in which it changes; the length of its longest constant run and of the
next one, and the value, first and last step of the longest one.
"""


class LogColumn(NamedTuple):
    """One component of a signal that is no image."""

    signal: Signal
    component: int

    @property
    def is_sensor(self) -> bool:
        """Whether it is a component of a vector observation."""
        return self.signal.kind is Kind.VECTOR and self.signal.role is Role.OBSERVATION

    @property
    def subject(self) -> str:
        """The subject of a sentence about it."""
        return part_of(self.signal, self.component)

    def __str__(self) -> str:
        return f"'{self.signal.name}'" if self.subject == "it" else f"{self.subject} of '{self.signal.name}'"


class CameraFigures(NamedTuple):
    """One camera in one episode: the steps with images of one colour, whether the image changes, number of images."""

    blank: NDArray[np.intp]
    moves: bool
    num: int


class LogFigures:
    """The figures of a log of E episodes with C columns.

    Args:
        schema: of the episodes.
        num_episodes: of the log.
        seed: of the sample of at most 200 episodes whose rows are kept to compare signals.
    """

    def __init__(self, schema: Schema, num_episodes: int, seed: int = 0) -> None:
        self.schema = schema
        self._signals = [s for role in Role for s in schema.of(role) if s.kind is not Kind.IMAGE]
        self.columns = [LogColumn(signal, at) for signal in self._signals for at in range(prod(signal.shape))]
        self._draw = np.random.default_rng([seed, 5])
        self._sampled = frozenset(self._draw.permutation(num_episodes)[:MAX_SAMPLED].tolist())
        self.episodes, self.num_steps = list[int](), list[int]()
        self.cameras: dict[str, list[CameraFigures]] = defaultdict(list)
        self.num_missing = Counter[str]()
        self.digests = list[bytes]()
        self._figures, self._rows, self._before = list[NDArray[np.void]](), list[Floats](), list[Floats]()

    def add(self, number: int, episode: Episode) -> None:
        """Collects the figures of an episode.

        Args:
            number: of the episode in the log, from 0.
            episode: that fits the schema.
        """
        self.episodes.append(number)
        self.num_steps.append(episode.num_steps)
        self.num_missing.update({name: int(np.sum(mask == 0)) for name, mask in episode.observed.items()})
        # Images are sampled on a coarse grid: black and frozen ones show there, too.
        digest = hashlib.blake2b(digest_size=16)
        for signal in self.schema.signals:
            values = arrays_of(episode, signal.role)[signal.name]
            if signal.kind is Kind.IMAGE:
                values = values[:, :: -(-signal.shape[0] // MAX_GRID), :: -(-signal.shape[1] // MAX_GRID)]
                self.cameras[signal.name].append(_look(values))
            digest.update(values.tobytes())
        self.digests.append(digest.digest())
        arrays = [arrays_of(episode, signal.role)[signal.name] for signal in self._signals]
        tables = [values.reshape(len(values), -1).astype(np.float64) for values in arrays]
        both = zip(self._signals, tables, strict=True)
        pairs = [(table, episode.observed.get(signal.name, np.ones(len(table), bool))) for signal, table in both]
        self._figures.append(np.concatenate([np.zeros(0, FIGURES), *(_measure(*pair) for pair in pairs)]))
        if number in self._sampled and episode.num_steps > 1:
            at = np.sort(self._draw.permutation(np.arange(1, episode.num_steps))[:ROWS_PER_EPISODE])
            for rows, steps in ((self._rows, at), (self._before, at - 1)):
                parts = [np.where(mask[steps, None], table[steps], np.nan) for table, mask in pairs]
                rows.append(np.concatenate([np.empty((len(at), 0)), *parts], 1))

    @property
    def table(self) -> NDArray[np.void]:
        """[C, E] of `FIGURES`."""
        return np.stack(self._figures, 1)

    @property
    def rows(self) -> Floats:
        """[rows, C] values in the sampled episodes, NaN if missing."""
        return np.concatenate([np.empty((0, len(self.columns))), *self._rows])

    @property
    def rows_before(self) -> Floats:
        """[rows, C] values one step before `rows`."""
        return np.concatenate([np.empty((0, len(self.columns))), *self._before])


def _measure(table: Floats, mask: NDArray[Any]) -> NDArray[np.void]:
    """The figures of one signal [rows, C]."""
    figures, steps = np.zeros(table.shape[1], FIGURES), np.flatnonzero(mask)
    if not len(steps):
        return figures
    # Length of the constant run that ends at each step; 0 where the value changes.
    seen = table[steps]
    same = seen[1:] == seen[:-1]
    at = np.arange(len(same))[:, None]
    runs = np.where(same, at - np.maximum.accumulate(np.where(same, -1, at), axis=0), 0)
    # The longest run, and the longest one apart from it, which shows what is usual.
    end = runs.argmax(0) if len(runs) else np.zeros(table.shape[1], np.intp)
    run = runs.max(0, initial=0)
    first = np.where(run > 0, end + 1 - run, 0)
    next_run = np.where(np.abs(at - end) <= run, 0, runs).max(0, initial=0)
    figures["low"], figures["low_at"] = seen.min(0), steps[seen.argmin(0)]
    figures["high"], figures["high_at"] = seen.max(0), steps[seen.argmax(0)]
    figures["changes"], figures["num_rows"] = 1 - same.mean(0) if len(same) else 0, len(seen)
    figures["run"], figures["next_run"] = run + 1, next_run + 1
    figures["run_from"], figures["run_to"] = steps[first], steps[first + run]
    figures["run_value"] = seen[first, np.arange(table.shape[1])]
    return figures


def _look(pictures: NDArray[Any]) -> CameraFigures:
    flat = pictures.reshape(len(pictures), -1)
    high, low = flat.max(1), flat.min(1)
    blank = np.flatnonzero((high <= MAX_BLACK_LEVEL) | (high == low))
    return CameraFigures(blank, bool((flat[1:] != flat[:-1]).any()), len(flat))
