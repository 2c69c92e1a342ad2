"""Logs as videos, or folders of pictures, beside tables of actions.

    run_01.mp4, run_01.csv                      one episode, its signal is called camera
    run_01.front.mp4, run_01.side.mp4           two cameras of one episode, front and side
    run_01/0000.png, run_01/0001.png, ...       pictures in natural order instead of a video
    log.csv with a column episode               one table for all, whose episodes are called run_01 and so on

A row takes the frame that its column `frame` names (from 0), or else the last frame shown at or before its time, or
else, where there are as many rows as frames, the one in its place. A row whose frame is missing is marked so; no
frame is made up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from worldline.data.base import LoggedEpisode, Logs, ReadOptions, schema_beside
from worldline.data.checks import Finding
from worldline.data.formats.timed.columns import tables_in
from worldline.data.formats.timed.episode_arrays import Built
from worldline.data.formats.timed.episode_rows import EpisodeRows
from worldline.data.formats.timed.frame_sources import VIDEO_SUFFIXES, clips_in, open_clip
from worldline.data.formats.timed.layout import TableLayout
from worldline.data.formats.timed.matching import FRAME_NAMES, FrameRows, build_with_pictures
from worldline.data.formats.timed.tables import (
    LEROBOT_FILE,
    Scan,
    left_out,
    logged,
    open_table,
    resampling_said,
    scan_tables,
    source_of,
    unreadable,
)
from worldline.data.formats.timed.timestamps import Times
from worldline.data.store import SCHEMA_FILE, Source
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

CAMERA = "camera"
"""The signal of an only camera."""

Recordings = Mapping[str, Mapping[str, Path]]
"""By the name that tables call it: per camera a video file or a folder of pictures."""


@dataclass(frozen=True, kw_only=True)
class _RecordingPlan:
    """Which rows tell of which recording.

    Args:
        recordings: that are to be read.
        tables: that may tell of them.
        names: by table and label of an episode the recording, None where there is none. Others are passed over.
        num_episodes: that will be tried.
    """

    recordings: Recordings
    tables: tuple[Path, ...]
    names: Mapping[tuple[Path, str | None], str | None]
    num_episodes: int


class VideoLogs(Logs):
    """A folder of videos (or sub-folders of pictures) and tables, or a single video and its table.

    Args:
        plan: what is to be read.
        layout: of every table, cameras included.
        reading: as the user gave it.
        unclear: see `Logs`.
    """

    def __init__(self, plan: _RecordingPlan, layout: TableLayout, reading: ReadOptions, unclear: Sequence[str]) -> None:
        super().__init__(layout.schema, unclear)
        self._plan, self._layout, self._reading = plan, layout, reading

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether it is a video file, or a folder with one in it, or with sub-folders of pictures and a table."""
        if path.is_file():
            return path.suffix.lower() in VIDEO_SUFFIXES
        clips = clips_in(path) if not (path / LEROBOT_FILE).is_file() else []
        return any(clip.is_file() for clip in clips) or (bool(clips) and bool(tables_in(path)))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> VideoLogs:
        """See `Logs`."""
        folder = path.parent if path.is_file() else path
        clips, tables = clips_in(folder), tables_in(folder)
        if not clips or not tables:
            lacks = "table of actions" if clips else "video or folder of pictures"
            raise DataError(f"there is no {lacks} here", fix="Put videos and their tables into one folder.", file=path)
        schema = schema or schema_beside(path)
        scan = scan_tables(tables, reading)
        plan = _plan(clips, tables, scan, only=path if path.is_file() else None)
        plan, unused = _usual_cameras(plan) if schema is None else _cameras_of(schema, plan)
        scan.survey.reserve(FRAME_NAMES)
        told = [clips for name, clips in plan.recordings.items() if name in plan.names.values()]
        look = _look(told or plan.recordings.values()) if schema is None else _Look(cameras=(), step_s=None)
        layout = scan.survey.layout(schema, scan.step_s if scan.step_s is not None else look.step_s, look.cameras)
        unclear = [*scan.said, _MATCHING, *unused, *layout.unclear, *resampling_said(layout.schema, reading)]
        if path.is_dir():
            used = {*tables, *clips, path / SCHEMA_FILE}
            aside = sorted(p.name for p in path.iterdir() if p not in used and path not in used)
            unclear += [f"Not read, because they are neither videos nor tables: {', '.join(aside)}."] if aside else []
        return cls(plan, layout, reading, unclear)

    def __len__(self) -> int:
        return self._plan.num_episodes

    def read(self) -> Iterator[LoggedEpisode]:
        """See `Logs`."""
        number = 0
        for file in self._plan.tables:
            for episode in self._read_table(file, number):
                yield episode
                number += 1
        for name in _without_rows(self._plan.recordings, self._plan.names):
            file_name = next(iter(self._plan.recordings[name].values())).name
            fix = "Give a table of the same name, or one table with a column of episodes that names it."
            problem = "no table tells the actions that were taken in this recording"
            yield _failed(Finding(problem=problem, fix=fix, file=file_name, episode=number))
            number += 1

    def _read_table(self, file: Path, number: int) -> Iterator[LoggedEpisode]:
        """The episodes of a table."""
        try:
            table, times, pieces = open_table(file, self._reading)
        except DataError as error:
            if (file, None) in self._plan.names:
                yield _failed(unreadable(error, file.name, number))
            return
        aside = [*table.findings, *left_out(table, self._layout)]
        for label, same in groupby(pieces, key=lambda piece: piece.label):
            if (file, label) not in self._plan.names:
                continue
            for piece, rows in _rows_of(list(same), times, number):
                name = self._plan.names[file, label]
                built = self._missing(label, file, number) if name is None else self._build(rows, name, number)
                findings = (*(replace(finding, episode=number) for finding in aside), *built.findings)
                source: Source = source_of(piece, self._layout, times)
                yield logged(built, self._layout.schema, file.name, number, findings, source)
                number, aside = number + 1, []

    def _build(self, rows: FrameRows, name: str, number: int) -> Built:
        return build_with_pictures(rows, self._plan.recordings[name], self._layout, self._reading, number)

    def _missing(self, label: str | None, file: Path, number: int) -> Built:
        """The episode of rows that no video belongs to."""
        called = f"called {label!r}" if label else "of these rows"
        problem = f"there is no video {called} (there are: {', '.join(self._plan.recordings)})"
        fix = "Call the video like the table, or like the episode in its column."
        return Built(times=None, findings=(Finding(problem=problem, fix=fix, file=file.name, episode=number),))


_MATCHING = (
    "Rows are matched to frames by a column `frame` that counts from 0, else by time, else in their order if there are "
    "as many of both. By time, a row takes the last frame shown at or before it, from at most one and a half frames "
    "ago; dates start at the first frame. A frame that is shown for several rows is marked as observed in the first."
)


def _failed(finding: Finding) -> LoggedEpisode:
    file, number = finding.file or "", finding.episode or 0
    source: Source = {"file": file, "episode": 0}
    return LoggedEpisode(file=file, number=number, episode=None, findings=(finding,), source=source)


def _rows_of(
    pieces: Sequence[EpisodeRows], times: Times | None, number: int
) -> Iterator[tuple[EpisodeRows, FrameRows]]:
    """The episodes of one recording, each with its place in it."""
    rows = np.concatenate([piece.rows for piece in pieces])
    first = 0
    for piece in pieces:
        yield (
            piece,
            FrameRows(
                piece=piece,
                places=np.arange(first, first + len(piece.rows)),
                num_rows=len(rows),
                start_s=float(times.seconds[rows[0]]) if times is not None and len(rows) else None,
                is_date=times is not None and times.is_date,
                found=partial(Finding, file=piece.table.file.name, episode=number),
            ),
        )
        first, number = first + len(piece.rows), number + 1


def _plan(clips: Sequence[Path], tables: Sequence[Path], scan: Scan, only: Path | None) -> _RecordingPlan:
    """Which rows tell of which recording.

    Args:
        clips: all that there are.
        tables: all that there are.
        scan: of the tables.
        only: the one video that is to be read; None for all.
    """
    found = [(table, label) for table, labels in zip(tables, scan.labels, strict=True) for label in labels]
    recordings = _recordings(clips, {*(table.stem for table in tables), *(label for _, label in found if label)})
    alone = len(recordings) == 1 and len(set(found)) == 1
    names = {key: next(iter(recordings)) if alone else _name(*key, recordings) for key in found}
    if only is not None:
        recordings = {name: cameras for name, cameras in recordings.items() if only in cameras.values()}
        names = {key: name for key, name in names.items() if name in recordings}
    num_episodes = sum(key in names for key in found) + len(_without_rows(recordings, names))
    return _RecordingPlan(recordings=recordings, tables=tuple(tables), names=names, num_episodes=num_episodes)


def _without_rows(recordings: Recordings, names: Mapping[tuple[Path, str | None], str | None]) -> list[str]:
    return [name for name in recordings if name not in names.values()]


def _recordings(clips: Sequence[Path], called: Iterable[str]) -> dict[str, dict[str, Path]]:
    """The clips by recording and camera.

    Args:
        clips: video files and folders.
        called: what tables call recordings.
    """
    called = set(called)
    stems = [clip.name if clip.is_dir() else clip.stem for clip in clips]
    heads = [stem.rpartition(".")[0] for stem in stems]
    recordings: dict[str, dict[str, Path]] = {}
    for clip, stem, head in zip(clips, stems, heads, strict=True):
        several = stem not in called and head and (head in called or heads.count(head) > 1)
        name, camera = (head, stem.rpartition(".")[2]) if several else (stem, CAMERA)
        cameras = recordings.setdefault(name, {})
        if camera in cameras:
            problem = f"{cameras[camera].name} and {clip.name} show the same recording"
            raise DataError(problem, fix="Remove one, or call them name.camera.mp4 each.", file=clip.parent)
        cameras[camera] = clip
    return recordings


def _name(table: Path, label: str | None, recordings: Recordings) -> str | None:
    """The recording that an episode of a table tells of: by the table's name, or by the episode's label or number."""
    for name in (table.stem, label):
        if name is not None and name in recordings:
            return name
    if label is None or not label.isdecimal():
        return None
    numbers = {name: re.search(r"(\d+)$", name) for name in recordings}
    same = [name for name, digits in numbers.items() if digits and int(digits[1]) == int(label)]
    return same[0] if len(same) == 1 else None


def _cameras_of(schema: Schema, plan: _RecordingPlan) -> tuple[_RecordingPlan, list[str]]:
    """The plan with the cameras that the schema has, and sentences about the others; an only camera takes its name."""
    images = [s.name for s in schema.signals if s.kind is Kind.IMAGE and s.role is Role.OBSERVATION]
    cameras = {camera: None for clips in plan.recordings.values() for camera in clips}
    if len(images) == 1 and list(cameras) == [CAMERA]:
        renamed = {name: dict(zip(images, clips.values(), strict=True)) for name, clips in plan.recordings.items()}
        return replace(plan, recordings=renamed), []
    if not cameras.keys() & set(images):
        problem = f"the schema has no image signal for any camera ({', '.join(cameras)})"
        raise DataError(problem, fix="Add an image signal of this name to schema.json.")
    said = [f"{camera}: the schema has no image signal of this name, so it is left out." for camera in cameras]
    kept = _only(plan, images)
    return kept, [sentence for camera, sentence in zip(cameras, said, strict=True) if camera not in images]


def _usual_cameras(plan: _RecordingPlan) -> tuple[_RecordingPlan, list[str]]:
    """The plan with the cameras that half of the recordings with rows have, and sentences about the others."""
    told = [clips for name, clips in plan.recordings.items() if name in plan.names.values()]
    counts = Counter(camera for clips in told for camera in clips)
    rare = [camera for camera, count in counts.items() if 2 * count < len(told)]
    if not told:
        return plan, []
    said = [f"{camera}: less than half of the recordings have this camera, so it is left out." for camera in rare]
    return _only(plan, [camera for camera in counts if camera not in rare]), said


def _only(plan: _RecordingPlan, cameras: Sequence[str]) -> _RecordingPlan:
    """The plan with these cameras in the recordings that have rows."""
    kept = {
        name: {camera: clip for camera, clip in clips.items() if camera in cameras or name not in plan.names.values()}
        for name, clips in plan.recordings.items()
    }
    return replace(plan, recordings=kept)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What the clips themselves tell.

    Args:
        cameras: a signal for each.
        step_s: usual seconds from frame to frame; None where there are only pictures.
    """

    cameras: tuple[Signal, ...]
    step_s: float | None


def _look(recordings: Iterable[Mapping[str, Path]]) -> _Look:
    """The first frame of each camera, from the first clip of it that can be read.

    Raises:
        DataError: of some camera none can be read.
    """
    found: dict[str, Signal] = {}
    step_s: float | None = None
    failures: dict[str, DataError] = {}
    for name, path in ((camera, path) for clips in recordings for camera, path in clips.items()):
        if name in found:
            continue
        try:
            clip = open_clip(path)
            picture = next(clip.between(0, 0))
        except DataError as error:
            failures.setdefault(name, error)
            continue
        found[name] = Signal(name=name, role=Role.OBSERVATION, kind=Kind.IMAGE, shape=picture.shape)
        if step_s is None and clip.times is not None and len(clip) > 1:
            step_s = float(f"{np.median(np.diff(clip.times)):.9g}")
    for name, failure in failures.items():
        if name not in found:
            raise failure
    return _Look(cameras=tuple(found.values()), step_s=step_s)
