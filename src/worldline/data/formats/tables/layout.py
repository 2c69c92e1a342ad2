"""Classification of table columns into signals, times, flags and metadata, and splitting of rows into episodes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.data import influence
from worldline.data.base import ReadOptions
from worldline.data.formats.reading import FLAGS, FOREIGN_ENDS
from worldline.data.formats.tables.columns import Column, ColumnTable, as_numbers
from worldline.data.formats.tables.timestamps import Times, refresh_period, repeats, time_names
from worldline.data.infer import NO_ACTION, SchemaDraft, Summary, infer_signal, is_rare, summarise
from worldline.data.role_names import ASSUMED_EXOGENOUS, RoleGuess, may_be_actuator
from worldline.data.roles import Behaviour, ColumnGuess, behaviour_of, guess_role
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

EPISODE_NAMES: tuple[str, ...] = (
    *("episode", "episode_id", "episode_index", "episode_idx", "episode_number", "ep", "run", "run_id"),
    *("trial", "trial_id", "trajectory", "trajectory_id", "traj", "demo", "batch", "batch_id"),
    *("session", "session_id"),
)
MAX_TEXTS = 32
"""A column with more different texts than this is not a discrete signal."""

MIN_ROWS = 10
"""A column with fewer values is not left out as constant."""
MIN_COUNT = 20
"""A column with fewer values is not left out as a counter."""
MIN_LEVELS = 6
"""A column with fewer different values is no slow sensor."""
BLOCK_ROWS = 500
"""Rows of the blocks from which influences between columns follow."""
MAX_SAMPLED_ROWS = 200_000
"""Rows of a column from which its behaviour follows."""
_MOSTLY_NUMBERS = 0.9
_BUSY = 0.8
USUAL_GAPS = 10
"""Without a column of episodes, a gap of more usual steps than this ends an episode."""


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """The meaning of the columns in all tables of a log.

    Args:
        schema: the signals; signals without a column are missing in every episode.
        codes: the texts of each discrete column, in the order of their codes.
        stale: columns of slow sensors, which repeat their values between two readings.
        facts: columns that are constant within each episode: texts, and in an export numbers too.
        known: columns that are part of a signal or used otherwise; the others are left out.
        unclear: assumptions, in full sentences.
        columns: what was inferred of each column; empty if the schema was given.
    """

    schema: Schema
    codes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    facts: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    unclear: tuple[str, ...] = ()
    columns: tuple[ColumnGuess, ...] = ()


def parts_of(signal: Signal, columns: Iterable[str]) -> tuple[str, ...]:
    """Returns the columns of a signal, in order; empty if one is missing.

    A signal with components takes the columns `signal.component`, `signal_component` or `component`. A signal without
    components takes the column of its name, or the columns `signal.0`, `signal_0` or `signal[0]` and so on.

    Args:
        signal: of a schema.
        columns: names of the existing columns.
    """
    known = set(columns)
    if signal.kind is Kind.IMAGE:
        return ()
    if signal.name in known and (len(signal.components) <= 1 or signal.kind is Kind.DISCRETE):
        return (signal.name,)
    if signal.kind is Kind.DISCRETE:
        return ()
    parts = signal.components or tuple(map(str, range(signal.shape[0])))
    forms = ["{0}.{1}", "{0}_{1}", "{1}" if signal.components else "{0}[{1}]"]
    named = [[name for f in forms if (name := f.format(signal.name, part)) in known] for part in parts]
    if parts and all(named):
        return tuple(names[0] for names in named)
    return (signal.name,) if signal.name in known else ()


def episode_name(columns: Iterable[str], requested: str | None) -> str | None:
    """Returns the column of episodes: the requested one, or else one with a name in `EPISODE_NAMES`."""
    if requested is not None:
        return requested
    by_word = {name.lower(): name for name in columns}
    return next((by_word[word] for word in EPISODE_NAMES if word in by_word), None)


@dataclass(kw_only=True)
class _ColumnSummary:
    """Statistics of one column over all tables."""

    files: int = 0
    cells: int = 0
    numbers: int = 0
    texts: set[str] = field(default_factory=set)
    is_fact: bool = True
    units: dict[str, None] = field(default_factory=dict)
    summaries: list[Summary] = field(default_factory=list)
    changes: list[NDArray[np.intp]] = field(default_factory=list)
    samples: list[NDArray[np.float64]] = field(default_factory=list)
    num_sampled: int = 0
    content: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    @property
    def is_number(self) -> bool:
        """Whether nearly all cells are numbers."""
        return self.cells > 0 and self.numbers >= _MOSTLY_NUMBERS * self.cells

    @property
    def dtype(self) -> np.dtype[np.generic]:
        kinds = [summary.dtype for summary in self.summaries]
        return np.result_type(np.float64 if self.numbers and self.texts else kinds[0], *kinds)

    @cached_property
    def behaviour(self) -> Behaviour | None:
        """How it changes; None for lists and texts."""
        return behaviour_of(self.samples) if self.samples else None

    @property
    def unit(self) -> str | None:
        return next(iter(self.units), None)

    @property
    def is_busy(self) -> bool:
        behaviour = self.behaviour
        return (
            behaviour is not None and behaviour.num_steps > 0 and behaviour.num_changes >= _BUSY * behaviour.num_steps
        )

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers, one per row: integers are counters or switches."""
        return bool(self.samples) and all(summary.dtype.kind == "f" for summary in self.summaries)

    @property
    def is_constant(self) -> bool:
        extremes = {value for summary in self.summaries for value in (*summary.low, *summary.high)}
        return self.is_number and self.cells >= MIN_ROWS and len(extremes) == 1

    @property
    def is_counter(self) -> bool:
        """Whether it holds whole numbers that grow by the same amount in nearly each row."""
        with np.errstate(over="ignore", invalid="ignore"):  # `check_episode` reports infinite values
            gaps = np.concatenate([np.diff(sample) for sample in self.samples] or [np.zeros(0)])
        usual = float(np.median(gaps)) if len(gaps) >= MIN_COUNT else 0.0
        return usual > 0 and usual % 1 == 0 and bool((gaps == usual).mean() > 0.95 and (gaps >= 0).all())


class Survey:
    """Collects statistics of all tables in one pass, and derives their layout."""

    def __init__(self) -> None:
        self.num_tables = 0
        self._reserved: dict[str, str] = {}
        self._seen: dict[str, _ColumnSummary] = {}
        self._more_times: dict[str, None] = {}
        self._draft = SchemaDraft(unclear=())
        self._blocks: list[dict[str, NDArray[np.float64]]] = []
        self._influences: dict[str, tuple[float, float]] = {}

    def reserve(self, names: Mapping[str, str]) -> None:
        """Excludes columns from inference; the user's schema may still use them.

        Args:
            names: of the columns, each with what it gives, such as "the times".
        """
        self._reserved |= names

    def add(
        self, columns: Mapping[str, Column], episodes: Sequence[NDArray[np.intp]], reserved: Mapping[str, str]
    ) -> None:
        """Adds one table.

        Args:
            columns: by name.
            episodes: row numbers of each episode.
            reserved: as `names` of `reserve`.
        """
        self.num_tables += 1
        self.reserve(reserved)
        self._more_times.update(dict.fromkeys(name for name in time_names(columns) if name not in self._reserved))
        for name, column in columns.items():
            seen = self._seen.setdefault(name, _ColumnSummary())
            seen.files += 1
            if column.unit is not None:
                seen.units[column.unit] = None
            if column.is_text:
                _look_at_texts(seen, column, episodes)
            elif column.is_number:
                _look_at_numbers(seen, column, episodes)
        self._sample(columns, episodes)

    def _sample(self, columns: Mapping[str, Column], episodes: Sequence[NDArray[np.intp]]) -> None:
        """Keeps rows from all parts of a table, from which influences between columns follow."""
        wanted = influence.MAX_ROWS - sum(len(next(iter(block.values()))) for block in self._blocks)
        numbers = [
            c for name, c in columns.items() if c.is_number and c.values.ndim == 1 and name not in self._reserved
        ]
        if wanted <= 0 or not numbers:
            return
        parts = [part for rows in episodes for part in np.array_split(rows, -(-len(rows) // BLOCK_ROWS))]
        every = max(1, sum(map(len, parts)) // wanted)
        for rows in parts[::every]:
            self._blocks.append({c.name: np.where(c.missing[rows], np.nan, c.values[rows]) for c in numbers})

    def layout(
        self, schema: Schema | None, step_s: float | None, cameras: Sequence[Signal] = (), *, exact: bool = False
    ) -> TableLayout:
        """Returns the layout of the tables.

        Args:
            schema: given by the user; None to infer it.
            step_s: seconds per step, for an inferred schema.
            cameras: image signals, for an inferred schema.
            exact: whether the schema is that of an export: all other columns are facts, and no repeats are missing.
        """
        self._draft = SchemaDraft(unclear=())
        is_given, unnamed = schema is not None, set[str]()
        if schema is None:
            unnamed = {*self._more_times, *(name for name in self._seen if name.lower() in FOREIGN_ENDS)}
            schema = self._inferred(step_s, cameras)
        used = {name: signal for signal in schema.signals for name in parts_of(signal, self._seen)}
        if is_given:
            self._compare_units(used)
        own = {*used, *self._reserved, *FLAGS, "seed", *unnamed}
        facts = {name for name, seen in self._seen.items() if name not in own and (exact or _is_fact(seen))}
        chosen = {name: signal for name, signal in used.items() if signal.kind is Kind.DISCRETE}
        texts = {name: tuple(sorted(self._seen[name].texts)) for name in chosen}
        codes = {name: signal.components or texts[name] for name, signal in chosen.items() if texts[name]}
        for name, known in codes.items():
            self._draft.note(f"{name}: its texts were encoded: {', '.join(f'{t} = {i}' for i, t in enumerate(known))}.")
        return TableLayout(
            schema=schema,
            codes=codes,
            stale=frozenset() if exact else self._stale(used),
            facts=frozenset(facts),
            known=frozenset(own | facts),
            unclear=tuple(self._draft.unclear),
            columns=tuple(self._draft.columns),
        )

    def _inferred(self, step_s: float | None, cameras: Sequence[Signal]) -> Schema:
        """Infers the schema from the columns."""
        self.reserve({camera.name: "a camera" for camera in cameras})
        for camera in cameras:
            self._draft.add_guess(camera, RoleGuess(role=Role.OBSERVATION, reason="it is a camera"))
        contents: dict[bytes, str] = {}
        self._influences = influence.influences(self._blocks)
        for name, seen in self._seen.items():
            if (reason := self._not_a_signal(name, seen)) is not None:
                self._draft.leave_out(name, reason, is_noted=name not in self._reserved and not _is_fact(seen))
            else:
                self._add_signal(name, seen, contents.setdefault(seen.content.digest(), name))
        schema, _ = self._draft.result(step_s)
        self._note_gaps(schema)
        return schema

    def _not_a_signal(self, name: str, seen: _ColumnSummary) -> str | None:
        """Returns why a column cannot be a signal; None if it can."""
        word = name.lower()
        if name in self._reserved:
            return f"it gives {self._reserved[name]}"
        if name in self._more_times:
            return "it looks like another column of times"
        if word in FOREIGN_ENDS:
            return "it looks like an end flag; log `terminated` and `truncated` instead"
        if word in (*FLAGS, "seed"):
            return "it gives the end or the seed of an episode"
        if not seen.cells:
            return "it has no values"
        if is_rare(seen.files, self.num_tables):
            return f"only {seen.files} of {self.num_tables} files have it"
        if seen.is_number or (not _is_fact(seen) and 1 < len(seen.texts) <= MAX_TEXTS):
            return None
        if _is_fact(seen):
            return "it is a fact about each episode"
        return f"it holds {len(seen.texts)} different texts, such as {min(seen.texts)!r}"

    def _guess(self, name: str, seen: _ColumnSummary, same: str) -> RoleGuess:
        """Guesses the role of a column; `same` is the first column with the same values."""
        guess = guess_role(name, seen.unit, self._behaviour(name, seen))
        if guess.role in (Role.REWARD, None):
            return guess
        if not seen.is_number and not (guess.role is Role.ACTION and guess.sure):
            texts = f"it holds {len(seen.texts)} different texts, such as {min(seen.texts)!r}"
            return RoleGuess(role=None, reason=f"{texts}; give it a role to use it as a discrete signal")
        if seen.is_constant:
            value = next(summary.low[0] for summary in seen.summaries if summary.low)
            return RoleGuess(role=None, reason=f"it never changes (always {value:g})")
        if guess.role is Role.ACTION:
            return guess
        if seen.is_counter:
            return RoleGuess(role=None, reason="it counts the rows")
        if same != name and seen.is_number and seen.cells >= MIN_ROWS:
            return RoleGuess(role=None, reason=f"it has the values of {same}")
        return guess

    def _behaviour(self, name: str, seen: _ColumnSummary) -> Behaviour | None:
        """How a column changes, with its influences."""
        driven, drives = self._influences.get(name, (None, None))
        return seen.behaviour and replace(seen.behaviour, driven=driven, drives=drives)

    def _add_signal(self, name: str, seen: _ColumnSummary, same: str) -> None:
        """Infers the signal in a column."""
        guess = self._guess(name, seen, same)
        role = guess.role or Role.OBSERVATION
        doubts: list[str] = []
        if seen.is_number:
            dtype = np.dtype(np.float64) if seen.units and seen.dtype.kind in "iu" else seen.dtype
            signal, doubts = infer_signal(name, role, [replace(summary, dtype=dtype) for summary in seen.summaries])
        else:
            texts = tuple(sorted(seen.texts))
            signal = Signal(name=name, role=role, kind=Kind.DISCRETE, shape=(), num_values=len(texts), components=texts)
        if role is Role.EXOGENOUS:
            doubts = [ASSUMED_EXOGENOUS, *doubts]
        if seen.texts and seen.is_number:
            doubts.append("some of its cells are not numbers; their episodes are left out.")
        if len(seen.units) > 1:
            doubts.append(f"its headers have several units ({', '.join(seen.units)}); the first one is used.")
        if signal.kind is Kind.VECTOR:
            signal = replace(signal, unit=seen.unit or signal.unit)
        self._draft.add_guess(signal, guess, seen.summaries, doubts, self._behaviour(name, seen))

    def _note_gaps(self, schema: Schema) -> None:
        if unknown := [signal.name for signal in schema.signals if signal.unit == "?"]:
            self._draft.note(f"The logs have no units for {', '.join(unknown)}: set to '?'.")
        if schema.step_s is None:
            self._draft.note("The step duration is not in the logs (no column is named time): step_s is left empty.")
        if not schema.actions:
            self._draft.note(NO_ACTION)

    def _compare_units(self, used: Mapping[str, Signal]) -> None:
        """Notes headers whose unit differs from the schema; the values are not converted."""
        for name, signal in used.items():
            for unit in self._seen[name].units:
                if signal.unit not in ("?", unit):
                    self._draft.note(
                        f"{name}: its header has the unit {unit}, the schema {signal.unit}; not converted."
                    )

    def _stale(self, used: Mapping[str, Signal]) -> frozenset[str]:
        """Finds columns of measurements that update less often than other columns."""
        periods: dict[str, int] = {}
        for name, signal in used.items():
            seen = self._seen[name]
            is_sensor = signal.role is Role.OBSERVATION and seen.is_float and not may_be_actuator(name, seen.unit)
            others = (other for key, other in self._seen.items() if key in used and key != name)
            if is_sensor and any(other.is_busy for other in others):
                period = refresh_period(seen.changes)
                if period is not None and len(np.unique(np.concatenate(seen.samples))) >= MIN_LEVELS:
                    periods[name] = period
        # A signal is missing as a whole, so all its components must be slow.
        slow = {name for name in periods if all(key in periods for key in used if used[key] is used[name])}
        for name in sorted(slow):
            how = f"it changes only every {periods[name]} rows, other columns in every row"
            self._draft.note(f"{name}: {how}; its repeats are marked as not observed.")
        return frozenset(slow)


def _is_fact(seen: _ColumnSummary) -> bool:
    return bool(seen.texts) and seen.is_fact and not seen.is_number


def _look_at_texts(seen: _ColumnSummary, column: Column, episodes: Sequence[NDArray[np.intp]]) -> None:
    """Adds a column of a table."""
    known = column.values[~column.missing]
    numbers, bad = as_numbers(column)
    good = numbers[~bad & ~column.missing]
    seen.cells += len(known)
    seen.numbers += len(good)
    if len(good):
        seen.summaries.append(summarise(good))
    seen.texts |= set(map(str, known))
    seen.content.update(repr((column.name, len(known))).encode())  # texts are never compared with other columns
    for rows in episodes:
        cells = column.values[rows]
        seen.is_fact &= bool((cells == cells[:1]).all())


def _look_at_numbers(seen: _ColumnSummary, column: Column, episodes: Sequence[NDArray[np.intp]]) -> None:
    """Adds a column of a table."""
    known = column.values[~column.missing].astype(np.float64)
    seen.content.update(known.tobytes() + column.missing.tobytes())
    seen.cells += len(known)
    seen.numbers += len(known)
    seen.summaries.append(replace(summarise(known), dtype=column.values.dtype))
    seen.is_fact = False
    for rows in episodes if column.values.ndim == 1 else ():
        if seen.num_sampled >= MAX_SAMPLED_ROWS:
            break
        values, missing = column.values[rows].astype(np.float64), column.missing[rows]
        seen.samples.append(values[~missing])
        seen.num_sampled += len(rows)
        seen.changes.append(np.flatnonzero(~missing & ~repeats(values, missing))[1:])


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
    label: str | None = ""
    times: NDArray[np.float64] | None = None
    piece: int | None = None


def split(table: ColumnTable, times: Times | None, reading: ReadOptions) -> list[EpisodeRows]:
    """Splits a table by its column of episodes, else by gaps in time, else into one episode.

    Args:
        table: of one file.
        times: of its rows.
        reading: the user's options; an explicit gap also splits the episodes of a column.

    Raises:
        DataError: the requested column of episodes does not exist.
    """
    name = episode_name(table.columns, reading.episode)
    if name is not None and name not in table.columns:
        problem = f"the table has no column of episodes {name!r}; its columns are {', '.join(table.columns)}"
        raise DataError(problem, fix="Name one of them.", file=table.file)
    groups = _by_label(table.columns[name]) if name is not None else [("", np.arange(table.num_rows))]
    if times is not None and (name is None or reading.gap_s is not None):
        groups = [(label, part) for label, rows in groups for part in _by_gap(rows, times.seconds, reading.gap_s)]
    pieces = [(label, rows, piece) for label, whole in groups for piece, rows in _cut(whole, reading.max_steps)]
    return [
        EpisodeRows(
            table=table,
            number=number,
            rows=rows,
            label=label,
            times=times.seconds[rows] if times is not None else None,
            piece=piece,
        )
        for number, (label, rows, piece) in enumerate(pieces)
    ]


def _cut(rows: NDArray[np.intp], max_steps: int | None) -> list[tuple[int | None, NDArray[np.intp]]]:
    """Numbered pieces that share their end rows, so that no step is lost; a short recording stays whole."""
    if max_steps is None or len(rows) - 1 <= max_steps:
        return [(None, rows)]
    firsts = range(0, len(rows) - 1, max_steps)
    return [(number, rows[first : first + max_steps + 1]) for number, first in enumerate(firsts)]


def _by_label(column: Column) -> list[tuple[str | None, NDArray[np.intp]]]:
    """Groups rows by value, in order of first appearance."""
    labels = [None if missing else str(v) for v, missing in zip(column.values.tolist(), column.missing, strict=True)]
    rows: dict[str | None, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return [(label, np.array(rows_of_label, np.intp)) for label, rows_of_label in rows.items()]


def _by_gap(rows: NDArray[np.intp], seconds: NDArray[np.float64], gap_s: float | None) -> Iterator[NDArray[np.intp]]:
    steps = np.diff(seconds[rows])
    forward = steps[steps > 0]
    if gap_s is None:
        gap_s = USUAL_GAPS * float(np.median(forward)) if len(forward) else np.inf
    yield from np.split(rows, np.flatnonzero(steps > gap_s) + 1)
