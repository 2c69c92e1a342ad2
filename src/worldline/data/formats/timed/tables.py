"""Logs as tables: CSV or Parquet files of rows, each with what was observed at its time and the action chosen then.

A file may hold one episode or many, told apart by a column or by gaps in time. A `schema.json` beside the files says
what the columns are: a signal takes the column of its name, or with `components` a column for each of them. Without it
every column of numbers is a signal, whose role follows from its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worldline.data.base import LoggedEpisode, Logs, ReadOptions, schema_beside
from worldline.data.checks import Finding, Severity
from worldline.data.conversion import steps_s, to_episode
from worldline.data.formats.timed.columns import ColumnTable, read_table, tables_in
from worldline.data.formats.timed.episode_arrays import Built, build
from worldline.data.formats.timed.episode_rows import EpisodeRows, split
from worldline.data.formats.timed.frame_sources import has_pictures
from worldline.data.formats.timed.layout import Survey, TableLayout, episode_name
from worldline.data.formats.timed.timestamps import Times, read_times
from worldline.data.store import SCHEMA_FILE, Source
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema

LEROBOT_FILE = "meta/info.json"
"""A folder with this file is no plain folder of tables, whatever else lies in it."""


class TableLogs(Logs):
    """A folder of CSV and Parquet files in the order of their names, or a single one.

    Args:
        files: with one or more episodes each.
        scan: what is known of them.
        layout: of every file.
        reading: as the user gave it.
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
        """Whether it is a CSV or Parquet file, or a folder with one in it and neither videos nor pictures."""
        if path.is_dir() and ((path / LEROBOT_FILE).is_file() or has_pictures(path)):
            return False
        return bool(tables_in(path))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> TableLogs:
        """See `Logs`."""
        files = tables_in(path)
        if not files:
            raise DataError("there is no table here", fix="Give CSV or Parquet files.", file=path)
        schema = schema or schema_beside(path)
        scan = scan_tables(files, reading)
        layout = scan.survey.layout(schema, scan.step_s)
        if not layout.schema.observations:
            fix = "Write numbers into columns, or a schema.json that says which columns are observed."
            raise DataError("no column of the tables is an observation", fix=fix, file=path)
        unclear = [*scan.said, *layout.unclear, *resampling_said(layout.schema, reading)]
        unclear.append("The action in the last row of an episode leads to no row and is dropped.")
        if path.is_dir():
            aside = sorted(p.name for p in path.iterdir() if p not in files and p.name != SCHEMA_FILE)
            unclear += [f"Not read, because they are no tables: {', '.join(aside)}."] if aside else []
        return cls(files, scan, layout, reading, unclear)

    def __len__(self) -> int:
        return sum(map(len, self._scan.labels))

    def read(self) -> Iterator[LoggedEpisode]:
        """See `Logs`."""
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
            aside = [*table.findings, *left_out(table, self._layout)]
            for piece in pieces:
                built = build(piece, self._layout, self._reading, number)
                findings = (*(replace(finding, episode=number) for finding in aside), *built.findings)
                source = source_of(piece, self._layout, times)
                yield logged(built, self._layout.schema, file.name, number, findings, source)
                number, aside = number + 1, []


def open_table(file: Path, reading: ReadOptions) -> tuple[ColumnTable, Times | None, list[EpisodeRows]]:
    """A table, its times and its episodes.

    Raises:
        DataError: it cannot be read, or lacks the columns that the user named.
    """
    table = read_table(file)
    times = read_times(table, reading.time)
    return table, times, split(table, times, reading)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a first look at all tables tells.

    Args:
        survey: of their columns.
        labels: of the episodes to be tried of each file; one None where it cannot be read.
        step_s: usual seconds from row to row, or those of the rate that was asked for; None without times.
        said: what was assumed about times and episodes, in full sentences.
    """

    survey: Survey
    labels: tuple[tuple[str | None, ...], ...]
    step_s: float | None
    said: tuple[str, ...]


def scan_tables(files: Sequence[Path], reading: ReadOptions) -> Scan:
    """What a first look at all tables tells; those that cannot be read are left for later.

    Raises:
        DataError: not one can be read.
    """
    survey = Survey()
    labels: list[tuple[str | None, ...]] = []
    steps: list[float] = []
    said: dict[str, None] = {}
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
        said |= dict.fromkeys(_said(times, pieces, by, reading))
        gaps = [np.diff(piece.times) for piece in pieces if piece.times is not None]
        forward = np.concatenate([gap[gap > 0] for gap in gaps] or [np.zeros(0)])
        steps += [float(np.median(forward))] if len(forward) else []
    if failure is not None and not survey.num_tables:
        raise failure
    usual = float(f"{np.median(steps):.9g}") if steps else None  # clocks leave rounding errors behind
    step_s = 1 / reading.rate_hz if reading.rate_hz is not None else usual
    return Scan(survey=survey, labels=tuple(labels), step_s=step_s, said=tuple(said))


def _said(times: Times | None, pieces: Sequence[EpisodeRows], by: str | None, reading: ReadOptions) -> Iterator[str]:
    """What was assumed about the times and episodes of a table."""
    if times is not None:
        yield times.said
    if by is not None and reading.episode is None:
        yield f"{by}: taken as what tells episodes apart."
    elif by is None and len(pieces) > 1:
        yield "Gaps in time end an episode: those of more than " + (
            "ten usual steps." if reading.gap_s is None else f"{reading.gap_s} s."
        )


def resampling_said(schema: Schema, reading: ReadOptions) -> Iterator[str]:
    """What bringing everything to one rate does, in full sentences; nothing where no rate was asked for.

    Args:
        schema: of the logs.
        reading: as the user gave it.
    """
    if reading.rate_hz is None:
        return
    yield f"Everything was brought to {reading.rate_hz} Hz by the rule {reading.rule!r}, missing inputs too."
    held = [s.name for s in schema.signals if s.kind is not Kind.VECTOR and s.role is not Role.REWARD]
    if reading.rule == "linear" and held:
        yield f"Between choices and pictures there is no line: {', '.join(held)} were held."
    if schema.of(Role.REWARD):
        yield f"{', '.join(s.name for s in schema.of(Role.REWARD))}: summed over each step."


def left_out(table: ColumnTable, layout: TableLayout) -> list[Finding]:
    """A warning for each column of a table that is used for nothing.

    Args:
        table: of one file.
        layout: of the logs.
    """
    found = []
    for name, column in table.columns.items():
        if name not in layout.known:
            what = "has no value" if column.is_empty else f"holds {'texts' if column.is_text else 'values'}"
            problem = f"the column is not part of the schema and is left out (it {what})"
            fix = "Add a signal of this name to schema.json to keep it."
            finding = Finding(problem=problem, fix=fix, severity=Severity.WARNING, file=table.file.name, signal=name)
            found.append(finding)
    return found


def source_of(piece: EpisodeRows, layout: TableLayout, times: Times | None) -> dict[str, str | int | float]:
    """What is kept beside an episode: its place, its label, when it began, its facts, and what its numbers stand for.

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
    """The attempt to read an episode: the episode itself only where no finding is an error.

    Args:
        built: its arrays.
        schema: of the logs.
        file: where it lies.
        number: in the logs.
        findings: all of them.
        source: kept beside it.
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
    """The error as a finding of an episode.

    Args:
        error: with its place.
        file: in which the episode lies.
        number: of the episode in the logs.
    """
    return Finding(
        problem=error.problem, fix=error.fix, file=file, episode=number, signal=error.signal, step=error.step
    )
