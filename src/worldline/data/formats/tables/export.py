"""Exporters of CSV and Parquet tables: one row per observation, with the action that is chosen then.

A table has the columns `episode` and `time`, and one per component of a signal, with its unit in the header. It has
end flags and seeds if the defaults of the importer differ, and the properties of the episodes that a table can hold. A
missing value is an empty cell; so is an action in the last row of an episode. The schema is written next to the table,
as `FILE.schema.json`. With it, an import gives the same episodes. Dates are in UTC, with microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.config import to_json
from worldline.data.base import sidecar
from worldline.data.checks import arrays_of
from worldline.data.draft_folder import drafted
from worldline.data.formats.reading import duplicate
from worldline.data.formats.tables.columns import name_and_unit
from worldline.data.formats.tables.timestamps import EPOCHS, TIME_NAMES
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import InputError, MissingExtraError
from worldline.schema import Kind, Role, Signal

if TYPE_CHECKING:
    import pandas as pd

_BATCH_ROWS: Final = 1 << 16
_EPISODE, _TIME, _SEED, _START = "episode", "time", "seed", "start_s"


def export_csv(store: Store, destination: Path) -> None:
    """Writes the store as a CSV file, and its schema next to it.

    Args:
        store: to write.
        destination: a new file.

    Raises:
        InputError: a file exists, or a table cannot hold the store: it has images, no episode, a name that the
            importer would read in another way, or step durations for a part of the episodes only.
    """
    with _drafts(store, destination) as draft:
        for number, frame in enumerate(_frames(store)):
            frame.to_csv(draft, mode="a", header=not number, index=False)


def export_parquet(store: Store, destination: Path) -> None:
    """Like `export_csv`, as a Parquet file.

    Raises:
        MissingExtraError: the package pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "tables") from error
    with _drafts(store, destination) as draft:
        tables = (pa.Table.from_pandas(frame, preserve_index=False) for frame in _frames(store))
        first = next(tables)
        with parquet.ParquetWriter(draft, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table)


@contextmanager
def _drafts(store: Store, destination: Path) -> Iterator[Path]:
    """Yields the draft of the table, and writes the schema."""
    images = [signal.name for signal in store.schema.signals if signal.kind is Kind.IMAGE]
    if images:
        fix = f"Export to HDF5 or LeRobot, or leave them out first: worldline schema {store.path} {images[0]}=ignore"
        raise InputError(f"{destination}: a table holds no images, but the store has {', '.join(images)}. {fix}")
    if not len(store):
        raise InputError(f"{store.path} has no episode. Import or record logs first.")
    with drafted(destination) as draft, drafted(sidecar(destination)) as schema:
        yield draft
        schema.write_text(to_json(store.schema), encoding="utf-8")


def _frames(store: Store) -> Iterator[pd.DataFrame]:
    """Yields the rows of many episodes at a time."""
    import pandas as pd

    table, batch_of = _Table(store), np.cumsum(store.num_steps + 1) // _BATCH_ROWS
    for _, numbers in groupby(range(len(store)), key=batch_of.tolist().__getitem__):
        yield pd.concat([pd.DataFrame(table.cells(number)) for number in numbers], ignore_index=True)


class _Table:
    """The columns of a table, derived from the schema and the metadata of all episodes."""

    def __init__(self, store: Store) -> None:
        import pandas as pd

        self.store, schema, entries = store, store.schema, list(store.entries())
        self.has_times = schema.step_s is not None or store.has_step_s()
        starts = (entry.source.get(_START) for entry in entries)
        known_s = [start_s for start_s in starts if isinstance(start_s, int | float)]
        self.has_starts = self.has_times and len(known_s) == len(entries)
        self.is_dated = self.has_starts and min(known_s) >= EPOCHS[0][0]
        written = {"terminated": [entry.terminated for entry in entries]}
        written |= {"truncated": [entry.truncated == entry.terminated for entry in entries]}
        written |= {_SEED: [entry.seed is not None for entry in entries]}
        self.extras = [name for name, is_needed in written.items() if any(is_needed)]

        self.headers = {signal.name: tuple(_headers(signal)) for signal in schema.signals}
        taken = {_EPISODE, _TIME, *written, *(() if self.has_times else TIME_NAMES)}
        names = [name_and_unit(header)[0] for headers in self.headers.values() for header in headers]
        if wrong := duplicate(names) or next((name for name in names if name.lower() in taken), None):
            raise InputError(f"signal {wrong!r}: a table has another column of this name. Rename the signal.")
        taken |= {*names, *self.headers, *({_START} if self.has_starts else ())}
        sources = pd.DataFrame([dict(entry.source) for entry in entries]).convert_dtypes()
        kept = [key for key in sorted(sources) if key not in taken and name_and_unit(key) == (key, None)]
        self.properties = sources[kept].select_dtypes(exclude="object")
        """[episodes] of one type, with missing values."""

    def cells(self, number: int) -> dict[str, Any]:
        """The columns of an episode."""
        import pandas as pd

        episode, schema = self.store.verify(number), self.store.schema
        rows = episode.num_steps + 1
        cells: dict[str, Any] = {_EPISODE: np.full(rows, number)}
        if self.has_times:
            start_s = float(self.store.entry(number).source[_START]) if self.has_starts else 0.0
            times = _times(episode, schema.step_s, number)
            dates = np.datetime64(round(start_s * 1e6), "us") + np.round(times * 1e6).astype("timedelta64[us]")
            cells |= {_TIME: dates} if self.is_dated else {f"{_TIME} [s]": start_s + times}
        for signal in schema.signals:
            cells |= dict(zip(self.headers[signal.name], _components(episode, signal), strict=True))
        for name in self.extras:
            value = getattr(episode, name)
            ends = np.arange(rows) == (rows - 1 if value else -1)
            cells[name] = pd.array([value] * rows if name == _SEED else ends.astype(int), dtype="Int64")
        row = self.properties.iloc[[number] * rows].reset_index(drop=True)
        return cells | {key: row[key] for key in row}


def _headers(signal: Signal) -> Iterator[str]:
    """Yields the header of each component: its name, and the unit in brackets if an importer finds it there."""
    parts = signal.components or tuple(map(str, range(signal.size)))
    is_single = signal.kind is Kind.DISCRETE or signal.size == 1
    for name in [signal.name] if is_single else [f"{signal.name}.{part}" for part in parts]:
        forms = [name] if signal.unit in ("1", "?") else [f"{name} [{signal.unit}]", name]
        header = next((form for form in forms if name_and_unit(form) in ((name, signal.unit), (name, None))), None)
        if header is None:
            read, unit = name_and_unit(name)
            raise InputError(f"signal {name!r}: a table would read it as {read!r} in {unit!r}. Rename the signal.")
        yield header


def _times(episode: Episode, step_s: float | None, number: int) -> NDArray[np.float64]:
    """Seconds since the first row, [T+1]."""
    if episode.step_s is None and step_s is None:
        fix = "Set it: worldline schema STORE step_s=SECONDS"
        raise InputError(f"episode {number} has no step duration, but other episodes have one. {fix}")
    steps = np.full(episode.num_steps, step_s) if episode.step_s is None else episode.step_s.astype(np.float64)
    return np.concatenate([np.zeros(1), np.cumsum(steps)])


def _components(episode: Episode, signal: Signal) -> Iterator[Any]:
    """Yields the cells of each component, [T+1]; missing values are empty, and so is the last row of an input."""
    import pandas as pd

    values, rows = arrays_of(episode, signal.role)[signal.name], episode.num_steps + 1
    known = episode.mask(signal.name) if signal.role is Role.OBSERVATION else np.arange(rows) < episode.num_steps
    if signal.kind is Kind.DISCRETE:
        yield pd.arrays.IntegerArray(np.resize(values, rows), ~known)
        return
    table = np.full((rows, math.prod(signal.shape)), np.nan, values.dtype)
    table[known] = values[known[: len(values)]]
    yield from table.T
