"""Importer of CSV and Parquet tables: each row holds the observations at its time and the action chosen then.

A file may hold several episodes, separated by a column or by gaps in time. A `schema.json` next to the files describes
the columns: a signal takes the column of its name, or one column per entry of `components`. Without it every numeric
column becomes a signal, and its role follows from its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np

from worldline.data.base import PIECE, LoggedEpisode, Logs, ReadOptions, schema_beside, sidecar
from worldline.data.checks import Finding, warning
from worldline.data.formats.decoding import clips_in
from worldline.data.formats.raw_episode import RawEpisode
from worldline.data.formats.reading import Metadata, unread
from worldline.data.formats.tables.columns import ColumnTable, read_table, tables_in
from worldline.data.formats.tables.episode_arrays import build
from worldline.data.formats.tables.layout import EpisodeRows, ReadTable, Survey, layout_of, open_table, scan_tables
from worldline.data.formats.tables.timestamps import Times
from worldline.errors import DataError
from worldline.schema import Schema, Signal

LEROBOT_FILE = "meta/info.json"
"""A folder with this file is a LeRobot dataset, not a folder of tables."""


class TableLogs(Logs):
    """A folder of CSV and Parquet files in natural order of their names, or a single file.

    Args:
        survey: of the files, each with one or more episodes.
        schema: of the logs; None to infer it.
        reading: the user's options.
        read: reads a file.
        cameras: image signals, for an inferred schema.
        step_s: seconds per step, for an inferred schema if the rows have no times.
        exact: whether the table is an export, with its schema: nothing in it is assumed.
    """

    def __init__(
        self,
        survey: Survey,
        schema: Schema | None,
        reading: ReadOptions,
        read: ReadTable = read_table,
        *,
        cameras: Sequence[Signal] = (),
        step_s: float | None = None,
        exact: bool = False,
    ) -> None:
        step_s = step_s if survey.step_s is None else survey.step_s
        step_s = step_s if reading.rate_hz is None else 1 / reading.rate_hz
        layout = layout_of(survey, schema, step_s, cameras, exact=exact)
        dropped = "The action in the last row of an episode has no following observation and is dropped."
        assumed = [] if exact else [*survey.assumptions, *layout.unclear, dropped]
        if reading.rate_hz is not None:
            assumed.append(f"All signals were resampled to {reading.rate_hz} Hz: values are held, rewards summed.")
        super().__init__(layout.schema, assumed)
        self.columns = layout.columns
        self._survey, self._layout, self._reading, self._open_file, self._exact = survey, layout, reading, read, exact

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is a CSV or Parquet file, or a folder with one and without videos or images."""
        is_other = path.is_dir() and ((path / LEROBOT_FILE).is_file() or clips_in(path))
        return not is_other and bool(tables_in(path))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> TableLogs:
        """Opens the logs; scans all tables once."""
        if not (files := tables_in(path)):
            raise DataError("there are no tables at this path", fix="Give CSV or Parquet files.", file=path)
        beside = schema_beside(path)
        exact = beside is not None and sidecar(path).is_file()
        logs = TableLogs(scan_tables(files, reading, read_table), schema or beside, reading, exact=exact)
        logs.unclear = (*logs.unclear, *unread(path, files, "not tables"))
        return logs

    def with_schema(self, schema: Schema) -> TableLogs | None:
        """The same tables with another schema, from the first pass over them."""
        return TableLogs(self._survey, schema, self._reading, self._open_file, exact=self._exact)

    def __len__(self) -> int:
        return sum(map(len, self._survey.labels.values()))

    def read(self) -> Iterator[LoggedEpisode]:
        """Yields the episodes of all tables."""
        numbers = count()
        for file in self._survey.labels:
            for draft in self._drafts(file):
                yield draft.logged(self.schema, file.name, next(numbers))

    def parts(self) -> Sequence[TableLogs]:
        """Each file alone."""
        parts = [copy(self) for _ in self._survey.labels]
        for part, (file, labels) in zip(parts, self._survey.labels.items(), strict=True):
            part._survey = replace(self._survey, labels={file: labels}, blocks=[])
        return parts

    def _drafts(self, file: Path) -> Iterator[RawEpisode]:
        """Yields the arrays of each episode in a table, or an error in their place."""
        try:
            table, times, pieces = open_table(file, self._reading, self._open_file)
        except DataError as error:
            yield failed(error, file.name)
            return
        of_table = [*table.findings, *self._left_out(table)]
        for piece, draft in zip(pieces, self._built(file, pieces, times), strict=True):
            if draft is not None:
                draft.source = self._source_of(piece, times)
                draft.findings = of_table + draft.findings
                of_table = []  # those of the table are reported once, with its first episode
                yield draft

    def _built(self, _file: Path, pieces: Sequence[EpisodeRows], _times: Times | None) -> Iterator[RawEpisode | None]:
        """Yields the arrays of each episode in a table; None if it is not part of the logs."""
        for piece in pieces:
            try:
                yield build(piece, self._layout, self._reading)
            except DataError as error:
                yield RawEpisode(findings=[Finding.of(error)])

    def _left_out(self, table: ColumnTable) -> Iterator[Finding]:
        """Yields a warning for each column of a table that is neither known nor reported."""
        known = self._layout.known | {column.name for column in self.columns}
        for name, column in table.columns.items():
            if name not in known:
                what = "has no values" if column.is_empty else f"holds {'texts' if column.is_text else 'values'}"
                problem = f"the column is not in the schema and is left out (it {what})"
                yield warning(problem=problem, fix="Add a signal of this name to schema.json to keep it.", signal=name)

    def _source_of(self, piece: EpisodeRows, times: Times | None) -> Metadata:
        """Returns what a store keeps with an episode: file, number, label, piece, start time and constant columns.

        In an export, the columns `file`, `label` and `piece` are those of the exported episodes.
        """
        source: Metadata = {"file": piece.table.file.name, "episode": piece.number}
        source |= {"label": piece.label} if piece.label else {}
        source |= {PIECE: piece.piece} if piece.piece is not None else {}
        if times is not None and piece.times is not None and len(piece.times) and np.isfinite(piece.times[0]):
            source["start_s"] = times.start_s + float(piece.times[0])
        for name in sorted(self._layout.facts & piece.table.columns.keys()):
            column = piece.table.columns[name]
            if (self._exact or column.is_text) and len(piece.rows) and not column.missing[piece.rows[0]]:
                value = column.values[piece.rows[:1]].tolist()[0]
                source[f"column.{name}" if name in source and not self._exact else name] = value
        return source


def failed(error: DataError, file: str) -> RawEpisode:
    """Returns the draft of an episode in a file that cannot be read."""
    return RawEpisode(findings=[Finding.of(error)], source={"file": file, "episode": 0})
