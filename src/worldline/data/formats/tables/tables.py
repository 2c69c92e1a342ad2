"""Importer of CSV and Parquet tables: each row holds the observations at its time and the action chosen then.

A file may hold several episodes, separated by a column or by gaps in time. A `schema.json` next to the files describes
the columns: a signal takes the column of its name, or one column per entry of `components`. Without it every numeric
column becomes a signal, and its role follows from its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worldline.data.base import LoggedEpisode, Logs, ReadOptions, schema_beside
from worldline.data.checks import Finding, Severity
from worldline.data.conversion import steps_s, to_episode
from worldline.data.formats.tables.columns import ColumnTable, read_table, tables_in
from worldline.data.formats.tables.episode_arrays import Built, build
from worldline.data.formats.tables.episode_rows import EpisodeRows, split
from worldline.data.formats.tables.frame_sources import has_pictures
from worldline.data.formats.tables.layout import Survey, TableLayout, episode_name
from worldline.data.formats.tables.timestamps import Times, read_times
from worldline.data.store import SCHEMA_FILE, Source
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema

LEROBOT_FILE = "meta/info.json"
"""A folder with this file is a LeRobot dataset, not a folder of tables."""


class TableLogs(Logs):
    """A folder of CSV and Parquet files in natural order of their names, or a single file.

    Args:
        files: each with one or more episodes.
        scan: result of `scan_tables`.
        layout: of every file.
        reading: the user's options.
        unclear: see `Logs`.
    """

    def __init__(
        self, files: Sequence[Path], scan: Scan, layout: TableLayout, reading: ReadOptions, unclear: Sequence[str]
    ) -> None:
        self._files, self._scan, self._layout = tuple(files), scan, layout
        super().__init__(layout.schema, unclear)
        self._reading = reading

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is a CSV or Parquet file, or a folder with one and without videos or images."""
        if path.is_dir() and ((path / LEROBOT_FILE).is_file() or has_pictures(path)):
            return False
        return bool(tables_in(path))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> TableLogs:
        """Opens the logs; scans all tables once."""
        files = tables_in(path)
        if not files:
            raise DataError("there are no tables at this path", fix="Give CSV or Parquet files.", file=path)
        schema = schema or schema_beside(path)
        scan = scan_tables(files, reading)
        layout = scan.survey.layout(schema, scan.step_s)
        if not layout.schema.observations:
            fix = "Write numeric columns, or a schema.json that lists the observations."
            raise DataError("no column of the tables is an observation", fix=fix, file=path)
        unclear = [*scan.assumptions, *layout.unclear, *resampling_notes(layout.schema, reading)]
        unclear.append("The action in the last row of an episode has no following observation and is dropped.")
        if path.is_dir():
            others = sorted(p.name for p in path.iterdir() if p not in files and p.name != SCHEMA_FILE)
            unclear += [f"Not read, because they are not tables: {', '.join(others)}."] if others else []
        return cls(files, scan, layout, reading, unclear)

    def __len__(self) -> int:
        return sum(map(len, self._scan.labels))

    def read(self) -> Iterator[LoggedEpisode]:
        """Yields the episodes of all tables."""
        number = 0
        for file in self._files:
            try:
                table, times, pieces = open_table(file, self._reading)
            except DataError as error:
                finding = unreadable(error, file.name, number)
                source: Source = {"file": file.name, "episode": 0}
                yield LoggedEpisode(file=file.name, number=number, episode=None, findings=(finding,), source=source)
                number += 1
                continue
            file_findings = [*table.findings, *left_out(table, self._layout)]
            for piece in pieces:
                built = build(piece, self._layout, self._reading, number)
                findings = (*(replace(finding, episode=number) for finding in file_findings), *built.findings)
                source = source_of(piece, self._layout, times)
                yield logged(built, self._layout.schema, file.name, number, findings, source)
                number, file_findings = number + 1, []


def open_table(file: Path, reading: ReadOptions) -> tuple[ColumnTable, Times | None, list[EpisodeRows]]:
    """Reads a table, its times and its episodes.

    Raises:
        DataError: it cannot be read, or lacks a column that the user named.
    """
    table = read_table(file)
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


def scan_tables(files: Sequence[Path], reading: ReadOptions) -> Scan:
    """Scans all tables; `TableLogs.read` reports the unreadable ones.

    Raises:
        DataError: no table can be read.
    """
    survey = Survey()
    labels: list[tuple[str | None, ...]] = []
    steps: list[float] = []
    assumptions: dict[str, None] = {}
    failure: DataError | None = None
    for file in files:
        try:
            table, times, pieces = open_table(file, reading)
        except DataError as error:
            failure = failure or error
            labels.append((None,))
            continue
        labels.append(tuple(piece.label for piece in pieces))
        by = episode_name(table.columns, reading.episode)
        reserved = [name for name in (by, times.name if times else None) if name is not None]
        survey.add(table.columns, [piece.rows for piece in pieces], reserved)
        assumptions |= dict.fromkeys(_assumptions(times, pieces, by, reading))
        gaps = [np.diff(piece.times) for piece in pieces if piece.times is not None]
        forward = np.concatenate([gap[gap > 0] for gap in gaps] or [np.zeros(0)])
        steps += [float(np.median(forward))] if len(forward) else []
    if failure is not None and not survey.num_tables:
        raise failure
    usual = float(f"{np.median(steps):.9g}") if steps else None  # removes rounding errors of the times
    step_s = 1 / reading.rate_hz if reading.rate_hz is not None else usual
    return Scan(survey=survey, labels=tuple(labels), step_s=step_s, assumptions=tuple(assumptions))


def _assumptions(
    times: Times | None, pieces: Sequence[EpisodeRows], by: str | None, reading: ReadOptions
) -> Iterator[str]:
    """Yields what was assumed about the times and episodes of a table."""
    if times is not None:
        yield times.assumption
    if by is not None and reading.episode is None:
        yield f"{by}: used as the column of episodes."
    elif by is None and len(pieces) > 1:
        yield "Episodes end at gaps in time of more than " + (
            "ten usual steps." if reading.gap_s is None else f"{reading.gap_s} s."
        )


def resampling_notes(schema: Schema, reading: ReadOptions) -> Iterator[str]:
    """Yields sentences about the effects of resampling; none without a rate.

    Args:
        schema: of the logs.
        reading: the user's options.
    """
    if reading.rate_hz is None:
        return
    yield f"All signals were resampled to {reading.rate_hz} Hz with the rule {reading.rule!r}, missing inputs included."
    held = [s.name for s in schema.signals if s.kind is not Kind.VECTOR and s.role is not Role.REWARD]
    if reading.rule == "linear" and held:
        yield f"Discrete values and images cannot be interpolated: {', '.join(held)} were held."
    if schema.of(Role.REWARD):
        yield f"{', '.join(s.name for s in schema.of(Role.REWARD))}: summed within each step."


def left_out(table: ColumnTable, layout: TableLayout) -> list[Finding]:
    """Returns a warning for each unused column of a table.

    Args:
        table: of one file.
        layout: of the logs.
    """
    found = []
    for name, column in table.columns.items():
        if name not in layout.known:
            what = "has no values" if column.is_empty else f"holds {'texts' if column.is_text else 'values'}"
            problem = f"the column is not in the schema and is left out (it {what})"
            fix = "Add a signal of this name to schema.json to keep it."
            finding = Finding(problem=problem, fix=fix, severity=Severity.WARNING, file=table.file.name, signal=name)
            found.append(finding)
    return found


def source_of(piece: EpisodeRows, layout: TableLayout, times: Times | None) -> dict[str, str | int | float]:
    """Returns the metadata that a store keeps with an episode: file, number, label, start time and constant texts.

    Args:
        piece: its rows.
        layout: of the logs.
        times: of the table.
    """
    source: dict[str, str | int | float] = {"file": piece.table.file.name, "episode": piece.number}
    if piece.label:
        source["label"] = piece.label
    if times is not None and piece.times is not None and len(piece.times) and np.isfinite(piece.times[0]):
        source["start_s"] = times.start_s + float(piece.times[0])
    for name in sorted(layout.facts & piece.table.columns.keys()):
        column = piece.table.columns[name]
        if column.is_text and len(piece.rows) and not column.missing[piece.rows[0]]:
            source[f"column.{name}" if name in source else name] = str(column.values[piece.rows[0]])
    return source


def logged(
    built: Built, schema: Schema, file: str, number: int, findings: Sequence[Finding], source: Source
) -> LoggedEpisode:
    """Returns the logged episode; without its arrays if a finding is an error.

    Args:
        built: its arrays.
        schema: of the logs.
        file: its file.
        number: in the logs.
        findings: all findings.
        source: its metadata.
    """
    episode = None
    if not any(finding.severity is Severity.ERROR for finding in findings):
        episode = to_episode(
            built.arrays,
            schema,
            observed=built.observed,
            terminated=built.terminated,
            truncated=built.truncated,
            seed=built.seed,
            step_s=steps_s(built.times, schema.step_s) if built.times is not None else None,
        )
    return LoggedEpisode(file=file, number=number, episode=episode, findings=tuple(findings), source=source)


def unreadable(error: DataError, file: str, number: int) -> Finding:
    """Converts an error to a finding of an episode.

    Args:
        error: the error.
        file: that contains the episode.
        number: of the episode in the logs.
    """
    return Finding(
        problem=error.problem, fix=error.fix, file=file, episode=number, signal=error.signal, step=error.step
    )
