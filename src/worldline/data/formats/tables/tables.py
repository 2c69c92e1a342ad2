"""Importer of CSV and Parquet tables: each row holds the observations at its time and the action chosen then.

A file may hold several episodes, separated by a column or by gaps in time. A `schema.json` next to the files describes
the columns: a signal takes the column of its name, or one column per entry of `components`. Without it every numeric
column becomes a signal, and its role follows from its name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np

from worldline.data.base import PIECE, LoggedEpisode, Logs, ReadOptions, schema_beside, sidecar
from worldline.data.checks import Finding, warning
from worldline.data.formats.reading import EpisodeDraft, Metadata, readable, unread
from worldline.data.formats.tables.columns import ColumnTable, read_table, tables_in
from worldline.data.formats.tables.episode_arrays import build
from worldline.data.formats.tables.layout import EpisodeRows, Survey, TableLayout, episode_name, split
from worldline.data.formats.tables.matching import has_pictures
from worldline.data.formats.tables.timestamps import Times, read_times
from worldline.errors import DataError
from worldline.schema import Schema, Signal

LEROBOT_FILE = "meta/info.json"
"""A folder with this file is a LeRobot dataset, not a folder of tables."""

ReadTable = Callable[[Path], ColumnTable]


class TableLogs(Logs):
    """A folder of CSV and Parquet files in natural order of their names, or a single file.

    Args:
        files: paths, or names that `read` knows, each with one or more episodes.
        scan: the first pass over all of them.
        schema: of the logs; None to infer it.
        reading: the user's options.
        read: reads a file.
        cameras: image signals, for an inferred schema.
        step_s: seconds per step, for an inferred schema if the rows have no times.
        exact: whether the table is an export, with its schema: nothing in it is assumed.
    """

    def __init__(
        self,
        files: Sequence[Path],
        scan: Scan,
        schema: Schema | None,
        reading: ReadOptions,
        read: ReadTable = read_table,
        *,
        cameras: Sequence[Signal] = (),
        step_s: float | None = None,
        exact: bool = False,
    ) -> None:
        step_s = step_s if scan.step_s is None else scan.step_s
        layout = scan.survey.layout(schema, step_s, cameras, exact=exact)
        dropped = "The action in the last row of an episode has no following observation and is dropped."
        assumed = [] if exact else [*scan.assumptions, *layout.unclear, dropped]
        super().__init__(layout.schema, [*assumed, *resampling_notes(reading)])
        self.columns = layout.columns
        self._files, self._scan, self._layout, self._reading = tuple(files), scan, layout, reading
        self._open_file, self._exact = read, exact

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is a CSV or Parquet file, or a folder with one and without videos or images."""
        if path.is_dir() and ((path / LEROBOT_FILE).is_file() or has_pictures(path)):
            return False
        return bool(tables_in(path))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> TableLogs:
        """Opens the logs; scans all tables once."""
        if not (files := tables_in(path)):
            raise DataError("there are no tables at this path", fix="Give CSV or Parquet files.", file=path)
        beside = schema_beside(path)
        exact = beside is not None and sidecar(path).is_file()
        logs = TableLogs(files, scan_tables(files, reading), schema or beside, reading, exact=exact)
        logs.unclear = (*logs.unclear, *unread(path, files, "not tables"))
        return logs

    def with_schema(self, schema: Schema) -> TableLogs | None:
        """The same tables with another schema, from the first pass over them."""
        return TableLogs(self._files, self._scan, schema, self._reading, self._open_file, exact=self._exact)

    def __len__(self) -> int:
        return sum(map(len, self._scan.labels))

    def read(self) -> Iterator[LoggedEpisode]:
        """Yields the episodes of all tables."""
        numbers = count()
        for file in self._files:
            yield from self._read_table(file, numbers)

    def _read_table(self, file: Path, numbers: Iterator[int]) -> Iterator[LoggedEpisode]:
        """Yields the episodes of a table."""
        try:
            table, times, pieces = open_table(file, self._reading, self._open_file)
        except DataError as error:
            yield from self._without_table(file, error, numbers)
            return
        reported = {column.name for column in self.columns}
        of_table = [*table.findings, *_left_out(table, self._layout.known | reported)]
        for piece, draft in self._drafts(file, pieces, times):
            draft.source = _source_of(piece, self._layout, times, exact=self._exact)
            draft.findings = of_table + draft.findings
            of_table = []  # those of the table are reported once, with its first episode
            yield draft.logged(self.schema, file.name, next(numbers))

    def _without_table(self, file: Path, error: DataError, numbers: Iterator[int]) -> Iterator[LoggedEpisode]:
        """Yields an error in the place of the episodes of an unreadable table."""
        yield failed(Finding.of(error, file=file.name), next(numbers))

    def _drafts(
        self, _file: Path, pieces: Sequence[EpisodeRows], _times: Times | None
    ) -> Iterator[tuple[EpisodeRows, EpisodeDraft]]:
        """Yields the rows and the arrays of each episode in a table."""
        for piece in pieces:
            yield piece, build(piece, self._layout, self._reading)


def failed(finding: Finding, number: int) -> LoggedEpisode:
    """Returns an episode that cannot be read.

    Args:
        finding: the reason, with the file.
        number: of the episode in the logs.
    """
    file = finding.file or ""
    source: Metadata = {"file": file, "episode": 0}
    findings = (replace(finding, episode=number),)
    return LoggedEpisode(file=file, number=number, episode=None, findings=findings, source=source)


def open_table(
    file: Path, reading: ReadOptions, read: ReadTable
) -> tuple[ColumnTable, Times | None, list[EpisodeRows]]:
    """Reads a table, its times and its episodes.

    Raises:
        DataError: it cannot be read, or lacks a column that the user named.
    """
    table = read(file)
    times = read_times(table, reading.time)
    return table, times, split(table, times, reading)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The result of a first pass over all tables.

    Args:
        survey: of their columns.
        labels: of the episodes of each file; a single None for an unreadable file.
        step_s: usual seconds between rows, or those of the requested rate; None without times.
        assumptions: about times and episodes, in full sentences.
    """

    survey: Survey
    labels: tuple[tuple[str | None, ...], ...]
    step_s: float | None
    assumptions: tuple[str, ...]


def scan_tables(files: Sequence[Path], reading: ReadOptions, read: ReadTable = read_table) -> Scan:
    """Scans all tables; `TableLogs.read` reports the unreadable ones.

    Raises:
        DataError: no table can be read.
    """
    survey = Survey()
    steps: list[float] = []
    assumptions: dict[str, None] = {}
    labels: dict[Path, tuple[str | None, ...]] = dict.fromkeys(files, (None,))
    opened = readable(files, lambda file: open_table(file, reading, read), what="tables", file=files[0].parent)
    for file, (table, times, pieces) in opened:
        labels[file] = tuple(piece.label for piece in pieces)
        by = episode_name(table.columns, reading.episode)
        reserved = ({by: "the episodes"} if by else {}) | ({times.name: "the times"} if times else {})
        survey.add(table.columns, [piece.rows for piece in pieces], reserved)
        assumptions |= dict.fromkeys(_assumptions(times, pieces, by, reading))
        gaps = [np.diff(piece.times) for piece in pieces if piece.times is not None]
        forward = np.concatenate([gap[gap > 0] for gap in gaps] or [np.zeros(0)])
        steps += [float(np.median(forward))] if len(forward) else []
    usual = float(f"{np.median(steps):.9g}") if steps else None  # removes rounding errors of the times
    step_s = 1 / reading.rate_hz if reading.rate_hz is not None else usual
    return Scan(survey=survey, labels=tuple(labels.values()), step_s=step_s, assumptions=tuple(assumptions))


def _assumptions(
    times: Times | None, pieces: Sequence[EpisodeRows], by: str | None, reading: ReadOptions
) -> Iterator[str]:
    """Yields what was assumed about the times and episodes of a table."""
    if times is not None:
        yield times.assumption
    if by is not None and reading.episode is None:
        yield f"{by}: used as the column of episodes."
    elif by is None and len(pieces) > 1:
        gap = "ten usual steps" if reading.gap_s is None else f"{reading.gap_s} s"
        yield f"Episodes end at gaps in time of more than {gap}."


def resampling_notes(reading: ReadOptions) -> list[str]:
    """Returns a sentence about the effects of resampling, if there is a rate."""
    if reading.rate_hz is None:
        return []
    how = "rewards are summed; discrete values and images are held, whatever the rule"
    return [f"All signals were resampled to {reading.rate_hz} Hz with the rule {reading.rule!r}: {how}."]


def _left_out(table: ColumnTable, known: Collection[str]) -> Iterator[Finding]:
    """Yields a warning for each column of a table that is not known."""
    for name, column in table.columns.items():
        if name not in known:
            what = "has no values" if column.is_empty else f"holds {'texts' if column.is_text else 'values'}"
            problem = f"the column is not in the schema and is left out (it {what})"
            yield warning(problem=problem, fix="Add a signal of this name to schema.json to keep it.", signal=name)


def _source_of(piece: EpisodeRows, layout: TableLayout, times: Times | None, *, exact: bool) -> Metadata:
    """Returns what a store keeps with an episode: file, number, label, piece, start time and constant columns.

    In an export, the columns `file`, `label` and `piece` are those of the exported episodes.
    """
    source: Metadata = {"file": piece.table.file.name, "episode": piece.number}
    if piece.label:
        source["label"] = piece.label
    if piece.piece is not None:
        source[PIECE] = piece.piece
    if times is not None and piece.times is not None and len(piece.times) and np.isfinite(piece.times[0]):
        source["start_s"] = times.start_s + float(piece.times[0])
    for name in sorted(layout.facts & piece.table.columns.keys()):
        column = piece.table.columns[name]
        if (exact or column.is_text) and len(piece.rows) and not column.missing[piece.rows[0]]:
            value = column.values[piece.rows[:1]].tolist()[0]
            source[f"column.{name}" if name in source and not exact else name] = value
    return source
