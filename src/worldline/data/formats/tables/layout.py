"""The first pass over tables: their episodes, and the meaning of their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data import influence
from worldline.data.base import ReadOptions
from worldline.data.formats.reading import FLAGS, FOREIGN_ENDS, readable
from worldline.data.formats.tables.columns import Column, ColumnTable, as_numbers
from worldline.data.formats.tables.timestamps import Times, read_times, time_names
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
USUAL_GAPS = 10
"""Without a column of episodes, a gap of more usual steps than this ends an episode."""
MANY_EPISODES = 1000
"""A table with more episodes than this is refused if most of them have a single row."""
MAX_SHORT = 5000
"""A table with more episodes of less than `MIN_ROWS` rows on average is refused unless the user named what separates
them: each episode takes milliseconds."""
MAX_TEXTS = 32
"""A column with more different texts than this is not a discrete signal."""
MIN_ROWS, MIN_COUNT, MIN_LEVELS = 10, 20, 6
"""A column with fewer values is not left out as constant, not as a counter; with fewer levels it is no slow sensor."""
BLOCK_ROWS = 500
"""Rows of the blocks from which influences between columns follow."""
MAX_SAMPLED_ROWS = 200_000
"""Rows of a column from which its behaviour follows."""
MIN_GAPS, MIN_REGULAR, MIN_BITS = 5, 0.9, 8.0
"""Of a slow sensor: number of gaps between its changes, share of multiples of its period, and improbability [bits]."""
_MOSTLY_NUMBERS, _BUSY = 0.9, 0.8

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
    codes, labels = _labels(table, name)
    order = np.argsort(codes, kind="stable")
    is_first = np.diff(codes[order], prepend=-1) != 0
    if times is not None and (name is None or reading.gap_s is not None):
        steps = np.diff(times.seconds[order], prepend=np.nan)
        forward = steps[steps > 0]
        usual_gap = USUAL_GAPS * float(np.median(forward)) if len(forward) else np.inf
        is_first |= steps > (usual_gap if reading.gap_s is None else reading.gap_s)
    starts = np.flatnonzero(is_first)
    num_single = int((np.diff(starts, append=len(order)) == 1).sum())
    if len(starts) > MANY_EPISODES and 2 * num_single > len(starts):
        problem = f"{num_single} of the {len(starts)} episodes have a single row, and an episode needs two"
        fix = "Name the column that separates episodes (--episode), or give a larger gap in time (--gap-s)."
        raise DataError(problem, fix=fix, file=file, signal=name)
    is_guess = reading.episode is None and reading.gap_s is None
    if is_guess and len(starts) > MAX_SHORT and len(order) < MIN_ROWS * len(starts):
        problem = f"the table has {len(starts)} episodes of {len(order) / len(starts):.2g} rows on average"
        why = f"column {name!r}" if name else "gaps in time"
        fix = f"They follow from {why}. If this is right, name the column (--episode) or the gap (--gap-s)."
        raise DataError(problem, fix=fix, file=file, signal=name)
    pieces = list[EpisodeRows]()
    for whole in np.split(order, starts[1:]):
        firsts = range(0, max(len(whole) - 1, 1), reading.max_steps or max(len(whole), 1))
        for piece, first in enumerate(firsts):  # pieces share their end rows, so that no step is lost
            rows = whole[first : first + reading.max_steps + 1] if reading.max_steps else whole
            episode = EpisodeRows(
                table=table,
                number=len(pieces),
                rows=rows,
                label=labels[codes[rows[0]]] if len(rows) else "",
                times=times.seconds[rows] if times is not None else None,
                piece=piece if len(firsts) > 1 else None,
            )
            pieces.append(episode)
    return table, times, pieces


def episode_name(columns: Iterable[str], requested: str | None) -> str | None:
    """Returns the column of episodes: the requested one, or else one with a name in `EPISODE_NAMES`."""
    by_word = {name.lower(): name for name in columns}
    return requested or next((by_word[word] for word in EPISODE_NAMES if word in by_word), None)


def _labels(table: ColumnTable, name: str | None) -> tuple[NDArray[np.intp], list[str | None]]:
    """The number of each row's episode, in order of first appearance, and their labels; None for missing cells."""
    import pandas as pd

    codes = np.zeros(table.num_rows, np.intp)
    if name is None:
        return codes, [""]
    if (column := table.columns.get(name)) is None:
        problem = f"the table has no column of episodes {name!r}; its columns are {', '.join(table.columns)}"
        raise DataError(problem, fix="Name one of them.", file=table.file)
    codes[~column.missing], values = pd.factorize(column.values[~column.missing])
    codes[column.missing] = len(values)
    codes, order = pd.factorize(codes)
    labels = [*map(str, values.tolist()), None]
    return codes, [labels[number] for number in order.tolist()]


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

    def add(self, column: Column, episodes: Sequence[NDArray[np.intp]]) -> None:
        """Adds a column of a table with the rows of its episodes."""
        self.files += 1
        self.units |= {column.unit: None} if column.unit is not None else {}
        if not (column.is_text or column.is_number):
            return
        known, dtype = column.values[~column.missing], column.values.dtype
        if column.is_text:
            numbers, bad = as_numbers(known, np.zeros(len(known), np.bool_))
            numbers, dtype = numbers[~bad], np.result_type(np.float64)
            self.texts |= set(known.tolist())
            cells = (column.values[rows] for rows in episodes)
            self.is_constant_text &= all(bool((texts == texts[:1]).all()) for texts in cells)
        else:
            numbers, self.is_constant_text = known.astype(np.float64), False
            self._sample(column, episodes)
        self.cells += len(known)
        self.numbers += len(numbers)
        self.summaries += [replace(summarise(numbers), dtype=dtype)] if len(numbers) else []

    def _sample(self, column: Column, episodes: Sequence[NDArray[np.intp]]) -> None:
        num_rows = sum(map(len, self.samples))
        for rows in episodes if column.values.ndim == 1 else ():
            if num_rows < MAX_SAMPLED_ROWS:
                self.samples.append(np.where(column.missing[rows], np.nan, column.values[rows].astype(np.float64)))
                num_rows += len(rows)

    @property
    def is_number(self) -> bool:
        """Whether nearly all cells are numbers."""
        return self.cells > 0 and self.numbers >= _MOSTLY_NUMBERS * self.cells

    @property
    def is_fact(self) -> bool:
        """Whether it holds texts that are constant within each episode."""
        return bool(self.texts) and self.is_constant_text and not self.is_number

    @property
    def unit(self) -> str | None:
        """The first unit in its headers."""
        return next(iter(self.units), None)

    @cached_property
    def behaviour(self) -> Behaviour | None:
        """How it changes; None for lists and texts."""
        return behaviour_of([sample[~np.isnan(sample)] for sample in self.samples]) if self.samples else None

    @property
    def is_busy(self) -> bool:
        """Whether it changes in most rows."""
        changes = self.behaviour
        return changes is not None and 0 < _BUSY * changes.num_steps <= changes.num_changes

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

    @property
    def refresh_period(self) -> int | None:
        """Rows between two readings, if it holds floating-point numbers of a slow sensor; else None."""
        is_float = self.samples and all(summary.dtype.kind == "f" for summary in self.summaries)
        levels = np.unique(np.concatenate(self.samples)) if is_float else np.zeros(0)
        return refresh_period(self.samples) if np.isfinite(levels).sum() >= MIN_LEVELS else None


def repeats(values: NDArray[np.number], missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns a mask [rows] of rows that repeat the previous known value."""
    known = np.flatnonzero(~missing)
    repeated, table = np.zeros(len(values), np.bool_), values[known].astype(np.float64)
    repeated[known[1:]] = table[1:] == table[:-1]
    return repeated


def refresh_period(episodes: Sequence[NDArray[np.float64]]) -> int | None:
    """Returns the number of rows between two readings of a slow sensor; None if the signal is not clearly one.

    Nearly all changes must lie on a common period of at least two rows. Chance may explain this with a probability of
    at most 1 in 256.

    Args:
        episodes: [rows] values of each episode; NaN for a missing one.
    """
    changes = [np.flatnonzero(~np.isnan(values) & ~repeats(values, np.isnan(values)))[1:] for values in episodes]
    gaps = np.concatenate([np.diff(rows) for rows in changes] or [np.zeros(0, np.intp)])
    if len(gaps) < MIN_GAPS:
        return None
    period = int(np.bincount(gaps).argmax())  # the most frequent gap; two equal readings in a row make longer ones
    is_clear = (gaps % period == 0).mean() >= MIN_REGULAR and len(gaps) * np.log2(period) >= MIN_BITS
    return period if period >= 2 and is_clear else None


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
        if times is not None:
            self.assumptions[times.assumption] = None
        if by is not None and reading.episode is None:
            self.assumptions[f"{by}: used as the column of episodes."] = None
        elif by is None and len(pieces) > 1:
            gap = "ten usual steps" if reading.gap_s is None else f"{reading.gap_s} s"
            self.assumptions[f"Episodes end at gaps in time of more than {gap}."] = None
        for name, column in table.columns.items():
            self.seen.setdefault(name, ColumnSummary()).add(column, episodes)
        gaps = np.concatenate([np.diff(piece.times) for piece in pieces if piece.times is not None] or [np.zeros(0)])
        self.steps += [float(np.median(gaps[gaps > 0]))] if (gaps > 0).any() else []
        self._sample(table.columns, episodes)

    def _sample(self, columns: Mapping[str, Column], episodes: Sequence[NDArray[np.intp]]) -> None:
        """Keeps rows from all parts of a table."""
        numbers = {name: c for name, c in columns.items() if c.is_number and c.values.ndim == 1}
        numbers = {name: c for name, c in numbers.items() if name not in self.reserved}
        wanted = influence.MAX_ROWS - sum(len(next(iter(block.values()))) for block in self.blocks)
        if wanted > 0 and numbers:
            parts = [part for rows in episodes for part in np.array_split(rows, -(-len(rows) // BLOCK_ROWS))]
            for rows in parts[:: max(1, sum(map(len, parts)) // wanted)]:
                self.blocks.append({n: np.where(c.missing[rows], np.nan, c.values[rows]) for n, c in numbers.items()})


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


def parts_of(signal: Signal, columns: Iterable[str]) -> tuple[str, ...]:
    """Returns the columns of a signal, in order; empty if one is missing.

    A signal with components takes the columns `signal.component`, `signal_component` or `component`. A signal without
    components takes the column of its name, or the columns `signal.0`, `signal_0` or `signal[0]` and so on.

    Args:
        signal: of a schema.
        columns: names of the existing columns.
    """
    known = set(columns)
    own = (signal.name,) if signal.name in known and signal.kind is not Kind.IMAGE else ()
    if signal.kind is not Kind.VECTOR or (own and len(signal.components) <= 1):
        return own
    parts = signal.components or tuple(map(str, range(signal.shape[0])))
    forms = ["{0}.{1}", "{0}_{1}", "{1}" if signal.components else "{0}[{1}]"]
    named = [[name for form in forms if (name := form.format(signal.name, part)) in known] for part in parts]
    return tuple(names[0] for names in named) if parts and all(named) else own


def layout_of(
    survey: Survey, schema: Schema | None, step_s: float | None, cameras: Sequence[Signal] = (), *, exact: bool = False
) -> TableLayout:
    """Returns the layout of the tables.

    Args:
        survey: of the tables.
        schema: given by the user; None to infer it.
        step_s: seconds per step, for an inferred schema.
        cameras: image signals, for an inferred schema.
        exact: whether the schema is that of an export: all other columns are facts, and no repeats are missing.
    """
    draft, seen, unnamed = SchemaDraft(unclear=()), survey.seen, set[str]()
    if schema is None:
        unnamed = {*survey.more_times, *(name for name in seen if name.lower() in FOREIGN_ENDS)}
        schema = _inferred(survey, draft, step_s, cameras)
    used = {name: signal for signal in schema.signals for name in parts_of(signal, seen)}
    for name, signal in used.items() if not draft.columns else ():
        for unit in seen[name].units.keys() - {signal.unit} if signal.unit != "?" else ():
            draft.note(f"{name}: its header has the unit {unit}, the schema {signal.unit}; not converted.")
    own = {*used, *survey.reserved, *FLAGS, "seed", *unnamed}
    facts = {name for name in seen if name not in own and (exact or seen[name].is_fact)}
    discrete = {name: signal.components for name, signal in used.items() if signal.kind is Kind.DISCRETE}
    codes = {name: known or tuple(sorted(seen[name].texts)) for name, known in discrete.items() if seen[name].texts}
    for name, known in codes.items():
        draft.note(f"{name}: its texts were encoded: {', '.join(f'{t} = {i}' for i, t in enumerate(known))}.")
    periods = {} if exact else _slow(survey, used)
    for name, period in sorted(periods.items()):
        how = f"it changes only every {period} rows, other columns in every row"
        draft.note(f"{name}: {how}; its repeats are marked as not observed.")
    return TableLayout(
        schema=schema,
        codes=codes,
        stale=frozenset(periods),
        facts=frozenset(facts),
        known=frozenset(own | facts),
        unclear=tuple(draft.unclear),
        columns=tuple(draft.columns),
    )


def _inferred(survey: Survey, draft: SchemaDraft, step_s: float | None, cameras: Sequence[Signal]) -> Schema:
    """Infers the schema from the columns."""
    for camera in cameras:
        survey.reserved[camera.name] = "a camera"
        draft.add_guess(camera, RoleGuess(role=Role.OBSERVATION, reason="it is a camera"))
    influences = influence.influences(survey.blocks)
    for name, seen in survey.seen.items():
        if (reason := _not_a_signal(survey, name, seen)) is not None:
            draft.leave_out(name, reason, is_noted=name not in survey.reserved and not seen.is_fact)
            continue
        driven, drives = influences.get(name, (None, None))
        behaviour = seen.behaviour and replace(seen.behaviour, driven=driven, drives=drives)
        _add_signal(draft, name, seen, behaviour)
    schema, _ = draft.result(step_s)
    if unknown := [signal.name for signal in schema.signals if signal.unit == "?"]:
        draft.note(f"The logs have no units for {', '.join(unknown)}: set to '?'.")
    if schema.step_s is None:
        draft.note("The step duration is not in the logs (no column is named time): step_s is left empty.")
    draft.note(*([] if schema.actions else [NO_ACTION]))
    return schema


def _not_a_signal(survey: Survey, name: str, seen: ColumnSummary) -> str | None:
    """Returns why a column cannot be a signal; None if it can."""
    is_choice = not seen.is_fact and 1 < len(seen.texts) <= MAX_TEXTS
    reasons = {
        f"it gives {survey.reserved.get(name)}": name in survey.reserved,
        "it looks like another column of times": name in survey.more_times,
        "it looks like an end flag; log `terminated` and `truncated` instead": name.lower() in FOREIGN_ENDS,
        "it gives the end or the seed of an episode": name.lower() in (*FLAGS, "seed"),
        "it has no values": not seen.cells,
        f"only {seen.files} of {survey.num_tables} files have it": is_rare(seen.files, survey.num_tables),
        "it is a fact about each episode": seen.is_fact,
        _texts(seen): not seen.is_number and not is_choice,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _texts(seen: ColumnSummary) -> str:
    return f"it holds {len(seen.texts)} different texts, such as {min(seen.texts, default='')!r}"


def _guess(name: str, seen: ColumnSummary, behaviour: Behaviour | None) -> RoleGuess:
    """Guesses the role of a column."""
    guess, reason = guess_role(name, seen.unit, behaviour), ""
    if guess.role in (Role.REWARD, None):
        return guess
    if not seen.is_number and not (guess.role is Role.ACTION and guess.sure):
        reason = f"{_texts(seen)}; give it a role to use it as a discrete signal"
    elif seen.is_constant:
        value = next(summary.low[0] for summary in seen.summaries if summary.low)
        reason = f"it never changes (always {value:g})"
    elif guess.role is not Role.ACTION and seen.is_counter:
        reason = "it counts the rows"
    return RoleGuess(role=None, reason=reason) if reason else guess


def _add_signal(draft: SchemaDraft, name: str, seen: ColumnSummary, behaviour: Behaviour | None) -> None:
    """Infers the signal in a column."""
    guess = _guess(name, seen, behaviour)
    role, doubts = guess.role or Role.OBSERVATION, list[str]()
    if seen.is_number:
        dtype = np.result_type(*(summary.dtype for summary in seen.summaries))
        dtype = np.dtype(np.float64) if seen.texts or (seen.units and dtype.kind in "iu") else dtype
        signal, doubts = infer_signal(name, role, [replace(summary, dtype=dtype) for summary in seen.summaries])
    else:
        texts = tuple(sorted(seen.texts))
        signal = Signal(name=name, role=role, kind=Kind.DISCRETE, shape=(), num_values=len(texts), components=texts)
    doubts = [ASSUMED_EXOGENOUS, *doubts] if role is Role.EXOGENOUS else doubts
    if seen.texts and seen.is_number:
        doubts.append("some of its cells are not numbers; their episodes are left out.")
    if len(seen.units) > 1:
        doubts.append(f"its headers have several units ({', '.join(seen.units)}); the first one is used.")
    if signal.kind is Kind.VECTOR:
        signal = replace(signal, unit=seen.unit or signal.unit)
    draft.add_guess(signal, guess, seen.summaries, doubts, behaviour)


def _slow(survey: Survey, used: Mapping[str, Signal]) -> dict[str, int]:
    """Finds columns of measurements that update less often than other columns, with their periods in rows."""
    periods, busy = dict[str, int](), [name for name in used if survey.seen[name].is_busy]
    for name, signal in used.items():
        seen = survey.seen[name]
        is_sensor = signal.role is Role.OBSERVATION and not may_be_actuator(name, seen.unit)
        if is_sensor and busy not in ([], [name]) and (period := seen.refresh_period) is not None:
            periods[name] = period
    # A signal is missing as a whole, so all its components must be slow.
    return {name: n for name, n in periods.items() if all(key in periods for key in used if used[key] is used[name])}
