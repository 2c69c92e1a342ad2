"""The first pass over tables: their episodes, and what the values of each column tell about its meaning."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data import influence
from worldline.data.base import ReadOptions
from worldline.data.formats.reading import readable
from worldline.data.formats.tables.columns import Column, ColumnTable, as_numbers
from worldline.data.formats.tables.timestamps import Times, read_times, time_names
from worldline.data.infer import Summary, summarise
from worldline.data.roles import Behaviour, behaviour_of
from worldline.errors import DataError

EPISODE_NAMES: tuple[str, ...] = (
    *("episode", "episode_id", "episode_index", "episode_idx", "episode_number", "ep", "run", "run_id"),
    *("trial", "trial_id", "trajectory", "trajectory_id", "traj", "demo", "batch", "batch_id"),
    *("session", "session_id"),
)
USUAL_GAPS = 10
"""Without a column of episodes, a gap of more usual steps than this ends an episode."""
MANY_EPISODES = 1000
"""A table with more episodes than this is refused if most of them have a single row."""
MIN_ROWS = 10
"""A column with fewer values is not left out as constant."""
MIN_COUNT = 20
"""A column with fewer values is not left out as a counter."""
BLOCK_ROWS = 500
"""Rows of the blocks from which influences between columns follow."""
MAX_SAMPLED_ROWS = 200_000
"""Rows of a column from which its behaviour follows."""
_MOSTLY_NUMBERS = 0.9
_BUSY = 0.8

ReadTable = Callable[[Path], ColumnTable]


@dataclass(frozen=True, kw_only=True)
class EpisodeRows:
    """The rows of one episode in a table.

    Args:
        table: the table.
        number: of the episode in the table, from 0.
        rows: row numbers of the table, in order.
        label: value of the column of episodes; empty without such a column; None if the cell is missing.
        times: [rows] seconds; None without times.
        piece: its number among the pieces of a recording that was cut, from 0; None if it is whole.
    """

    table: ColumnTable
    number: int
    rows: NDArray[np.intp]
    label: str | None
    times: NDArray[np.float64] | None = None
    piece: int | None = None


def open_table(
    file: Path, reading: ReadOptions, read: ReadTable
) -> tuple[ColumnTable, Times | None, list[EpisodeRows]]:
    """Reads a table, its times and its episodes.

    The column of episodes separates them, else gaps in time do. An explicit gap also splits the episodes of a column.

    Raises:
        DataError: it cannot be read, lacks a column that the user named, or has too many episodes of a single row.
    """
    table = read(file)
    times, name = read_times(table, reading.time), episode_name(table.columns, reading.episode)
    if name is not None and name not in table.columns:
        problem = f"the table has no column of episodes {name!r}; its columns are {', '.join(table.columns)}"
        raise DataError(problem, fix="Name one of them.", file=file)
    codes, labels = _labels(table.columns[name]) if name is not None else (np.zeros(table.num_rows, np.intp), [""])
    order = np.argsort(codes, kind="stable")
    is_first = np.diff(codes[order], prepend=-1) != 0
    if times is not None and (name is None or reading.gap_s is not None):
        steps = np.diff(times.seconds[order], prepend=np.nan)
        forward = steps[(steps > 0) & ~is_first]
        usual = float(np.median(forward)) if len(forward) else np.inf
        is_first |= steps > (USUAL_GAPS * usual if reading.gap_s is None else reading.gap_s)
    starts = np.flatnonzero(is_first)
    num_single = int((np.diff(starts, append=len(order)) == 1).sum())
    if len(starts) > MANY_EPISODES and 2 * num_single > len(starts):
        problem = f"{num_single} of the {len(starts)} episodes have a single row, and an episode needs two"
        fix = "Name the column that separates episodes (--episode), or give a larger gap in time (--gap-s)."
        raise DataError(problem, fix=fix, file=file, signal=name)
    groups = np.split(order, starts[1:]) if len(starts) else [order]
    cut = ((rows, piece) for whole in groups for piece, rows in _cut(whole, reading.max_steps))
    pieces = [
        EpisodeRows(
            table=table,
            number=number,
            rows=rows,
            label=labels[codes[rows[0]]] if len(rows) else "",
            times=times.seconds[rows] if times is not None else None,
            piece=piece,
        )
        for number, (rows, piece) in enumerate(cut)
    ]
    return table, times, pieces


def episode_name(columns: Iterable[str], requested: str | None) -> str | None:
    """Returns the column of episodes: the requested one, or else one with a name in `EPISODE_NAMES`."""
    by_word = {name.lower(): name for name in columns}
    return requested or next((by_word[word] for word in EPISODE_NAMES if word in by_word), None)


def _labels(column: Column) -> tuple[NDArray[np.intp], list[str | None]]:
    """The number of each row's episode, in order of first appearance, and their labels; None for missing cells."""
    import pandas as pd

    codes = np.zeros(len(column.values), np.intp)
    codes[~column.missing], values = pd.factorize(column.values[~column.missing])
    codes[column.missing] = len(values)
    labels = [*map(str, values.tolist()), None]
    codes, order = pd.factorize(codes)
    return codes, [labels[number] for number in order.tolist()]


def _cut(rows: NDArray[np.intp], max_steps: int | None) -> list[tuple[int | None, NDArray[np.intp]]]:
    """Numbered pieces that share their end rows, so that no step is lost; a short recording stays whole."""
    if max_steps is None or len(rows) - 1 <= max_steps:
        return [(None, rows)]
    firsts = range(0, len(rows) - 1, max_steps)
    return [(number, rows[first : first + max_steps + 1]) for number, first in enumerate(firsts)]


@dataclass(kw_only=True)
class ColumnSummary:
    """Statistics of one column over all tables."""

    files: int = 0
    cells: int = 0
    numbers: int = 0
    texts: set[str] = field(default_factory=set)
    is_constant_text: bool = True
    units: dict[str, None] = field(default_factory=dict)
    summaries: list[Summary] = field(default_factory=list)
    samples: list[NDArray[np.float64]] = field(default_factory=list)
    content: bytes = b""

    @property
    def is_number(self) -> bool:
        """Whether nearly all cells are numbers."""
        return self.cells > 0 and self.numbers >= _MOSTLY_NUMBERS * self.cells

    @property
    def is_fact(self) -> bool:
        """Whether it holds texts that are constant within each episode."""
        return bool(self.texts) and self.is_constant_text and not self.is_number

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype that holds its numbers in all tables."""
        kinds = [summary.dtype for summary in self.summaries]
        return np.result_type(np.float64 if self.texts else kinds[0], *kinds)

    @cached_property
    def behaviour(self) -> Behaviour | None:
        """How it changes; None for lists and texts."""
        return behaviour_of([sample[~np.isnan(sample)] for sample in self.samples]) if self.samples else None

    @property
    def unit(self) -> str | None:
        """The first unit in its headers."""
        return next(iter(self.units), None)

    @property
    def is_busy(self) -> bool:
        """Whether it changes in most rows."""
        changes = self.behaviour
        return changes is not None and 0 < _BUSY * changes.num_steps <= changes.num_changes

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers, one per row: integers are counters or switches."""
        return bool(self.samples) and all(summary.dtype.kind == "f" for summary in self.summaries)

    @property
    def is_constant(self) -> bool:
        """Whether all its values are equal."""
        extremes = {value for summary in self.summaries for value in (*summary.low, *summary.high)}
        return self.is_number and self.cells >= MIN_ROWS and len(extremes) == 1

    @property
    def is_counter(self) -> bool:
        """Whether it holds whole numbers that grow by the same amount in nearly each row."""
        with np.errstate(over="ignore", invalid="ignore"):  # `check_episode` reports infinite values
            gaps = np.concatenate([np.diff(sample[~np.isnan(sample)]) for sample in self.samples] or [np.zeros(0)])
        usual = float(np.median(gaps)) if len(gaps) >= MIN_COUNT else 0.0
        return usual > 0 and usual % 1 == 0 and bool((gaps == usual).mean() > 0.95 and (gaps >= 0).all())

    def add_texts(self, column: Column, episodes: Sequence[NDArray[np.intp]]) -> None:
        """Adds a column of texts of a table."""
        known = column.values[~column.missing]
        numbers, bad = as_numbers(known, np.zeros(len(known), np.bool_))
        self.cells += len(known)
        self.numbers += int((~bad).sum())
        if not bad.all():
            self.summaries.append(summarise(numbers[~bad]))
        self.texts |= set(known.tolist())
        self.content += column.name.encode()  # texts are never compared with other columns
        cells = (column.values[rows] for rows in episodes)
        self.is_constant_text &= all(bool((texts == texts[:1]).all()) for texts in cells)

    def add_numbers(self, column: Column, episodes: Sequence[NDArray[np.intp]]) -> None:
        """Adds a column of numbers of a table."""
        known = column.values[~column.missing].astype(np.float64)
        digest = hashlib.blake2b(self.content)
        digest.update(known.data)
        digest.update(column.missing.data)
        self.content = digest.digest()
        self.cells += len(known)
        self.numbers += len(known)
        self.summaries.append(replace(summarise(known), dtype=column.values.dtype))
        self.is_constant_text = False
        num_rows = sum(map(len, self.samples))
        for rows in episodes if column.values.ndim == 1 else ():
            if num_rows >= MAX_SAMPLED_ROWS:
                break
            self.samples.append(np.where(column.missing[rows], np.nan, column.values[rows].astype(np.float64)))
            num_rows += len(rows)


@dataclass(kw_only=True)
class Survey:
    """What a first pass over all tables found.

    Args:
        labels: of the episodes of each file; a single None for an unreadable file.
        reserved: columns that are not inferred, each with what it gives, such as "the times".
        seen: statistics by column.
        more_times: further columns that look like times.
        num_tables: that could be read.
        steps: usual seconds between the rows of each table.
        assumptions: about times and episodes, in full sentences.
        blocks: rows from all parts of the tables, from which influences between columns follow.
    """

    labels: dict[Path, tuple[str | None, ...]]
    reserved: dict[str, str] = field(default_factory=dict)
    seen: dict[str, ColumnSummary] = field(default_factory=dict)
    more_times: set[str] = field(default_factory=set)
    num_tables: int = 0
    steps: list[float] = field(default_factory=list)
    assumptions: dict[str, None] = field(default_factory=dict)
    blocks: list[dict[str, NDArray[np.float64]]] = field(default_factory=list)

    @property
    def step_s(self) -> float | None:
        """Usual seconds between rows; None without times."""
        return float(f"{np.median(self.steps):.9g}") if self.steps else None  # removes rounding errors of the times

    def add(self, table: ColumnTable, times: Times | None, pieces: Sequence[EpisodeRows], reading: ReadOptions) -> None:
        """Adds one table with its times and episodes."""
        self.num_tables += 1
        by, episodes = episode_name(table.columns, reading.episode), [piece.rows for piece in pieces]
        self.labels[table.file] = tuple(piece.label for piece in pieces)
        self.reserved |= ({by: "the episodes"} if by else {}) | ({times.name: "the times"} if times else {})
        self.more_times.update(name for name in time_names(table.columns) if name not in self.reserved)
        self.assumptions |= dict.fromkeys(_assumptions(times, by, len(pieces), reading))
        for name, column in table.columns.items():
            seen = self.seen.setdefault(name, ColumnSummary())
            seen.files += 1
            seen.units |= {column.unit: None} if column.unit is not None else {}
            if column.is_text:
                seen.add_texts(column, episodes)
            elif column.is_number:
                seen.add_numbers(column, episodes)
        gaps = np.concatenate([np.diff(piece.times) for piece in pieces if piece.times is not None] or [np.zeros(0)])
        self.steps += [float(np.median(gaps[gaps > 0]))] if (gaps > 0).any() else []
        self._sample(table.columns, episodes)

    def _sample(self, columns: Mapping[str, Column], episodes: Sequence[NDArray[np.intp]]) -> None:
        """Keeps rows from all parts of a table."""
        wanted = influence.MAX_ROWS - sum(len(next(iter(block.values()))) for block in self.blocks)
        numbers = [c for name, c in columns.items() if c.is_number and c.values.ndim == 1 and name not in self.reserved]
        if wanted <= 0 or not numbers:
            return
        parts = [part for rows in episodes for part in np.array_split(rows, -(-len(rows) // BLOCK_ROWS))]
        for rows in parts[:: max(1, sum(map(len, parts)) // wanted)]:
            self.blocks.append({c.name: np.where(c.missing[rows], np.nan, c.values[rows]) for c in numbers})


def scan_tables(files: Sequence[Path], reading: ReadOptions, read: ReadTable) -> Survey:
    """Scans all tables; `TableLogs.read` reports the unreadable ones.

    Raises:
        DataError: no table can be read.
    """
    survey = Survey(labels=dict.fromkeys(files, (None,)))
    opened = readable(files, lambda file: open_table(file, reading, read), what="tables", file=files[0].parent)
    for _, (table, times, pieces) in opened:
        survey.add(table, times, pieces, reading)
    return survey


def _assumptions(times: Times | None, by: str | None, num_episodes: int, reading: ReadOptions) -> Iterator[str]:
    """Yields what was assumed about the times and episodes of a table."""
    if times is not None:
        yield times.assumption
    if by is not None and reading.episode is None:
        yield f"{by}: used as the column of episodes."
    elif by is None and num_episodes > 1:
        gap = "ten usual steps" if reading.gap_s is None else f"{reading.gap_s} s"
        yield f"Episodes end at gaps in time of more than {gap}."
