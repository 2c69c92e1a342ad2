"""What the columns of some tables are: signals, times, episodes, flags, or facts about an episode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from worldline.data.formats.npz import FLAGS, FOREIGN_ENDS
from worldline.data.formats.timed.columns import Column, as_numbers
from worldline.data.formats.timed.resampling import Changes, changes, refresh_period
from worldline.data.formats.timed.timestamps import time_names
from worldline.data.infer import Summary, infer_signal, role_of_column, role_of_input
from worldline.schema import Kind, Role, Schema, Signal

EPISODE_NAMES: tuple[str, ...] = (
    *("episode", "episode_id", "episode_index", "episode_idx", "episode_number", "ep", "run", "run_id"),
    *("trial", "trial_id", "trajectory", "trajectory_id", "traj", "demo", "batch", "batch_id"),
    *("session", "session_id"),
)
MAX_TEXTS = 32
"""A column with more different texts than that is no choice."""

_MOSTLY_NUMBERS = 0.9
_BUSY = 0.8


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """What every table of some logs holds.

    Args:
        schema: the signals; those that no column has are missing in every episode.
        codes: per column of texts the texts in the order of their numbers.
        stale: columns that repeat their values between two readings.
        facts: columns of texts that are the same in a whole episode.
        known: columns that are part of a signal, or are used otherwise; the others are left out.
        unclear: what had to be assumed, in full sentences.
    """

    schema: Schema
    codes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    facts: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    unclear: tuple[str, ...] = ()


def parts_of(signal: Signal, columns: Iterable[str]) -> tuple[str, ...]:
    """The columns that make up a signal, in order; none where one of them is not there.

    A signal with components takes the columns `signal.component`, `signal_component` or `component`; one without takes
    the column of its name, or `signal.0`, `signal_0` or `signal[0]` and so on.

    Args:
        signal: of a schema.
        columns: the names that there are.
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


def episode_name(columns: Iterable[str], asked: str | None) -> str | None:
    """The column that tells episodes apart: the one that was asked for, or else one that is called so."""
    if asked is not None:
        return asked
    by_word = {name.lower(): name for name in columns}
    return next((by_word[word] for word in EPISODE_NAMES if word in by_word), None)


@dataclass(kw_only=True)
class _ColumnSummary:
    """What is known of one column of all tables so far."""

    files: int = 0
    cells: int = 0
    numbers: int = 0
    texts: set[str] = field(default_factory=set)
    is_fact: bool = True
    units: dict[str, None] = field(default_factory=dict)
    summaries: list[Summary] = field(default_factory=list)
    episodes: list[Changes] | None = field(default_factory=list)
    steps: int = 0
    moves: int = 0

    @property
    def is_number(self) -> bool:
        return self.cells > 0 and self.numbers >= _MOSTLY_NUMBERS * self.cells

    @property
    def dtype(self) -> np.dtype[np.generic]:
        kinds = [summary.dtype for summary in self.summaries]
        return np.result_type(np.float64 if self.numbers and self.texts else kinds[0], *kinds)

    @property
    def is_busy(self) -> bool:
        return self.steps > 0 and self.moves >= _BUSY * self.steps


class Survey:
    """Looks at every table once, and then knows their layout."""

    def __init__(self) -> None:
        self.num_tables = 0
        self._reserved: set[str] = set()
        self._seen: dict[str, _ColumnSummary] = {}
        self._more_times: dict[str, None] = {}
        self._said: dict[str, None] = {}

    def reserve(self, names: Iterable[str]) -> None:
        """Takes columns of these names for something else than signals, unless the user's schema has them."""
        self._reserved.update(names)

    def add(self, columns: Mapping[str, Column], episodes: Sequence[NDArray[np.intp]], reserved: Iterable[str]) -> None:
        """Looks at one table.

        Args:
            columns: by name.
            episodes: the rows of each.
            reserved: names of columns that are no signals, such as that of the times.
        """
        self.num_tables += 1
        self._reserved.update(reserved)
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

    def layout(self, schema: Schema | None, step_s: float | None, cameras: Sequence[Signal] = ()) -> TableLayout:
        """What the tables hold.

        Args:
            schema: given by the user; None to infer it.
            step_s: seconds a step, for a schema that is inferred.
            cameras: signals that are no columns, for a schema that is inferred.
        """
        self._said = {}
        unnamed: set[str] = set()
        if schema is None:
            unnamed = {*self._more_times, *(name for name in self._seen if name.lower() in FOREIGN_ENDS)}
            schema = self._inferred(step_s, cameras)
            used = {name: signal for signal in schema.signals for name in parts_of(signal, self._seen)}
        else:
            used = {name: signal for signal in schema.signals for name in parts_of(signal, self._seen)}
            self._compare_units(used)
        own = {*used, *self._reserved, *FLAGS, "seed", *unnamed}
        facts = {name for name, seen in self._seen.items() if name not in own and _is_fact(seen)}
        chosen = {name: signal for name, signal in used.items() if signal.kind is Kind.DISCRETE}
        texts = {name: tuple(sorted(self._seen[name].texts)) for name in chosen}
        codes = {name: signal.components or texts[name] for name, signal in chosen.items() if texts[name]}
        for name, known in codes.items():
            self._say(f"{name}: its texts became numbers: {', '.join(f'{t} = {i}' for i, t in enumerate(known))}.")
        stale = self._stale(used)
        return TableLayout(
            schema=schema,
            codes=codes,
            stale=stale,
            facts=frozenset(facts),
            known=frozenset(own | facts),
            unclear=tuple(self._said),
        )

    def _inferred(self, step_s: float | None, cameras: Sequence[Signal]) -> Schema:
        """The schema that the columns suggest."""
        for name in self._more_times:
            self._say(f"{name}: looks like another column of times and is left out.")
        self.reserve(camera.name for camera in cameras)
        signals = [signal for name, seen in self._seen.items() if (signal := self._signal(name, seen))]
        signals = sorted([*cameras, *signals], key=lambda signal: list(Role).index(signal.role))
        schema = Schema(signals=tuple(signals), step_s=step_s)
        self._say_what_lacks(schema)
        return schema

    def _say(self, sentence: str) -> None:
        self._said[sentence] = None

    def _signal(self, name: str, seen: _ColumnSummary) -> Signal | None:
        """The signal in a column, where there is one."""
        word = name.lower()
        if word in FOREIGN_ENDS:
            self._say(f"{name}: looks like an end flag and is left out; log `terminated` and `truncated` instead.")
        if (
            name in self._reserved
            or name in self._more_times
            or word in (*FLAGS, *FOREIGN_ENDS, "seed")
            or 2 * seen.files < self.num_tables
        ):
            return None
        role = role_of_column(name)
        if seen.is_number:
            dtype = np.dtype(np.float64) if seen.units and seen.dtype.kind in "iu" else seen.dtype
            signal, doubts = infer_signal(name, role, [replace(summary, dtype=dtype) for summary in seen.summaries])
        elif not _is_fact(seen) and 1 < len(seen.texts) <= MAX_TEXTS:
            texts = tuple(sorted(seen.texts))
            signal = Signal(name=name, role=role, kind=Kind.DISCRETE, shape=(), num_values=len(texts), components=texts)
            doubts = []
        else:
            return None
        if role is not Role.OBSERVATION and (doubt := role_of_input(name)[1]):
            doubts = [doubt, *doubts]
        if seen.texts and seen.is_number:
            doubts.append("some of its cells are no numbers; their episodes are left out.")
        if len(seen.units) > 1:
            doubts.append(f"its header names several units ({', '.join(seen.units)}); the first is taken.")
        for doubt in doubts:
            self._say(f"{name}: {doubt}")
        unit = next(iter(seen.units), signal.unit)
        return replace(signal, unit=unit) if signal.kind is Kind.VECTOR else signal

    def _say_what_lacks(self, schema: Schema) -> None:
        nameless = [signal.name for signal in schema.signals if signal.unit == "?"]
        if nameless:
            self._say(f"Units are not in the logs of {', '.join(nameless)}: they are '?'. Write them into schema.json.")
        if schema.step_s is None:
            self._say("The time between two steps is not in the logs (no column is called time): step_s is left empty.")
        if not schema.actions:
            self._say("No column is called like an action: write a schema.json that gives the chosen ones this role.")

    def _compare_units(self, used: Mapping[str, Signal]) -> None:
        """Units of headers that are not those of the schema: the numbers are kept as they are."""
        for name, signal in used.items():
            for unit in self._seen[name].units:
                if signal.unit not in ("?", unit):
                    self._say(
                        f"{name}: its header says {unit}, the schema {signal.unit}. The numbers were not changed."
                    )

    def _stale(self, used: Mapping[str, Signal]) -> frozenset[str]:
        """Columns of observations that are refreshed more slowly than other signals are."""
        found: dict[str, float] = {}
        for name, signal in used.items():
            seen = self._seen[name]
            busy = any(other.is_busy for key, other in self._seen.items() if key in used and key != name)
            if signal.role is Role.OBSERVATION and signal.kind is Kind.VECTOR and seen.episodes and busy:
                period = refresh_period(seen.episodes)
                if period is not None:
                    found[name] = period
        for name in [name for name in found if any(used[name] is used[n] and n not in found for n in used)]:
            del found[name]
            self._say(f"{name}: it is slower than other components of {used[name].name}; make it a signal of its own.")
        for name, period in found.items():
            how = f"it changes only every {period:.3g} rows while others change in each"
            self._say(f"{name}: {how}; its repeats are marked as not observed.")
        return frozenset(found)


def _is_fact(seen: _ColumnSummary) -> bool:
    return bool(seen.texts) and seen.is_fact and not seen.is_number


def _look_at_texts(seen: _ColumnSummary, column: Column, episodes: Sequence[NDArray[np.intp]]) -> None:
    known = column.values[~column.missing]
    numbers, bad = as_numbers(column)
    good = numbers[~bad & ~column.missing]
    seen.cells += len(known)
    seen.numbers += len(good)
    if len(good):
        seen.summaries.append(Summary(shape=(len(good),), dtype=numbers.dtype, low=(good.min(),), high=(good.max(),)))
    seen.texts.update(map(str, known))
    for rows in episodes:
        cells = column.values[rows]
        seen.is_fact &= bool((cells == cells[:1]).all())
    seen.episodes = None


def _look_at_numbers(seen: _ColumnSummary, column: Column, episodes: Sequence[NDArray[np.intp]]) -> None:
    known = column.values[~column.missing].reshape(int((~column.missing).sum()), -1).astype(np.float64)
    seen.cells += len(known)
    seen.numbers += len(known)
    low, high = tuple(known.min(0).tolist()), tuple(known.max(0).tolist())
    shape = (len(known), *column.values.shape[1:])
    seen.summaries.append(Summary(shape=shape, dtype=column.values.dtype, low=low, high=high))
    seen.is_fact = False
    if column.values.ndim > 1:
        seen.episodes = None
        return
    for rows in episodes:
        moved = changes(column.values[rows].astype(np.float64), column.missing[rows])
        steps = max(int((~column.missing[rows]).sum()) - 1, 0)
        seen.steps, seen.moves = seen.steps + steps, seen.moves + len(moved.rows)
        # Integers count and switch; and what changes in most rows is not slower than they are.
        if column.values.dtype.kind != "f" or (steps > 20 and 4 * len(moved.rows) > 3 * steps):
            seen.episodes = None
        if seen.episodes is not None:
            seen.episodes.append(moved)
